//! Two versions of the services at once, on one platform, under load: what an upgrade instance by instance is, and the way back.
//!
//! The other version is really another build (see [`Build::Next`]): its functions cannot be called as those of this one are, its records and
//! events have something that this one does not know.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use common::redis::libraries::{self, Loaded};
use http::Method;
use nix::sys::signal::Signal;
use testing::books::Books;
use testing::client::Client;
use testing::load::{Load, Seed};
use testing::platform::{Folder, Options, Platform, SERVICES};
use testing::programs::{Build, Programs};
use testing::stream::{CHECKOUT, DEAD_LETTERS, Nats};
use testing::wait::{eventually, until};

const ORDERS: u64 = 60_000;
const CLIENTS: usize = 16;
/// Checkouts between two steps of an upgrade.
const BETWEEN: usize = 100;

async fn start(options: Options) -> (Programs, Platform) {
    let folder = Folder::new_temporary();
    let programs = Programs::in_folder(folder.path());
    let platform = Platform::start_in(folder, options.scale_all(2).program(programs.checkout())).await;
    Seed::mixed(ORDERS).fill(&platform.client()).await;
    (programs, platform)
}

/// The versions of a service's functions that instances use now.
async fn in_use(platform: &Platform, service: &str) -> Vec<String> {
    let url = platform.primary_url(service).await.expect("a database");
    let all = until("the versions", async || libraries::list(&url).await.ok()).await;
    let used = all.into_iter().filter(|library| library.connections > 0);
    used.map(|Loaded { name, .. }| name).collect()
}

/// A request under a key, and what was answered: it must be answered so for ever, by whatever version.
struct Keyed {
    path: String,
    key: String,
    said: (u16, String),
}

async fn keyed(client: &Client, era: usize) -> Vec<Keyed> {
    let mut all = Vec::new();
    for path in [
        "/payment/add_funds/1/3",
        "/stock/add/1/3",
        "/orders/create/1",
        "/orders/checkout/1",
        "/stock/subtract/missing/1",
    ] {
        let key = format!("{era}-{}", all.len());
        let answer = client.send(Method::POST, path, &[("idempotency-key", &key)]).await.unwrap();
        all.push(Keyed { path: path.to_owned(), key, said: (answer.status, answer.text()) });
    }
    all
}

async fn assert_answered_as_before(client: &Client, keyed: &[Keyed]) {
    for Keyed { path, key, said } in keyed {
        let answer = client.send(Method::POST, path, &[("idempotency-key", key)]).await.unwrap();
        assert_eq!((answer.status, answer.text()), *said, "{path} under {key}");
    }
}

async fn assert_audit_is_clean(platform: &Platform, programs: &Programs) {
    eventually("an audit", async || {
        let mut audit = tokio::process::Command::new(programs.checkout());
        audit.args(["audit", "--data"]).arg(platform.folder().path()).env_remove("CHECKOUT_DATA");
        let said = audit.output().await.unwrap();
        // 2 says that something differs; 1 that it could not be looked at, which a machine that stands still brings about.
        assert_ne!(said.status.code(), Some(2), "{}", String::from_utf8_lossy(&said.stdout));
        said.status.success()
    })
    .await;
}

