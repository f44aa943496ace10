//! The language that the three services share: ids, amounts, events, the undo-log transition, errors, limits, and the
//! plumbing that every process needs (settings, telemetry, shutdown, HTTP serving, the group-commit Redis writer).
//!
//! Nothing here knows a service's business. Rules that belong to one service live in that service's `decision.rs`.

pub mod amount;
pub mod crash;
pub mod decision;
pub mod event;
pub mod healthcheck;
pub mod http;
pub mod id;
pub mod limits;
pub mod problem;
pub mod process;
pub mod reason;
pub mod redis;
pub mod saga;
pub mod secret;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod trace;
pub mod undo;

/// Whether this is the build that could be the next version of the services, made for the test of upgrades only.
pub const IS_NEXT_VERSION: bool = cfg!(feature = "next-version");
