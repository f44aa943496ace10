//! The group-commit writer on a real Redis that is killed, paused, demoted and emptied under it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod failover;
mod faults;
mod groups;
mod recovery;
mod replicas;
mod support;
mod versions;
mod wire;
