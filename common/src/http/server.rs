//! Serving HTTP: binding, the limits of a connection, and a drain.
//!
//! `axum::serve` has no limits of time and size, so connections are served by the library beneath it: a head must be there in time and
//! fit, answers must be taken, and there are so many connections at most. A stranger who sends one byte now and then, or does not read, holds one
//! connection for a while, and nothing else.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::limits::{MAX_CONNECTIONS, MAX_HEAD_BYTES};

/// Connections that may wait to be accepted: a few thousand clients may connect at once. The kernel cuts it to
/// `net.core.somaxconn`.
const LISTEN_BACKLOG: u32 = 16_384;

/// Binds an address for [`serve`].
///
/// # Errors
/// The operating system refuses the address.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted process takes its port back while connections of its predecessor are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Serves until `stop`, then finishes the requests in hand and returns. The head of a request must be there within `head_limit`
/// of the connection's beginning, or of the answer before; for so long an answer may wait until the client takes it.
pub async fn serve(listener: TcpListener, router: Router, head_limit: Duration, stop: CancellationToken) {
    serve_on(listener, router, head_limit, stop).await;
}

/// The same for connections that come in another way.
pub async fn serve_on<L>(mut listener: L, router: Router, head_limit: Duration, stop: CancellationToken)
where
    L: Listener<Io = TcpStream>,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_limit).max_buf_size(MAX_HEAD_BYTES);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            // Without a place nobody is accepted; who waits stands in the kernel's queue.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        // Who does not take answers is parted from as well (tcp(7): data may remain unacknowledged, or untransmitted because of a zero window, for so long).
        if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(head_limit)) {
            tracing::debug!(%error, "no TCP_USER_TIMEOUT");
        }
        let service = router.clone().map_request(|request: Request<Incoming>| request.map(Body::new));
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let stop = stop.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::trace!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}
