//! The server goes away, stands still, refuses, forgets: callers are answered, with the truth, and nothing is applied twice.

use std::time::{Duration, Instant};

use common::redis::{Call, CallError};
use common::shutdown::Tasks;
use futures::future::join_all;
use testing::servers::{PATIENCE, Redis};

use crate::support::{
    Bench, LANES_PATIENCE, LIBRARY, add_one, counter, eventually, far, is_ok, near, notice_the_outage, refused_in_vain,
    sent_in_vain,
};

/// Calls that go on until told to stop, each made once by its caller. Returns how many were made; all were answered.
async fn keep_adding(database: common::redis::Database, stop: tokio_util::sync::CancellationToken) -> i64 {
    let mut made = 0;
    while !stop.is_cancelled() {
        let reply = database.call(add_one(), far()).await;
        assert!(is_ok(&reply), "{reply:?}");
        made += 1;
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_under_load_has_applied_each_call_once() {
    let mut bench = Bench::start(4).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let callers: Vec<_> = (0..64).map(|_| tokio::spawn(keep_adding(bench.database.clone(), stop.clone()))).collect();
    for round in 1..=3 {
        let mut console = bench.redis.console();
        let before = counter(&mut console);
        eventually("calls are carried out", || counter(&mut console) >= before + 200).await;
        bench.redis.restart();
        assert!(callers.iter().all(|caller| !caller.is_finished()), "round {round}: a caller was not answered");
    }
    stop.cancel();
    let mut made = 0;
    for answered in join_all(callers).await {
        made += answered.unwrap();
    }
    assert!(made >= 600);
    assert_eq!(bench.counter(), made, "every call was answered, and applied once");
}

#[tokio::test]
async fn a_deadline_that_passes_while_the_server_is_away_says_that_nothing_happened() {
    let mut bench = Bench::start(1).await;
    assert!(bench.database.is_connected());
    bench.redis.kill();
    notice_the_outage(&bench.database).await;
    let replies = join_all((0..50).map(|_| bench.database.call(add_one(), near()))).await;
    for reply in replies {
        assert!(matches!(reply, Err(CallError::NotSent(_))), "{reply:?}");
    }
    assert!(!bench.database.is_connected(), "that nobody waits any more is no sign of life");
    let patient = tokio::spawn({
        let database = bench.database.clone();
        async move { database.call(add_one(), far()).await }
    });
    bench.redis.restart();
    assert!(is_ok(&patient.await.unwrap()), "who has time waits");
    assert!(bench.database.is_connected());
    assert_eq!(bench.counter(), 1, "what was not sent is never applied");
}

#[tokio::test]
async fn a_server_that_was_never_there_is_waited_for() {
    let mut redis = Redis::start();
    redis.kill();
    let tasks = Tasks::new();
    let database =
        common::redis::Database::open(&redis.url(), LIBRARY, common::redis::Options::lanes(2), &tasks).unwrap();
    assert!(!database.wait_until_connected(Duration::from_millis(100)).await);
    assert!(!database.is_connected());
    redis.restart();
    eventually("it connects before anybody calls", || database.is_connected()).await;
    assert!(is_ok(&database.call(add_one(), far()).await));
}

#[tokio::test]
async fn a_server_that_stands_still_leaves_the_outcome_open() {
    let bench = Bench::start(1).await;
    let mut console = bench.redis.console();
    bench.redis.pause();
    // Who stands still cannot be asked; what was told wrongly is counted below.
    sent_in_vain(&bench.database, add_one, || 0).await;
    bench.redis.resume();
    // It was carried out after all, which is why nobody may be told that it was not.
    eventually("the call is carried out", || counter(&mut console) == 1).await;
    assert!(is_ok(&bench.database.call(add_one(), far()).await), "the writer goes on");
    assert_eq!(counter(&mut console), 2);
}

#[tokio::test]
async fn a_server_that_refuses_writes_is_asked_again_and_what_it_refused_was_not_sent() {
    let bench = Bench::start(1).await;
    let mut console = bench.redis.console();
    // A replica of nothing: it keeps its data, answers reads and refuses writes with READONLY.
    console.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    refused_in_vain(&bench.database).await;
    let patient = tokio::spawn({
        let database = bench.database.clone();
        async move { database.call(add_one(), far()).await }
    });
    eventually("the writer meets the refusal", || !bench.database.is_connected()).await;
    console.ask(&["REPLICAOF", "NO", "ONE"]);
    assert!(is_ok(&patient.await.unwrap()), "who has time waits");
    assert_eq!(counter(&mut console), 1);
}

#[tokio::test]
async fn a_server_that_is_full_is_asked_again() {
    let bench = Bench::start(1).await;
    let mut console = bench.redis.console();
    console.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    refused_in_vain(&bench.database).await;
    console.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(is_ok(&bench.database.call(add_one(), far()).await));
    assert_eq!(counter(&mut console), 1);
}

#[tokio::test]
async fn a_server_that_is_loading_its_data_is_asked_again() {
    let mut bench = Bench::start(1).await;
    let mut console = bench.redis.console();
    // Enough commands in the log that reading it, slowed down, takes seconds; the server answers LOADING in between.
    for _ in 0..100 {
        console.ask(&["EVAL", "for i = 1, 100 do redis.call('SET', KEYS[1] .. i, i) end", "1", "filler"]);
    }
    let url = bench.redis.url();
    let ping = || redis::cmd("PING").query::<String>(&mut redis::Client::open(url.as_str())?.get_connection()?);
    bench.redis.restart_without_waiting(&[("key-load-delay", "300")]);
    eventually("the server answers LOADING", || match ping() {
        // It was done before it was asked.
        Ok(_) => {
            bench.redis.restart_without_waiting(&[("key-load-delay", "300")]);
            false
        }
        Err(error) => error.code() == Some("LOADING"),
    })
    .await;
    assert!(is_ok(&bench.database.call(add_one(), far()).await));
    assert_eq!(bench.counter(), 1);
}

#[tokio::test]
async fn a_library_that_is_lost_is_loaded_again() {
    let bench = Bench::start(2).await;
    let mut console = bench.redis.console();
    for round in 1..=3 {
        console.ask(&["FUNCTION", "FLUSH"]);
        let replies = join_all((0..20).map(|_| bench.database.call(add_one(), far()))).await;
        assert!(replies.iter().all(is_ok), "{replies:?}");
        assert_eq!(counter(&mut console), 20 * round);
    }
    console.ask(&["FLUSHALL"]);
    assert!(is_ok(&bench.database.call(add_one(), far()).await));
}

#[tokio::test]
async fn what_is_queued_is_finished_when_the_process_stops() {
    let bench = Bench::start(2).await;
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let database = bench.database.clone();
            tokio::spawn(async move { database.call(add_one(), None).await })
        })
        .collect();
    // The callers' tasks have run up to their wait when the drain begins.
    tokio::task::yield_now().await;
    assert!(bench.tasks.drain(PATIENCE).await);
    let replies = join_all(calls).await;
    let answered = replies.into_iter().filter(|reply| is_ok(reply.as_ref().unwrap())).count();
    assert_eq!(bench.counter(), answered as i64, "who was told of success has it, and nobody else");
    let late = bench.database.call(add_one(), None).await;
    assert!(matches!(late, Err(CallError::NotSent(_))), "{late:?}");
}

