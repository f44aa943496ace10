//! Sentinels make another node the primary: the writer is there at once, and never again at the old one.

use common::redis::{CallError, Database, Options, locate_primary};
use futures::future::join_all;
use redis::FromRedisValue;
use testing::sentinels::{Group, Sentinel, replicated};
use testing::servers::{Console, PATIENCE, Redis};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{add_one, counter, eventually, far, is_ok, near, open, open_with};

const SAFE: Options = Options { lanes: 2, wait_replicas: 1 };

/// Callers that go on until told to stop, and how many calls they made. All were answered.
struct Load {
    callers: Vec<JoinHandle<i64>>,
    stop: CancellationToken,
}

impl Load {
    fn start(database: &Database) -> Self {
        let stop = CancellationToken::new();
        let one = || {
            let (database, stop) = (database.clone(), stop.clone());
            tokio::spawn(async move {
                let mut made = 0;
                while !stop.is_cancelled() {
                    let reply = database.call(add_one(), far()).await;
                    assert!(is_ok(&reply), "{reply:?}");
                    made += 1;
                }
                made
            })
        };
        Self { callers: (0..16).map(|_| one()).collect(), stop }
    }

    async fn stop(self) -> i64 {
        self.stop.cancel();
        join_all(self.callers).await.into_iter().map(Result::unwrap).sum()
    }
}

/// Has a sentinel make another node the primary, as soon as it knows one that is good enough.
async fn fail_over(sentinel: &Sentinel) {
    let mut console = sentinel.console();
    eventually("the failover begins", || console.try_ask(&["SENTINEL", "FAILOVER", "group"]).is_ok()).await;
}

/// What keeps the sentinels from turning a node, so that it goes on to believe that it is the primary, and takes what it is given.
const NOT_TO_BE_TURNED: &[&str] = &["ACL", "SETUSER", "default", "-replicaof", "-slaveof"];

/// Starts a node again that was the primary when it died; it takes writes, and is not turned.
fn restart_as_primary(node: &mut Redis) -> Console {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        node.restart();
        // The sentinels turn it after eight seconds. Where they were faster, it was cut off, or is a replica.
        if let Some(mut console) = Console::open(&node.url())
            && console.try_ask(NOT_TO_BE_TURNED).is_ok()
            && let Ok(info) = console.try_ask(&["INFO", "replication"])
            && String::from_redis_value(info).is_ok_and(|info| info.contains("role:master"))
        {
            return console;
        }
        assert!(std::time::Instant::now() < deadline, "it is always turned at once");
    }
}

