//! Accepting connections, and parting from them without dropping a request.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use common::http::serve_on;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::limits::{GATEWAY_BACKLOG, GATEWAY_DRAIN, GATEWAY_FAREWELL};

/// Listens with a queue that holds a few thousand clients who come at once.
///
/// # Errors
/// What the operating system says.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted gateway wants its port back although connections of the one before still linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(GATEWAY_BACKLOG)
}

/// Serves until `asked` ends, then parts in three steps: the door closes (new clients are refused, so they know that nothing was
/// sent); for a moment open connections are still answered, each answer being the last on its connection; then what is idle is
/// closed and what runs may finish, until the deadline. Whether all finished.
pub async fn serve(listener: TcpListener, app: Router, head_limit: Duration, asked: impl Future<Output = ()>) -> bool {
    let door = CancellationToken::new();
    let part = CancellationToken::new();
    let listener = Door { listener: Some(listener), last: None, closing: door.clone() };
    let server = tokio::spawn(serve_on(listener, app, head_limit, part.clone()));
    asked.await;
    door.cancel();
    tokio::time::sleep(GATEWAY_FAREWELL).await;
    part.cancel();
    tokio::time::timeout(GATEWAY_DRAIN, server).await.is_ok()
}

/// A listener that can close while the connections it accepted live on.
struct Door {
    listener: Option<TcpListener>,
    /// The same, once it is closing.
    last: Option<std::net::TcpListener>,
    closing: CancellationToken,
}

impl Door {
    /// Who stands in the queue while the door closes: the kernel would reset them, and the requests they may have sent with them. The
    /// runtime hears of a connection a little after the kernel has it, so the kernel itself is asked until it has no more.
    fn next_in_queue(&mut self) -> Option<(TcpStream, SocketAddr)> {
        if let Some(listener) = self.listener.take() {
            self.last = listener.into_std().ok();
        }
        loop {
            match self.last.as_ref()?.accept() {
                Ok((stream, address)) => {
                    if stream.set_nonblocking(true).is_ok()
                        && let Ok(stream) = TcpStream::from_std(stream)
                    {
                        return Some((stream, address));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.last = None,
            }
        }
    }
}

impl Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let next = match &mut self.listener {
            Some(listener) => tokio::select! {
                next = Listener::accept(listener) => Some(next),
                () = self.closing.cancelled() => self.next_in_queue(),
            },
            None => self.next_in_queue(),
        };
        match next {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match (&self.listener, &self.last) {
            (Some(listener), _) => listener.local_addr(),
            (None, Some(last)) => last.local_addr(),
            (None, None) => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }
}
