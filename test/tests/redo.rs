//! The tail of a database is lost at a failover: each service redoes what it has published before it does anything new.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use redis::Value;
use testing::books::Books;
use testing::ha::{BETWEEN, ask, destroy, move_primary, start};
use testing::load::Load;
use testing::platform::{Options, Platform, SERVICES};
use testing::wait::{eventually, until};

async fn finish(platform: &Platform, load: Load) {
    load.more(BETWEEN).await;
    let answers = load.stop().await;
    let books = Books::closed(platform).await;
    answers.assert_true(&books);
    for service in ["payment", "stock"] {
        assert_eq!(books.total(service, "uncovered"), 0, "{service} had all that its decisions take");
    }
    let (paid, refused) = (answers.paid(), answers.refused());
    assert!(paid > 0 && refused > 0, "the load must have seen both: {paid} paid, {refused} refused");
}

/// How often an instance has recovered a primary, and how many decisions that had lost, as its log tells.
fn redone(platform: &Platform, service: &str) -> (usize, u64) {
    let log = platform.folder().log(&format!("{service}-1"));
    let runs = log.lines().filter(|line| line.contains("the primary is recovered"));
    let counts = runs.map(|line| {
        let field = line.split_whitespace().find_map(|word| word.strip_prefix("redone=")).expect("a count");
        field.parse::<u64>().expect("a number")
    });
    counts.fold((0, 0), |(runs, sum), count| (runs + 1, sum + count))
}

/// Cuts the replicas of a service off, goes on for a while, and then loses the primary with its disk: one of the replicas that lack the
/// tail takes its place.
async fn lose_the_tail(platform: &Platform, load: &Load, service: &str) {
    let group = format!("redis-{service}");
    let primary = platform.primary(service).await;
    let urls = platform.processes();
    let replicas: Vec<&String> =
        urls.iter().filter(|(name, _)| name.starts_with(&group) && **name != primary).map(|(_, url)| url).collect();
    assert_eq!(replicas.len(), 2);
    // So patient that they do nothing by themselves, and hold a replica that was cut off to be good enough.
    for (_, url) in urls.iter().filter(|(name, _)| name.starts_with("sentinel")) {
        ask::<Value>(url, &["SENTINEL", "SET", &group, "down-after-milliseconds", "600000"])
            .await
            .expect("the sentinel obeys");
    }
    ask::<Value>(&urls[&primary], &["CONFIG", "SET", "min-replicas-to-write", "0"]).await.expect("the primary obeys");
    for url in &replicas {
        ask::<Value>(url, &["CONFIG", "SET", "masteruser", "nobody"]).await.expect("the replica obeys");
    }
    ask::<Value>(&urls[&primary], &["CLIENT", "KILL", "TYPE", "REPLICA"]).await.expect("the primary obeys");
    for url in &replicas {
        eventually("the replica is cut off", async || {
            let info = ask::<Value>(url, &["INFO", "replication"]).await;
            info.is_some_and(|info| format!("{info:?}").contains("master_link_status:down"))
        })
        .await;
    }
    load.more(BETWEEN).await;
    destroy(platform, &primary).await;
    for url in &replicas {
        ask::<Value>(url, &["CONFIG", "SET", "masteruser", "replica"]).await.expect("the replica obeys");
    }
    move_primary(platform, "sentinel-1", service, &primary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_true_again_after_a_tail_is_lost() {
    let waits_for_none = |options: Options, service: &&str| options.set(&format!("{service}.REDIS_WAIT_REPLICAS=0"));
    let (platform, load) = start(SERVICES.iter().fold(Options::default(), waits_for_none)).await;
    for service in SERVICES {
        let before = redone(&platform, service);
        lose_the_tail(&platform, &load, service).await;
        load.more(BETWEEN).await;
        eventually(&format!("{service} has redone what was lost"), async || {
            let after = redone(&platform, service);
            after.0 > before.0 && after.1 > before.1
        })
        .await;
    }
    finish(&platform, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_where_replicas_are_waited_for() {
    let (platform, load) = start(Options::default()).await;
    for service in SERVICES {
        let primary = platform.primary(service).await;
        let before = redone(&platform, service);
        destroy(&platform, &primary).await;
        until("the primary is replaced", async || Some(platform.primary(service).await).filter(|now| *now != primary))
            .await;
        load.more(BETWEEN).await;
        eventually(&format!("{service} has looked"), async || redone(&platform, service).0 > before.0).await;
        assert_eq!(redone(&platform, service).1, 0, "{service} has lost nothing");
    }
    finish(&platform, load).await;
}