/// Waits until a sentinel names another primary than the first node, and returns which.
async fn failed_over(group: &Group, sentinel: usize) -> usize {
    eventually("another node is the primary", || group.primary_according_to(sentinel) != 0).await;
    group.primary_according_to(sentinel)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_dies_is_replaced_and_not_written_to_when_it_comes_back() {
    let mut group = Group::start(2);
    // One that stands still holds nobody up.
    group.sentinels[0].pause();
    let (database, _tasks) = open_with(&group.url(), SAFE).await;
    let load = Load::start(&database);
    let mut console = group.nodes[0].console();
    eventually("calls are carried out", || counter(&mut console) > 500).await;
    group.nodes[0].kill();
    let now = failed_over(&group, 1).await;
    let mut console = group.nodes[now].console();
    let before = counter(&mut console);
    eventually("calls are carried out there", || counter(&mut console) > before + 500).await;

    // It comes back as what it was, and takes writes.
    let mut old = restart_as_primary(&mut group.nodes[0]);
    let (late, _tasks) = open(&group.url(), 1).await;
    let late = Load::start(&late);
    let (stays, before) = (counter(&mut old), counter(&mut console));
    eventually("calls are carried out there", || counter(&mut console) > before + 500).await;
    assert_eq!(old.text(&["ROLE"]).as_deref(), Some("master"));
    assert_eq!(counter(&mut old), stays, "written to the old one");
    let made = load.stop().await + late.stop().await;
    assert_eq!(counter(&mut console), made, "every call was answered, and applied once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_stands_still_is_left_at_once_and_what_it_does_later_counts_for_nothing() {
    let group = Group::start(2);
    let (database, _tasks) = open_with(&group.url(), SAFE).await;
    let load = Load::start(&database);
    let mut console = group.nodes[0].console();
    eventually("calls are carried out", || counter(&mut console) > 500).await;
    group.nodes[0].pause();
    let now = failed_over(&group, 1).await;
    let asked = std::time::Instant::now();
    let mut other = group.nodes[now].console();
    let before = counter(&mut other);
    eventually("calls are carried out there", || counter(&mut other) > before + 500).await;
    // Sentinels are asked for a second only.
    let found = loop {
        match locate_primary(&group.url()).await {
            Ok(found) => break found,
            Err(error) => assert!(asked.elapsed() < PATIENCE, "{error}"),
        }
    };
    assert_eq!(found, format!("{}/0", group.nodes[now].url()));
    // What still lay in its sockets it carries out now; it is forgotten when the sentinels turn it. (That takes them eight seconds.)
    group.nodes[0].resume();
    let before = counter(&mut other);
    eventually("calls are carried out there", || counter(&mut other) > before + 500).await;
    let made = load.stop().await;
    assert_eq!(counter(&mut other), made, "every call was answered, and applied once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_command_loses_nothing_that_was_told_and_a_sentinel_may_die_then() {
    let mut group = Group::start(2);
    let url = group.url();
    let (database, _tasks) = open_with(&url, SAFE).await;
    let load = Load::start(&database);
    let mut console = group.nodes[0].console();
    eventually("calls are carried out", || counter(&mut console) > 500).await;
    fail_over(&group.sentinels[0]).await;
    let now = failed_over(&group, 0).await;
    let mut other = group.nodes[now].console();
    let before = counter(&mut other);
    eventually("calls are carried out there", || counter(&mut other) > before + 500).await;
    // Two are left, which are a majority still.
    group.sentinels.truncate(2);
    let (late, _tasks) = open_with(&url, SAFE).await;
    let late = Load::start(&late);
    let before = counter(&mut other);
    eventually("calls are carried out still", || counter(&mut other) > before + 500).await;
    let made = load.stop().await + late.stop().await;
    assert_eq!(counter(&mut other), made, "every call was answered, and applied once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_does_not_know_that_it_was_replaced_is_not_written_to() {
    let group = Group::start(2);
    // No waiting for replicas, which alone would keep anybody from being told of what is written there.
    let (database, _tasks) = open(&group.url(), 2).await;
    let load = Load::start(&database);
    let mut old = group.nodes[0].console();
    eventually("calls are carried out", || counter(&mut old) > 500).await;
    old.ask(NOT_TO_BE_TURNED);
    fail_over(&group.sentinels[0]).await;
    let now = failed_over(&group, 0).await;
    let mut other = group.nodes[now].console();
    let before = counter(&mut other);
    eventually("calls are carried out there", || counter(&mut other) > before + 500).await;
    // What had reached it before the failover it may still be carrying out, until it has read to the end of the connections that were cut.
    eventually("nobody is connected to the old one", || !is_used(&mut old)).await;
    let (stays, before) = (counter(&mut old), counter(&mut other));
    eventually("calls are carried out there", || counter(&mut other) > before + 500).await;
    assert_eq!(old.text(&["ROLE"]).as_deref(), Some("master"));
    assert_eq!(counter(&mut old), stays, "nobody writes to the old one");
    load.stop().await;
}

/// Whether anybody is connected who is neither a sentinel nor the console that asks.
fn is_used(console: &mut Console) -> bool {
    let clients = console.text(&["CLIENT", "LIST", "TYPE", "normal"]).expect("a list");
    clients.lines().any(|client| !client.contains(" name=sentinel-") && !client.contains(" cmd=client|list"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_no_sentinel_would_choose_does_not_stand_in_for_the_one_that_they_would() {
    let nodes = replicated(2);
    nodes[2].console().ask(&["CONFIG", "SET", "replica-priority", "0"]);
    let group = Group::of(nodes);
    let (chosen, other) = (&group.nodes[1], &group.nodes[2]);
    // Who stands still is not excused for that, however long this takes.
    for sentinel in &group.sentinels {
        sentinel.console().ask(&["SENTINEL", "SET", "group", "down-after-milliseconds", "600000"]);
    }
    let (database, _tasks) = open_with(&group.url(), SAFE).await;
    other.pause();
    assert!(
        is_ok(&database.call(add_one(), far()).await),
        "told although one does not have it that they cannot choose"
    );
    other.resume();
    chosen.pause();
    let hurried = database.call(add_one(), near()).await;
    assert!(hurried.is_err(), "the one that they would choose does not have it: {hurried:?}");
    let patient = tokio::spawn({
        let database = database.clone();
        async move { database.call(add_one(), far()).await }
    });
    let mut console = other.console();
    let made = 2 + i64::from(matches!(hurried, Err(CallError::Unknown(_))));
    eventually("the other one has it", || counter(&mut console) == made).await;
    assert!(!patient.is_finished(), "told as done before the one that they would choose has it");
    chosen.resume();
    assert!(is_ok(&patient.await.unwrap()));
    assert_eq!(counter(&mut chosen.console()), made, "every call was applied once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_chosen_again_as_soon_as_it_follows_has_what_was_told() {
    let nodes = replicated(2);
    nodes[2].console().ask(&["CONFIG", "SET", "replica-priority", "200"]);
    let group = Group::of(nodes);
    let (database, _tasks) = open_with(&group.url(), SAFE).await;
    let load = Load::start(&database);
    // Who is turned, to be a replica or the primary, loses its connections.
    let counter = |node: usize| counter(&mut group.nodes[node].console());
    eventually("calls are carried out", || counter(0) > 500).await;
    fail_over(&group.sentinels[0]).await;
    eventually("the better one is the primary", || group.primary_according_to(0) == 1).await;
    // The sentinels turn it after eight seconds, and do not look at it again for ten: so long they do not know that it is linked.
    // Whoever is connected when it is turned is cut off, also in the middle of this.
    let info = || Console::open(&group.nodes[0].url())?.try_ask(&["INFO", "replication"]).ok();
    let is_linked = |info| String::from_redis_value(info).is_ok_and(|info| info.contains("master_link_status:up"));
    eventually("the old one follows", || info().is_some_and(is_linked)).await;
    let before = counter(1);
    eventually("calls are carried out there", || counter(1) > before + 50).await;
    fail_over(&group.sentinels[0]).await;
    eventually("it is the primary again", || group.primary_according_to(0) == 0).await;
    let before = counter(0);
    eventually("calls are carried out there again", || counter(0) > before + 500).await;
    let made = load.stop().await;
    assert_eq!(counter(0), made, "every call was answered, and applied once");
}
