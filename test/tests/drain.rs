//! Stopping: nothing that was accepted is dropped, nothing is left behind, and what was stored is there again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use nix::sys::signal::Signal;
use testing::books::Books;
use testing::load::{Load, Seed, Told};
use testing::platform::{Options, Platform, SERVICES, program};
use testing::wait::eventually;

const ORDERS: u64 = 40_000;
const CLIENTS: usize = 24;
const BETWEEN: usize = 150;

/// Requests that payment and stock answer by themselves, one after the other until told to stop; what went wrong.
fn small_requests(platform: &Platform, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<String>> {
    let (client, stop) = (platform.client(), stop.clone());
    tokio::spawn(async move {
        let mut wrong = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            for (method, path) in [
                (Method::POST, "/payment/add_funds/0/1"),
                (Method::GET, "/payment/find_user/1"),
                (Method::POST, "/stock/add/0/1"),
                (Method::GET, "/stock/find/1"),
                (Method::POST, "/orders/create/1"),
            ] {
                match client.send(method.clone(), path, &[]).await {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => wrong.push(format!("{method} {path}: {} {}", answer.status, answer.text())),
                    Err(error) => wrong.push(format!("{method} {path}: {error}")),
                }
            }
        }
        wrong
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_dropped_when_instances_stop_one_after_the_other_under_load() {
    // A drain that a busy machine holds up is not forced to its end.
    let patient = |options: Options, service: &&str| options.set(&format!("{service}.DRAIN_LIMIT_MS=60000"));
    let platform = Platform::start(SERVICES.iter().fold(Options::default().scale_all(2), patient)).await;
    Seed::plenty(ORDERS).fill(&platform.client()).await;
    let load = Load::start(&platform, ORDERS, CLIENTS);
    let stop = Arc::new(AtomicBool::new(false));
    let small: Vec<_> = (0..4).map(|_| small_requests(&platform, &stop)).collect();
    for service in SERVICES {
        for name in platform.instances(service) {
            load.more(BETWEEN).await;
            platform.end_and_await(&name, Signal::SIGTERM).await;
            // The supervisor says so of every end that it was not asked for: this one must have been clean.
            let said = platform.folder().output();
            assert!(said.contains(&format!("{name} ended with exit status 0")), "{said}");
        }
    }
    load.more(BETWEEN).await;
    let answers = load.stop().await;
    stop.store(true, Ordering::Relaxed);
    for small in small {
        let wrong = small.await.unwrap();
        assert!(wrong.is_empty(), "{} requests were dropped: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    }
    assert_eq!(answers.turned_away, 0, "another instance was there all the time");
    let unknown = answers.unknown();
    assert!(unknown.is_empty(), "{} checkouts were dropped: {:?}", unknown.len(), &unknown[..unknown.len().min(5)]);
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_answers_what_was_accepted_leaves_nothing_behind_and_keeps_the_data() {
    let platform = Platform::start(Options::default()).await;
    Seed::plenty(ORDERS).fill(&platform.client()).await;
    let load = Load::start(&platform, ORDERS, CLIENTS);
    load.more(BETWEEN).await;
    let folder = platform.folder().clone();
    assert!(folder.children().len() >= 8, "{:?}", folder.children());
    let status = platform.stop().await;
    assert_eq!(status.code(), Some(0), "{}", folder.output());
    assert_eq!(folder.children(), [] as [i32; 0]);
    assert_eq!(folder.pid_files(), [] as [String; 0]);
    assert!(!folder.path().join("run/platform.json").exists());
    let answers = load.stop().await;
    // Who came after the door was closed was refused a connection; who came before has an answer. Between its last look into the
    // queue and the closing the gateway cannot look again, so a client may be reset by the kernel that the gateway never met.
    let unknown = answers.all.iter().filter_map(|(order, told)| match told {
        Told::Unknown(why) => Some((order, why.as_str())),
        _ => None,
    });
    let (reset, dropped): (Vec<_>, Vec<_>) = unknown.partition(|(_, why)| why.contains("Connection reset"));
    assert!(dropped.is_empty(), "{} dropped: {:?}", dropped.len(), &dropped[..dropped.len().min(5)]);
    assert!(reset.len() <= 2, "{} were reset", reset.len());
    assert!(answers.paid() >= BETWEEN);

    let platform = Platform::start_in(folder, Options::default()).await;
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
    assert_eq!(books.paid(), answers.paid(), "every paid order was answered so");
    for (order, _) in reset {
        assert!(!books.has_saga(order), "order {order} was accepted, and its client was reset");
    }
    assert_eq!(books.orders.len() as u64, ORDERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_parent_left_is_stopped_by_the_next_one_on_the_same_folder() {
    let platform = Platform::start(Options::default()).await;
    Seed::plenty(ORDERS).fill(&platform.client()).await;
    let load = Load::start(&platform, ORDERS, CLIENTS);
    load.more(BETWEEN).await;
    let folder = platform.abandon().await;
    let left = folder.children();
    assert!(left.len() >= 8, "the children live on: {left:?}");
    // They even go on to work.
    load.more(BETWEEN).await;
    let status = Command::new(program()).args(["status", "--data"]).arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(!status.status.success() && said.contains("nobody watches over"), "{said}");

    let platform = Platform::start_in(folder.clone(), Options::default()).await;
    assert!(folder.output().contains("an earlier run left"), "{}", folder.output());
    let now = folder.children();
    assert!(left.iter().all(|pid| !now.contains(pid)), "{left:?} were to be stopped, {now:?} run");
    let answers = load.stop().await;
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
    assert!(answers.paid() >= 2 * BETWEEN);
}

/// Both keep their connections open and answer nothing, which no socket tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_also_while_nats_or_the_database_stand_still_with_requests_in_hand() {
    let short = |options: Options, service: &&str| options.set(&format!("{service}.DRAIN_LIMIT_MS=3000"));
    let platform = Platform::start(SERVICES.iter().fold(Options::default(), short)).await;
    let client = platform.client();
    let (user, item) = (client.user(1_000).await, client.item(1, 1_000).await);
    for stuck in ["nats-1", "redis-order", "redis-payment", "redis-stock"] {
        let order = client.order(&user, &[(&item, 1)]).await;
        let stands_still = platform.hold(stuck).await;
        let paths = [
            format!("/orders/checkout/{order}"),
            format!("/payment/add_funds/{user}/1"),
            format!("/stock/add/{item}/1"),
        ];
        let requests = paths.map(|path| {
            let client = platform.client();
            tokio::spawn(async move { client.send(Method::POST, &path, &[]).await.map(|answer| answer.status) })
        });
        let mut ended = Vec::new();
        for service in SERVICES {
            let name = format!("{service}-1");
            let pid = platform.pid(&name).unwrap();
            platform.signal(&name, Signal::SIGTERM);
            ended.push((name, pid));
        }
        // They end, although nothing moves: their successors have other pids. Nobody but themselves would end them.
        for (name, before) in &ended {
            eventually(&format!("{name} has ended while {stuck} stands still"), async || {
                platform.pid(name) != Some(*before)
            })
            .await;
        }
        drop(stands_still);
        for (name, before) in ended {
            platform.restarted(&name, before).await;
        }
        for request in requests {
            if let Ok(status) = request.await.unwrap() {
                assert!(matches!(status, 200 | 202 | 502..=504), "{stuck}: {status}");
            }
        }
    }
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_kills_what_the_first_one_waits_for() {
    // A drain would wait for longer than this test is patient.
    let platform = Platform::start(Options::default().set("payment.DRAIN_LIMIT_MS=86400000")).await;
    let folder = platform.folder().clone();
    let children = folder.children();
    platform.signal("payment-1", Signal::SIGSTOP);
    let up = platform.up_pid();
    let interrupt = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(up), Signal::SIGINT).unwrap();
    interrupt();
    eventually("it is stopping", async || folder.output().contains("stopping; again (Ctrl-C) kills")).await;
    interrupt();
    assert!(!platform.ended().await.success(), "not everything ended by itself");
    let is_there = |pid: &i32| std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
    eventually("no child is left", async || !children.iter().any(is_there)).await;
    // In order, the databases would have been asked to stop, after payment.
    assert!(!folder.log("redis-order").contains("ready to exit"), "{}", folder.log("redis-order"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_platforms_run_side_by_side() {
    let (one, other) = futures::join!(Platform::start(Options::default()), Platform::start(Options::default()));
    assert_ne!(one.url(), other.url());
    assert_ne!(one.nats_url(), other.nats_url());
    for platform in [&one, &other] {
        Seed::plenty(200).fill(&platform.client()).await;
    }
    let (first, second) = (Load::start(&one, 200, 8), Load::start(&other, 100, 8));
    let (first, second) = futures::join!(first.all(), second.all());
    assert_eq!((first.paid(), second.paid()), (200, 100));
    assert_eq!((Books::closed(&one).await.paid(), Books::closed(&other).await.paid()), (200, 100));
    let user = one.client().user(1).await;
    other.client().get(&format!("/payment/find_user/{user}")).await.expect_status(404);
    assert_eq!(one.stop().await.code(), Some(0));
    assert_eq!(Load::start(&other, 200, 8).all().await.paid(), 200, "the other one goes on");
    eventually("the other one is ready", async || other.is_ready("gateway").await).await;
}
