//! Ports for the processes of a platform.
//!
//! A port that is free now may be wanted by another platform: for a process that it is about to start, for its gateway, which comes
//! last, or for a process that died a moment ago. So platforms agree on ports before they use them: each locks the byte of the
//! port's number in one file of the user's. The kernel lets go of the locks when the platform's process ends, however it ends.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::Uid;

use crate::failure::Failure;

/// Lowest port given out.
const LOWEST: u16 = 20_000;

/// Gives out each port once, and none that another platform of this user has.
#[derive(Debug)]
pub struct Ports {
    given: Mutex<BTreeSet<u16>>,
    /// Where all platforms of the user lock their ports. Without it (an odd folder for temporary files) ports are only looked at.
    claims: Option<File>,
    range: std::ops::Range<u16>,
}

impl Ports {
    /// No port is given out yet.
    pub fn new() -> Self {
        // Below the range from which the kernel gives out client ports: a port inside it may be some connection's own at the moment
        // when a restarted process wants it back.
        let end = ephemeral_start().max(LOWEST + 1000);
        Self::with(&claims_file(), LOWEST..end)
    }

    fn with(claims: &Path, range: std::ops::Range<u16>) -> Self {
        let claims = File::options().create(true).truncate(false).read(true).write(true).open(claims).ok();
        Self { given: Mutex::default(), claims, range }
    }

    /// Takes an address that a person chose, unless another platform has its port or somebody listens there. To take it again is to
    /// look whether it is still free.
    pub fn take(&self, address: SocketAddr) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = given.contains(&address.port()) || self.claim(address.port());
        if ours {
            given.insert(address.port());
        }
        ours && is_free(address)
    }

    /// The loopback address with `wanted` if that is free and not given out, else with some free port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn prefer(&self, wanted: u16) -> Result<SocketAddr, Failure> {
        match self.give(wanted) {
            Some(address) => Ok(address),
            None => self.free(),
        }
    }

    /// The loopback address with a free port.
    ///
    /// # Errors
    /// When none is found.
    pub fn free(&self) -> Result<SocketAddr, Failure> {
        let std::ops::Range { start, end } = self.range;
        // Chosen at random, so that platforms which start at the same moment seldom try the same.
        (0..1000)
            .find_map(|_| self.give(rand::random_range(start..end)))
            .ok_or_else(|| Failure::failed(format!("no free port found between {start} and {end}")))
    }

    fn give(&self, port: u16) -> Option<SocketAddr> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        // Claimed first: to look is to listen for a moment, and another platform's process may want to just then.
        (!given.contains(&port) && self.claim(port) && is_free(address)).then(|| {
            given.insert(port);
            address
        })
    }

    /// Locks the port's byte. The lock belongs to the open file and not to the process, so it also holds between two of these.
    fn claim(&self, port: u16) -> bool {
        let Some(claims) = &self.claims else { return true };
        let byte = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: libc::off_t::from(port),
            l_len: 1,
            l_pid: 0,
        };
        fcntl(claims, FcntlArg::F_OFD_SETLK(&byte)).is_ok()
    }
}

fn claims_file() -> PathBuf {
    std::env::temp_dir().join(format!("checkout-ports-{}", Uid::effective()))
}

/// Whether somebody could listen there now.
fn is_free(address: SocketAddr) -> bool {
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
    fn what_one_platform_has_no_other_gets_although_nobody_listens_there() {
        let file = std::env::temp_dir().join(format!("checkout-ports-test-{}", std::process::id()));
        // Away from where other tests listen.
        let range = 9_100..9_140;
        let (one, two) = (Ports::with(&file, range.clone()), Ports::with(&file, range));
        let first = one.free().unwrap();
        let mut others = Vec::new();
        while let Ok(other) = two.free() {
            assert_ne!(other, first);
            others.push(other);
        }
        assert!(others.len() > 10, "most of these ports are free: {others:?}");
        assert!(!two.take(first) && one.take(first), "neither as a port that a person chose");
        drop(one);
        assert!(two.take(first), "until the other platform has ended");
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn no_port_is_given_twice_and_a_taken_one_is_passed_over() {
        let ports = Ports::new();
        let first = ports.free().unwrap();
        assert_ne!(ports.prefer(first.port()).unwrap(), first);
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let held = holder.local_addr().unwrap();
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
