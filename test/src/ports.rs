//! Ports that stay a test's own, whether anybody listens there at the moment or not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use tokio::net::TcpSocket;

/// Below the range from which the kernel takes ports of outgoing connections, and beside the one from which `checkout up` takes its own.
const PORTS: Range<u16> = 10_000..20_000;

/// A port of this machine that nobody else gets as long as this lives. Who is told of it can listen there, end, and listen there again; while
/// nobody does, connections are refused.
///
/// A socket is bound to it that never listens. Others that are bound share the port with it only if both say that addresses may be used again,
/// as servers do; a socket that looks for a free one, as ours does, does not say so.
#[derive(Debug)]
pub struct Reserved {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Reserved {
    /// Some free port.
    ///
    /// # Panics
    /// There is none.
    pub fn new() -> Self {
        (0..1_000).find_map(|_| Self::at(rand::random_range(PORTS))).expect("a free port")
    }

    fn at(port: u16) -> Option<Self> {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, port).into()).ok()?;
        // Not before: two that want the port for themselves must not get the same.
        socket.set_reuseaddr(true).expect("an option of a socket");
        Some(Self { address: socket.local_addr().ok()?, _socket: socket })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Default for Reserved {
    fn default() -> Self {
        Self::new()
    }
}
