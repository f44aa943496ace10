//! nats-server finds no room on its disk, under load: nobody is told what is not so, and everything ends when there is room again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use testing::books::Books;
use testing::load::{Load, Seed};
use testing::platform::{Options, Platform};
use testing::wait::eventually;

const CLIENTS: usize = 48;
const ORDERS: u64 = 20_000;
/// Checkouts before the disk is full, and after there is room again.
const BETWEEN: usize = 200;

/// The length of the longest file of messages below this folder.
fn longest_block(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let lengths = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() {
            return Some(longest_block(&entry.path()));
        }
        entry.file_name().to_string_lossy().ends_with(".blk").then_some(metadata.len())
    });
    lengths.max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_server_may_find_its_disk_full_under_load() {
    let platform = Platform::start(Options::default().recovers_soon()).await;
    Seed::mixed(ORDERS).fill(&platform.client()).await;
    let load = Load::start(&platform, ORDERS, CLIENTS);
    load.more(BETWEEN).await;

    // The kernel refuses to let its files grow, as it does where a disk is full. The process that comes after it has room again.
    let before = platform.pid("nats-1").unwrap();
    let length = longest_block(&platform.folder().path().join("nats-1"));
    assert!(length > 0, "no file of messages was found");
    let limit = Rlimit { current: Some(length + 100), maximum: getrlimit(Resource::Fsize).maximum };
    prlimit(Pid::from_raw(before), Resource::Fsize, limit).unwrap();
    eventually("nats-server finds no room", async || platform.folder().log("nats-1").contains("file too large")).await;
    // Everybody who waits is answered meanwhile: at the latest when the time of the request is over.
    load.more(CLIENTS).await;

    // Unless it has ended by itself, even in this moment.
    if platform.pid("nats-1") == Some(before) {
        let _ = kill(nix::unistd::Pid::from_raw(before), Signal::SIGTERM);
    }
    platform.restarted("nats-1", before).await;
    load.more(BETWEEN).await;
    let answers = load.stop().await;
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
    assert!(answers.paid() > 0 && answers.refused() > 0, "the load must have seen both");
    eprintln!(
        "{} paid, {} not known at first, {} times turned away",
        answers.paid(),
        answers.unknown().len(),
        answers.turned_away
    );
}
