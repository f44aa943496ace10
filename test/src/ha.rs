//! What the tests share that hurt a platform with three of everything that keeps data.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::{FromRedisValue, Value};

use crate::load::{Load, Seed};
use crate::platform::{Options, Platform};
use crate::servers::open;
use crate::wait::PATIENCE;

/// Clients that ask at once.
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
pub fn disk(platform: &Platform, name: &str) -> PathBuf {
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
    let mut connection = open(url).await.ok()?;
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
}

/// How long a failover may take that was begun. One that a busy machine holds up is given up by the sentinel that leads it.
pub const FAILOVER_LIMIT: Duration = Duration::from_secs(15);

/// Has a sentinel move the primary of a service away from the node `old`, begun anew until it is done, and says where it is then.
///
/// # Panics
/// It stays where it was.
pub async fn move_primary(platform: &Platform, sentinel: &str, service: &str, old: &str) -> String {
    let url = platform.processes().remove(sentinel).expect("a sentinel");
    let group = format!("redis-{service}");
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        // It refuses while one is under way, or there is nobody yet to choose.
        let is_begun = ask::<Value>(&url, &["SENTINEL", "FAILOVER", &group]).await.is_some();
        let limit = if is_begun { FAILOVER_LIMIT } else { Duration::from_millis(500) };
        let asked = Instant::now();
        while asked.elapsed() < limit {
            let now = platform.primary(service).await;
            if now != old {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    panic!("{group} stays at {old}");
}
