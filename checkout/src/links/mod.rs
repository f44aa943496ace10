//! The network between the processes of `checkout up --links`: every connection between two of them goes through this process, where
//! `checkout chaos` can cut, delay, hold and half-open it.
//!
//! Each server has a *front*: an address at which the others are told that it is, also by the servers themselves (`replica-announce-port`,
//! `sentinel announce-port`, `client_advertise`, `cluster_advertise`). So there is one front for all who connect to a server; who it is that connects is seen
//! from the owner of the other socket ([`who`]), which lets any *pair* of processes be hurt, and nobody else with it.
//!
//! No library: `noxious`, a Toxiproxy in Rust, has had one version, in 2021, and what it does is done to a proxy, whoever connects; it has no half-open
//! connections, and one that it stops loses bytes in the middle when it goes on, which no network does.
//!
//! A fault is ordered at a socket in the folder ([`order`]) and lasts as long as whoever ordered it holds that connection: nothing stays hurt when a chaos run is
//! killed.

pub mod fault;
mod order;
mod pipe;
mod who;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::folder::Folder;
use crate::links::fault::Fault;
use crate::links::pipe::{Sky, carry};
use crate::links::who::{Ends, Who};

pub use order::Held;

/// How often it is looked whether a server that was away is back, and whether its front can be had again.
const LOOK: Duration = Duration::from_millis(20);
/// Connections that may wait for a front to accept them.
const BACKLOG: u32 = 4096;

/// All that is wrong, by the number of the order.
type Faults = Arc<BTreeMap<u64, Fault>>;

/// The network.
#[derive(Debug)]
pub struct Links {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    folder: Folder,
    faults: watch::Sender<Faults>,
    connections: Mutex<Connections>,
    numbers: AtomicU64,
    who: Who,
}

#[derive(Debug, Default)]
struct Connections {
    /// Who is connected to whom.
    now: BTreeMap<u64, (Option<String>, String)>,
    /// How many each fault has met: those that it found, and those that were wanted while it lasted.
    met: BTreeMap<u64, usize>,
}

impl Links {
    /// A network without faults, and the socket at which they are ordered.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn new(folder: &Folder) -> Result<Self, Failure> {
        let shared = Arc::new(Shared {
            folder: folder.clone(),
            faults: watch::Sender::default(),
            connections: Mutex::default(),
            numbers: AtomicU64::new(0),
            who: Who::new(folder),
        });
        let stop = CancellationToken::new();
        let orders = order::listen(folder)?;
        tokio::spawn(stop.clone().run_until_cancelled_owned(order::serve(orders, shared.clone())));
        Ok(Self { shared, stop })
    }

    /// Puts a front at `front` before the server `name` that listens, or soon will, at `server`.
    ///
    /// # Errors
    /// Somebody else listens there.
    pub fn front(&self, name: &str, server: SocketAddr, front: SocketAddr) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("the front of {name} at {front}: {error}"));
        let listener = listen(front).map_err(failed)?;
        let serving = serve(self.shared.clone(), name.to_owned(), server, front, listener);
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(serving));
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.stop.cancel();
        order::close(&self.shared.folder);
    }
}

fn listen(front: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(front)?;
    socket.listen(BACKLOG)
}

/// Accepts for a server as long as that is there. While it is not, nobody listens at its front either, so that who connects hears it at once.
async fn serve(shared: Arc<Shared>, name: String, server: SocketAddr, front: SocketAddr, mut listener: TcpListener) {
    loop {
        let (away, mut was_away) = mpsc::channel(1);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let carrying = shared.clone().carry(stream, peer, front, name.clone(), server);
                        let away = away.clone();
                        tokio::spawn(async move {
                            if carrying.await.is_err() {
                                let _ = away.try_send(());
                            }
                        });
                    }
                    // No file descriptor is left, or the client has gone again.
                    Err(_) => tokio::time::sleep(LOOK).await,
                },
                _ = was_away.recv() => break,
            }
        }
        drop(listener);
        while TcpStream::connect(server).await.is_err() {
            tokio::time::sleep(LOOK).await;
        }
        listener = loop {
            match listen(front) {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        };
    }
}

impl Shared {
    async fn carry(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        front: SocketAddr,
        to: String,
        server: SocketAddr,
    ) -> Result<(), pipe::Away> {
        let from = self.who.ask(Ends { from: peer, to: front }).await;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.connects(number, from.clone(), to.clone());
        let carried = carry(stream, server, Sky { from, to, faults: self.faults.subscribe() }).await;
        lock(&self.connections).now.remove(&number);
        carried
    }

    fn connects(&self, number: u64, from: Option<String>, to: String) {
        let mut connections = lock(&self.connections);
        if let Some(from) = &from {
            for (fault, _) in self.faults.borrow().iter().filter(|(_, fault)| fault.is_between(from, &to)) {
                *connections.met.entry(*fault).or_default() += 1;
            }
        }
        connections.now.insert(number, (from, to));
    }

    /// Begins a fault: its number, and how many connections it meets now.
    fn begin(&self, fault: Fault) -> (u64, usize) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        // Held until the fault is there, so that no connection is missed in between, and none counted twice.
        let mut connections = lock(&self.connections);
        let is_met =
            |(from, to): &&(Option<String>, String)| from.as_ref().is_some_and(|from| fault.is_between(from, to));
        let met = connections.now.values().filter(is_met).count();
        connections.met.insert(number, met);
        self.faults.send_modify(|faults| {
            Arc::make_mut(faults).insert(number, fault);
        });
        (number, met)
    }

    /// Ends a fault: how many connections it has met in all.
    fn end(&self, number: u64) -> usize {
        let mut connections = lock(&self.connections);
        self.faults.send_modify(|faults| {
            Arc::make_mut(faults).remove(&number);
        });
        connections.met.remove(&number).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
