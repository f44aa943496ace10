//! What the tests share that hurt a platform with three of everything that keeps data.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use nix::sys::signal::Signal;
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;

use crate::load::{Load, Seed};
use crate::platform::{Options, Platform};

/// Clients of that load.
pub const CLIENTS: usize = 32;
const ORDERS: u64 = 60_000;
/// Checkouts between two faults, so that each meets a load in full swing.
pub const BETWEEN: usize = 200;

/// A platform with three of everything, under load.
pub async fn start(options: Options) -> (Platform, Load) {
    let platform = Platform::start(options.ha().recovers_soon()).await;
    Seed::mixed(ORDERS).fill(&platform.client()).await;
    let load = Load::start(&platform, ORDERS, CLIENTS);
    load.more(BETWEEN).await;
    (platform, load)
}

/// Everything that a process keeps, configuration included.
fn disk(platform: &Platform, name: &str) -> PathBuf {
    platform.folder().path().join(name)
}

/// Kills a process and takes its disk, in the instant before anybody could start it again.
///
/// # Panics
/// It does not run.
pub async fn destroy(platform: &Platform, name: &str) {
    let held = platform.hold(name).await;
    std::fs::remove_dir_all(disk(platform, name)).unwrap();
    platform.signal(name, Signal::SIGKILL);
    drop(held);
}

/// What one node says to one command; nothing where it does not answer.
pub async fn ask<T: FromRedisValue>(url: &str, words: &[&str]) -> Option<T> {
    let client = redis::Client::open(url).ok()?;
    let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection().await.ok()?;
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
}
