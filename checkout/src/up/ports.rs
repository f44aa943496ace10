//! Ports for the processes behind the gateway.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use crate::failure::Failure;

/// Lowest port given out.
const LOWEST: u16 = 20_000;

/// Gives out each port once.
#[derive(Debug, Default)]
pub struct Ports {
    given: Mutex<BTreeSet<u16>>,
}

impl Ports {
    /// The loopback address with `wanted` if that is free and not given out, else with some free port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn prefer(&self, wanted: u16) -> Result<SocketAddr, Failure> {
        match self.take(wanted) {
            Some(address) => Ok(address),
            None => self.free(),
        }
    }

    /// The loopback address with a free port below the range from which the kernel gives out client ports: a port inside it may be
    /// some connection's own at the moment when a restarted process wants it back.
    ///
    /// # Errors
    /// When none is found.
    pub fn free(&self) -> Result<SocketAddr, Failure> {
        let end = ephemeral_start().max(LOWEST + 1000);
        // Chosen at random, so that two platforms which start at the same moment seldom want the same.
        (0..1000)
            .find_map(|_| self.take(rand::random_range(LOWEST..end)))
            .ok_or_else(|| Failure::failed(format!("no free port found between {LOWEST} and {end}")))
    }

    fn take(&self, port: u16) -> Option<SocketAddr> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        (!given.contains(&port) && is_free(address)).then(|| {
            given.insert(port);
            address
        })
    }
}

/// Whether somebody could listen there now.
#[must_use]
pub fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

fn ephemeral_start() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

/// Whether these log lines say that the process could not have its port. (Go, Redis and Rust all pass on the system's own words.)
#[must_use]
pub fn tells_of_a_taken_port(lines: &[String]) -> bool {
    lines.iter().any(|line| line.to_ascii_lowercase().contains("address already in use"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_a_taken_one_is_passed_over() {
        let ports = Ports::default();
        let first = ports.free().unwrap();
        assert_ne!(ports.prefer(first.port()).unwrap(), first);
        let held = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let holder = TcpListener::bind(held).unwrap();
        assert_ne!(ports.prefer(held.port()).unwrap(), held);
        drop(holder);
    }

    #[test]
    fn the_words_of_each_server_for_a_taken_port_are_known() {
        for line in [
            "[1] [FTL] Error listening on port: 127.0.0.1:4222, \"listen tcp 127.0.0.1:4222: bind: address already in use\"",
            "1:M # Warning: Could not create server TCP listening socket 127.0.0.1:6379: bind: Address already in use",
            "order: cannot listen on 127.0.0.1:8001: Address already in use (os error 98)",
        ] {
            assert!(tells_of_a_taken_port(&[line.to_owned()]), "{line}");
        }
        assert!(!tells_of_a_taken_port(&["ready".to_owned()]));
    }
}