/// How many events the two builds have published.
async fn published(platform: &Platform) -> (usize, usize) {
    let events = Nats::of(platform).await.messages(CHECKOUT).await;
    let (next, this): (Vec<_>, Vec<_>) = events
        .iter()
        .filter(|event| !event.saga().is_empty())
        .partition(|event| event.json()["a_later_field"].is_array());
    (this.len(), next.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_instance_by_instance_and_the_way_back_drop_nothing_under_load() {
    let (programs, platform) = start(Options::default()).await;
    let client = platform.client();
    let load = Load::start(&platform, ORDERS, CLIENTS);
    let mut earlier = keyed(&client, 0).await;
    for (era, build) in [(1, Build::Next), (2, Build::This)] {
        // The way back is the other way round, so that each service meets the others in both versions.
        let services: Vec<&str> = if era == 1 { SERVICES.to_vec() } else { SERVICES.into_iter().rev().collect() };
        for service in services {
            programs.exchange(service, build);
            for (n, name) in platform.instances(service).into_iter().enumerate() {
                load.more(BETWEEN).await;
                platform.end_and_await(&name, Signal::SIGTERM).await;
                let said = platform.folder().output();
                assert!(said.contains(&format!("{name} ended with exit status 0")), "{said}");
                eventually("the versions that are in use are seen at the database", async || {
                    in_use(&platform, service).await.len() == 2 - n
                })
                .await;
            }
        }
        load.more(BETWEEN).await;
        assert_answered_as_before(&client, &earlier).await;
        earlier.extend(keyed(&client, era).await);
    }
    load.more(BETWEEN).await;
    let answers = load.stop().await;
    assert_answered_as_before(&client, &earlier).await;
    assert_eq!(answers.turned_away, 0, "another instance was there all the time");
    let unknown = answers.unknown();
    assert!(unknown.is_empty(), "{} checkouts were dropped: {:?}", unknown.len(), &unknown[..unknown.len().min(5)]);
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
    assert_audit_is_clean(&platform, &programs).await;

    let (this, next) = published(&platform).await;
    assert!(this > BETWEEN && next > BETWEEN, "{this} and {next} events");
    for records in [&books.payments, &books.reservations] {
        let of_next = records.values().filter(|record| record.contains("later=1")).count();
        assert!(of_next > 0 && of_next < records.len(), "{of_next} of {} records", records.len());
    }
    let mut remove = tokio::process::Command::new(programs.checkout());
    remove.args(["functions", "--remove-unused", "--data"]).arg(platform.folder().path()).env_remove("CHECKOUT_DATA");
    let said = remove.output().await.unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!((said.matches("removed").count(), said.matches("used by").count()), (3, 3), "{said}");
    client
        .checkout(&client.order(&client.user(10).await, &[(&client.item(2, 5).await, 1)]).await)
        .await
        .expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_that_stay_side_by_side_recover_together_from_what_is_killed() {
    let (programs, platform) = start(Options::default().recovers_soon()).await;
    for service in SERVICES {
        programs.exchange(service, Build::Next);
        platform.end_and_await(&format!("{service}-1"), Signal::SIGTERM).await;
        programs.exchange(service, Build::This);
    }
    let load = Load::start(&platform, ORDERS, CLIENTS);
    for service in SERVICES {
        load.more(BETWEEN).await;
        eventually("both versions are in use", async || in_use(&platform, service).await.len() == 2).await;
        // Either version may be the one that recovers the database, of what both have published.
        platform.end_and_await(&format!("redis-{service}"), Signal::SIGKILL).await;
        load.more(BETWEEN).await;
        platform.end_and_await(&format!("{service}-2"), Signal::SIGKILL).await;
        load.more(BETWEEN).await;
        programs.exchange(service, Build::Next);
        platform.end_and_await(&format!("{service}-1"), Signal::SIGKILL).await;
        programs.exchange(service, Build::This);
        eventually("both versions work", async || in_use(&platform, service).await.len() == 2).await;
    }
    load.more(BETWEEN).await;
    let answers = load.stop().await;
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
    assert!(answers.paid() > BETWEEN && answers.refused() > 0);
    assert_audit_is_clean(&platform, &programs).await;
    let (this, next) = published(&platform).await;
    assert!(this > BETWEEN && next > BETWEEN, "{this} and {next} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_not_recovered_by_a_version_that_cannot_read_what_its_service_has_published() {
    let platform = Platform::start(Options::default()).await;
    let nats = Nats::of(&platform).await;
    let body = r#"{"version":99,"of":"a newer build"}"#;
    let stored = nats.jetstream.publish("payment.debited", body.into()).await.unwrap().await.unwrap();
    platform.signal("redis-payment", Signal::SIGKILL);
    eventually("payment says why it does not go on", async || {
        platform.folder().log("payment-1").contains("was published by a newer build")
    })
    .await;
    assert!(!platform.is_ready("payment-1").await);
    // Nobody will come who can: a person says that it may be forgotten.
    let stream = nats.jetstream.get_stream(CHECKOUT).await.unwrap();
    assert!(stream.delete_message(stored.sequence).await.unwrap());
    eventually("payment goes on", async || platform.is_ready("payment-1").await).await;
    let client = platform.client();
    client
        .checkout(&client.order(&client.user(10).await, &[(&client.item(2, 5).await, 1)]).await)
        .await
        .expect_status(200);
    assert!(nats.messages(DEAD_LETTERS).await.is_empty());
}
