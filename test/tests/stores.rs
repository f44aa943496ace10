//! Servers that forget or die under load: every accepted saga ends, and nothing is lost or doubled.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix::sys::signal::Signal;
use testing::books::Books;
use testing::load::{Answers, Load, Seed};
use testing::platform::{Options, Platform, SERVICES};
use testing::stream::Nats;

const CLIENTS: usize = 48;
/// More than any test here gets through while it hurts the platform.
const ORDERS: u64 = 60_000;
/// Checkouts between two faults, so that each meets a load in full swing.
const BETWEEN: usize = 200;

async fn start(options: Options) -> (Platform, Load) {
    let platform = Platform::start(options.recovers_soon()).await;
    let client = platform.client();
    Seed::mixed(ORDERS).fill(&client).await;
    let load = Load::start(&platform, ORDERS, CLIENTS);
    load.more(BETWEEN).await;
    (platform, load)
}

/// Ends the load, and checks that everybody was told the truth.
async fn finish(platform: &Platform, load: Load) -> Answers {
    load.more(BETWEEN).await;
    let answers = load.stop().await;
    let books = Books::closed(platform).await;
    answers.assert_true(&books);
    let (paid, refused, unknown) = (answers.paid(), answers.refused(), answers.unknown().len());
    let away = answers.turned_away;
    eprintln!("{paid} paid, {refused} refused, {unknown} not known at first, {away} times turned away");
    assert!(paid > 0 && refused > 0, "the load must have seen both: {paid} paid, {refused} refused");
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_stream_may_be_purged_under_load() {
    let (platform, load) = start(Options::default()).await;
    let nats = Nats::of(&platform).await;
    for _ in 0..5 {
        nats.purge().await;
        load.more(BETWEEN).await;
    }
    finish(&platform, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_stream_may_be_deleted_under_load() {
    let (platform, load) = start(Options::default().scale("order", 2)).await;
    let nats = Nats::of(&platform).await;
    for _ in 0..3 {
        nats.delete().await;
        load.more(BETWEEN).await;
    }
    finish(&platform, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_of_every_service_may_be_killed_under_load() {
    let (platform, load) = start(Options::default().scale_all(2)).await;
    for service in SERVICES {
        for name in platform.instances(service) {
            platform.end_and_await(&name, Signal::SIGKILL).await;
            load.more(BETWEEN).await;
        }
    }
    finish(&platform, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_instances_of_a_service_may_be_killed_at_once_under_load() {
    let (platform, load) = start(Options::default().scale_all(2)).await;
    for service in SERVICES {
        let names = platform.instances(service);
        let pids: Vec<i32> = names.iter().map(|name| platform.pid(name).unwrap()).collect();
        names.iter().for_each(|name| platform.signal(name, Signal::SIGKILL));
        for (name, pid) in names.iter().zip(pids) {
            platform.restarted(name, pid).await;
        }
        load.more(BETWEEN).await;
    }
    finish(&platform, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_server_may_be_killed_under_load() {
    let (platform, load) = start(Options::default()).await;
    for _ in 0..2 {
        platform.end_and_await("nats-1", Signal::SIGKILL).await;
        load.more(BETWEEN).await;
    }
    finish(&platform, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_database_may_be_killed_under_load() {
    let (platform, load) = start(Options::default()).await;
    for service in SERVICES {
        platform.end_and_await(&format!("redis-{service}"), Signal::SIGKILL).await;
        load.more(BETWEEN).await;
    }
    finish(&platform, load).await;
}