#[tokio::test]
async fn stopping_while_the_server_is_away_ends_the_lanes_and_answers_everybody() {
    let mut bench = Bench::start(1).await;
    bench.redis.kill();
    notice_the_outage(&bench.database).await;
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let database = bench.database.clone();
            tokio::spawn(async move { database.call(add_one(), None).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(bench.tasks.drain(PATIENCE).await, "the lanes end");
    for reply in join_all(callers).await {
        assert!(matches!(reply.unwrap(), Err(CallError::NotSent(_))));
    }
    bench.redis.restart();
    assert_eq!(bench.counter(), 0);
}

#[tokio::test]
async fn callers_behind_a_server_that_stands_still_are_answered_at_their_deadlines() {
    let bench = Bench::start(2).await;
    bench.redis.pause();
    let began = Instant::now();
    // Calls without a deadline, as consumers make them, keep each lane waiting.
    let mut patient = Vec::new();
    for _ in 0..2 {
        let database = bench.database.clone();
        patient.push(tokio::spawn(async move { database.call(Call::command("PING"), None).await }));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let hurried = join_all((0..20).map(|_| bench.database.call(add_one(), near()))).await;
    let is_soon = began.elapsed() < LANES_PATIENCE;
    assert!(bench.database.is_connected() || !is_soon, "answered before any lane has given its connection up");
    for reply in hurried {
        assert!(matches!(reply, Err(CallError::NotSent(_))), "{reply:?}");
    }
    bench.redis.resume();
    for reply in join_all(patient).await {
        reply.unwrap().expect("answered when the server goes on");
    }
    assert!(is_ok(&bench.database.call(add_one(), far()).await));
    assert_eq!(bench.counter(), 1, "what was given up is not sent later");
}
