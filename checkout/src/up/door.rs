//! Where a process listens, and where the others are told that it is.

use std::net::SocketAddr;

use crate::failure::Failure;
use crate::up::Start;

/// Other ports that are tried for a front.
const TRIES: usize = 9;

/// Two addresses of one process: the same one, unless all connections go through [`crate::links`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    /// Where it listens.
    pub own: SocketAddr,
    /// Where the others are told that it is.
    pub told: SocketAddr,
}

impl Door {
    /// Whether it has to say another address than that at which it listens.
    #[must_use]
    pub fn is_fronted(&self) -> bool {
        self.own != self.told
    }
}

impl Start<'_> {
    /// A door of the process `name` on a free port.
    pub fn door(&self, name: &str) -> Result<Door, Failure> {
        self.door_at(name, self.ports.free()?)
    }

    /// A door of the process `name` that listens at `own`.
    pub fn door_at(&self, name: &str, own: SocketAddr) -> Result<Door, Failure> {
        let Some(links) = &self.links else { return Ok(Door { own, told: own }) };
        // A port that was free may be taken after all: to look was to listen there, and a process that was forked meanwhile has that
        // socket until it is a program of its own.
        let mut tries = 0..TRIES;
        loop {
            let told = self.ports.free()?;
            match links.front(name, own, told) {
                Ok(()) => return Ok(Door { own, told }),
                Err(failure) if tries.next().is_none() => return Err(failure),
                Err(_) => {}
            }
        }
    }
}
