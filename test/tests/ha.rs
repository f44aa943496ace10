//! Three of everything that keeps data: any one process or disk goes under load, and nothing that a client was told is lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix::sys::signal::Signal;
use testing::books::Books;
use testing::ha::{BETWEEN, CLIENTS, ask, destroy, move_primary, start};
use testing::load::Load;
use testing::platform::{Options, Platform, SERVICES};
use testing::stream::{CHECKOUT, Nats};
use testing::wait::{eventually, until};

/// Ends the load, and checks that everybody was told the truth.
async fn finish(platform: &Platform, load: Load) -> Books {
    load.more(BETWEEN).await;
    let answers = load.stop().await;
    let books = Books::closed(platform).await;
    answers.assert_true(&books);
    let (paid, refused, unknown) = (answers.paid(), answers.refused(), answers.unknown().len());
    eprintln!(
        "{paid} paid, {refused} refused, {unknown} not known at first, {} times turned away",
        answers.turned_away
    );
    assert!(paid > 0 && refused > 0, "the load must have seen both: {paid} paid, {refused} refused");
    books
}

/// Waits until a node follows the primary and could take its place.
async fn is_replica(platform: &Platform, name: &str) {
    let url = platform.processes().remove(name).unwrap();
    eventually(&format!("{name} is a replica that has caught up"), async || {
        let info = ask::<String>(&url, &["INFO", "replication"]).await.unwrap_or_default();
        let has = |line: &str| info.lines().any(|it| it == line);
        has("role:slave") && has("master_link_status:up") && has("slave_priority:100")
    })
    .await;
}

/// How many failovers the sentinels of this run have heard of.
async fn failovers(platform: &Platform, service: &str) -> u64 {
    let mut most = 0;
    for sentinel in platform.instances("sentinel") {
        let url = platform.processes().remove(&sentinel).unwrap();
        let epoch: u64 = until(&format!("what {sentinel} knows"), async || {
            let facts: Vec<String> = ask(&url, &["SENTINEL", "MASTER", &format!("redis-{service}")]).await?;
            facts.chunks(2).find(|fact| fact[0] == "config-epoch")?[1].parse().ok()
        })
        .await;
        most = most.max(epoch);
    }
    most
}

/// Waits until another node than this one is the primary.
async fn replaced(platform: &Platform, service: &str, old: &str) -> String {
    until(&format!("{old} is replaced"), async || Some(platform.primary(service).await).filter(|now| now != old)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_go_in_every_way_and_the_platform_comes_back_with_those_that_are_left() {
    let (platform, load) = start(Options::default()).await;

    // It comes back with its disk: as the primary that it was, unless the machine was so busy that another one took its place.
    let primary = platform.primary("order").await;
    platform.end_and_await(&primary, Signal::SIGKILL).await;
    load.more(BETWEEN).await;

    // It stands still until another one has taken its place.
    let stopped = platform.primary("payment").await;
    let held = platform.hold(&stopped).await;
    replaced(&platform, "payment", &stopped).await;
    load.more(BETWEEN).await;
    drop(held);

    // It dies with its disk, and must not come back as an empty primary.
    let destroyed = platform.primary("stock").await;
    destroy(&platform, &destroyed).await;
    let heir = replaced(&platform, "stock", &destroyed).await;
    load.more(BETWEEN).await;
    is_replica(&platform, &destroyed).await;
    let inherited = failovers(&platform, "stock").await;

    // A person moves it, in the middle of everything.
    let moved = platform.primary("order").await;
    move_primary(&platform, "sentinel-2", "order", &moved).await;
    load.more(BETWEEN).await;

    // All are back in their places before the books are closed.
    is_replica(&platform, &stopped).await;
    is_replica(&platform, &moved).await;
    finish(&platform, load).await;

    // The primaries of before are the primaries again, with all data.
    let mut primaries = Vec::new();
    for service in SERVICES {
        primaries.push(platform.primary(service).await);
    }
    // On a busy machine another one may have taken its place since.
    assert!(primaries.contains(&heir) || failovers(&platform, "stock").await > inherited, "{primaries:?}");
    let (folder, before) = (platform.folder().clone(), Books::read(&platform).await);
    assert!(platform.stop().await.success());
    let platform = Platform::start_in(folder, Options::default().ha().recovers_soon()).await;
    for (service, primary) in SERVICES.into_iter().zip(primaries) {
        let now = platform.primary(service).await;
        assert!(now == primary || failovers(&platform, service).await > 0, "{now}, and it was {primary}");
    }
    let after = Books::closed(&platform).await;
    assert_eq!((&after.totals, &after.credit, &after.items), (&before.totals, &before.credit, &before.items));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_sentinels_go_and_nobody_notices() {
    let (platform, load) = start(Options::default()).await;
    destroy(&platform, "sentinel-1").await;
    for service in SERVICES {
        let primary = platform.primary(service).await;
        let nodes = platform.instances(&format!("redis-{service}"));
        let replicas: Vec<&String> = nodes.iter().filter(|name| **name != primary).collect();
        platform.signal(replicas[0], Signal::SIGKILL);
        destroy(&platform, replicas[1]).await;
        load.more(BETWEEN).await;
        is_replica(&platform, replicas[0]).await;
        is_replica(&platform, replicas[1]).await;
    }
    // The sentinels must be of one mind again, so that they can choose a primary.
    let sentinel = platform.processes().remove("sentinel-1").unwrap();
    eventually("the sentinel that lost its disk is one of them again", async || {
        ask::<String>(&sentinel, &["SENTINEL", "CKQUORUM", "redis-stock"]).await.is_some()
    })
    .await;

    // Of three sentinels two lose their disks while a primary stands still, which can tell them nothing, and the third stands still too.
    let primary = platform.primary("payment").await;
    let held = (platform.hold(&primary).await, platform.hold("sentinel-3").await);
    for name in ["sentinel-1", "sentinel-2"] {
        let sentinel = platform.processes().remove(name).unwrap();
        destroy(&platform, name).await;
        eventually(&format!("{name} is back"), async || ask::<String>(&sentinel, &["PING"]).await.is_some()).await;
    }
    replaced(&platform, "payment", &primary).await;
    drop(held);
    is_replica(&platform, &primary).await;
    finish(&platform, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_cluster_is_hurt_in_every_way() {
    let (platform, load) = start(Options::default().set("order.REQUEST_LIMIT_MS=3000")).await;
    let nats = Nats::of(&platform).await;
    let leader = async || {
        let found = until("the stream has a leader", async || {
            let stream = nats.jetstream.get_stream(CHECKOUT).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        });
        found.await.trim_start_matches("checkout-").to_owned()
    };
    let stream = until("the stream", async || nats.jetstream.get_stream(CHECKOUT).await.ok()).await;
    assert_eq!(stream.cached_info().config.num_replicas, 3);

    let killed = leader().await;
    platform.end_and_await(&killed, Signal::SIGKILL).await;
    load.more(BETWEEN).await;

    let wiped = leader().await;
    destroy(&platform, &wiped).await;
    load.more(BETWEEN).await;

    // Two stand still: there is no quorum, and nothing can be stored.
    let held = (platform.hold("nats-1").await, platform.hold("nats-2").await);
    let before = load.answered();
    eventually("clients are answered all the same", async || load.answered() > before + CLIENTS).await;
    drop(held);
    load.more(BETWEEN).await;

    nats.delete().await;
    load.more(BETWEEN).await;
    finish(&platform, load).await;
}
