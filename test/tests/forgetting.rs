//! Forgetting behind the watermark: records go, and nothing that comes too late begins anew; while a saga is open, nothing newer goes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use testing::books::Books;
use testing::books::read::Database;
use testing::load::{Load, Seed};
use testing::platform::{Options, Platform};
use testing::stream::{DEAD_LETTERS, Nats, Stored};
use testing::wait::{eventually, until};

/// Records are forgotten a whole bucket of this width at a time.
const BUCKET_MS: u64 = common::limits::OUTCOME_BUCKET_MS;
/// So many that what their records take in memory stands out of what else comes and goes there.
const SAGAS: u64 = 3_000;

/// Forgets as soon as it may.
fn forgetful() -> Options {
    Options::default()
        .set("order.WATERMARK_MARGIN_MS=1")
        .set("order.WATERMARK_EVERY_MS=200")
        .set("order.UNDO_RETENTION_S=1")
}

/// Reads without checking: what is forgotten cannot be checked.
async fn database(platform: &Platform, service: &str) -> Database {
    Database::open(&platform.primary_url(service).await.unwrap()).await
}

/// Names of the keys with this prefix.
async fn keys(platform: &Platform, service: &str, prefix: &str) -> Vec<String> {
    let mut keys = database(platform, service).await.keys().await;
    keys.retain(|key| key.starts_with(prefix));
    keys
}

async fn watermark(platform: &Platform, service: &str) -> u64 {
    let mut database = database(platform, service).await;
    let text: Option<String> = redis::cmd("GET").arg("watermark").query_async(&mut database.0).await.unwrap();
    text.map_or(0, |text| text.parse().unwrap())
}

/// Bytes that the data of the databases of payment and stock takes.
async fn memory(platform: &Platform) -> [u64; 2] {
    let mut taken = [0; 2];
    for (taken, service) in taken.iter_mut().zip(["payment", "stock"]) {
        let mut database = database(platform, service).await;
        let info: redis::InfoDict = redis::cmd("INFO").arg("memory").query_async(&mut database.0).await.unwrap();
        *taken = info.get("used_memory_dataset").unwrap();
    }
    taken
}

async fn all_is_forgotten(platform: &Platform) {
    eventually("all records are forgotten", async || {
        let records = [
            keys(platform, "payment", "outcomes:").await,
            keys(platform, "stock", "outcomes:").await,
            keys(platform, "order", "undo:").await,
        ];
        records.iter().all(Vec::is_empty)
    })
    .await;
    for service in ["payment", "stock"] {
        assert!(keys(platform, service, "buckets").await.is_empty(), "the index of {service}'s records is empty");
    }
}

/// Credit, pieces and orders: what a late event must not change.
fn holdings(books: &Books) -> (i128, i128, usize) {
    (books.all_credit(), books.all_pieces(), books.paid())
}

/// The first event of this kind.
fn first<'a>(events: &'a [Stored], kind: &str) -> &'a Stored {
    events.iter().find(|event| event.subject == kind).unwrap_or_else(|| panic!("no {kind} among the events"))
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_watermark_records_are_gone_and_late_events_do_nothing_and_are_dead_letters() {
    let platform = Platform::start(forgetful()).await;
    let (nats, client) = (Nats::of(&platform).await, platform.client());
    Seed::scarce(200).fill(&client).await;
    Load::start(&platform, 200, 16).all().await;
    all_is_forgotten(&platform).await;
    let before = Books::read(&platform).await;
    let events = nats.events().await;

    // Whatever would take or give something.
    let dying = ["checkout.started", "stock.failed", "payment.debited", "checkout.abandoned"];
    for kind in dying {
        let late = if kind == "checkout.abandoned" {
            let mut body = first(&events, "checkout.started").json();
            body["reason"] = "abandoned".into();
            let started = first(&events, "checkout.started");
            let headers = started.headers_as(kind);
            Stored { subject: kind.to_owned(), headers, payload: body.to_string().into(), ..started.clone() }
        } else {
            first(&events, kind).clone()
        };
        assert_too_old(&nats, kind, nats.publish_again(&late).await).await;
    }
    // The order service knows the end of an order's saga from the order itself as long as that is there, and says it again.
    let ends = ["stock.reserved", "payment.declined", "payment.refunded"];
    let mut known = BTreeSet::new();
    for kind in ends {
        known.insert(nats.publish_again(first(&events, kind)).await.to_string());
    }
    eventually("the order service has seen them", async || nats.is_idle().await).await;
    let letters = nats.messages(DEAD_LETTERS).await;
    assert!(!letters.iter().any(|letter| known.contains(letter.header("dead-sequence"))), "{letters:?}");
    assert_eq!(holdings(&Books::read(&platform).await), holdings(&before));

    // Once the orders are replaced, and the watermark has passed that too, it knows nothing of them any more.
    client.batch_orders(200, 12, 40, 1).await;
    eventually("the replaced orders are forgotten", async || keys(&platform, "order", "replaced:").await.is_empty())
        .await;
    let before = Books::read(&platform).await;
    for kind in ends {
        assert_too_old(&nats, kind, nats.publish_again(first(&events, kind)).await).await;
    }
    let after = Books::read(&platform).await;
    assert_eq!(holdings(&after), holdings(&before));
    assert!(after.payments.is_empty() && after.reservations.is_empty() && after.undo.is_empty(), "a record began anew");
}

/// (There may be other dead letters: what a machine that stood still has delivered again comes too late as well.)
async fn assert_too_old(nats: &Nats, kind: &str, sequence: u64) {
    let letter = nats.dead_letter_of(sequence).await;
    assert_eq!(letter.header("dead-subject"), kind);
    assert!(letter.header("dead-reason").starts_with("too old: saga"), "{}", letter.header("dead-reason"));
}

/// The time of the order database.
async fn order_time_ms(platform: &Platform) -> u64 {
    let mut database = database(platform, "order").await;
    let (s, us): (u64, u64) = redis::cmd("TIME").query_async(&mut database.0).await.unwrap();
    s * 1_000 + us / 1_000
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_saga_is_open_nothing_newer_than_it_is_forgotten() {
    // It stays open until the test wants otherwise: nothing is replayed.
    let platform = Platform::start(forgetful().set("order.REPLAY_FIRST_MS=3600000")).await;
    let (nats, client) = (Nats::of(&platform).await, platform.client());
    Seed::plenty(SAGAS + 1).fill(&client).await;
    // The first use of a command costs the database memory for good.
    let (user, item) = (client.user(100).await, client.item(1, 100).await);
    for _ in 0..20 {
        let order = client.order(&user, &[(&item, 1)]).await;
        client.checkout(&order).await.expect_status(200);
    }
    let before = Books::read(&platform).await;
    let held_open = SAGAS.to_string();

    // The start of the last order is lost with the stream while payment is held still.
    let held = platform.hold("payment-1").await;
    let buyer = tokio::spawn({
        let (client, order) = (platform.client(), held_open.clone());
        async move { client.checkout(&order).await }
    });
    let is_its_start = |event: &Stored| event.subject == "checkout.started" && event.json()["order_id"] == held_open;
    let started = &until("its start", async || nats.events().await.into_iter().find(is_its_start)).await;
    let started_ms = started.json()["started_at_ms"].as_u64().unwrap();
    nats.purge().await;
    platform.end_and_await("payment-1", Signal::SIGKILL).await;
    drop(held);

    // Newer sagas come and go. (The last order is not among them.)
    let empty = memory(&platform).await;
    let answers = Load::start(&platform, SAGAS, 16).all().await;
    assert_eq!(answers.paid() as u64, SAGAS);
    let newest = order_time_ms(&platform).await;
    let forgettable_ms = (newest / BUCKET_MS + 1) * BUCKET_MS;
    let told = async || nats.count("checkout.watermark").await;
    until("the newer records would be due, and three more watermarks are told", async || {
        let due = order_time_ms(&platform).await > forgettable_ms;
        (due && told().await >= 3).then_some(())
    })
    .await;
    let already = told().await;
    eventually("three more watermarks are told", async || told().await >= already + 3).await;
    eventually("everybody has taken them", async || nats.is_idle().await).await;
    for service in ["order", "payment", "stock"] {
        let watermark = watermark(&platform, service).await;
        assert!(watermark <= started_ms, "{service}'s watermark {watermark} has passed the open saga of {started_ms}");
        assert!(watermark + 60_000 > started_ms, "{service}'s watermark {watermark} does not rise");
    }
    let books = Books::read(&platform).await;
    let records = books.payments.len().min(books.reservations.len()) as u64;
    assert!(records >= SAGAS, "newer records were forgotten: {records} are left");
    let full = memory(&platform).await;

    // Its start comes at last: it completes, and then everything is forgotten.
    nats.publish_again(started).await;
    eventually("the last order is paid", async || client.is_paid(&held_open).await).await;
    buyer.abort();
    all_is_forgotten(&platform).await;
    let books = Books::read(&platform).await;
    assert_eq!((books.paid() - before.paid()) as u64, SAGAS + 1);
    assert_eq!(books.all_credit(), before.all_credit() - 2 * i128::from(SAGAS + 1));
    let grown = [0, 1].map(|n| full[n].saturating_sub(empty[n]));
    assert!(grown.iter().all(|grown| *grown > 25 * SAGAS), "records take memory: {empty:?} bytes, then {full:?}");
    eventually("the memory of the records is back", async || {
        let rest = memory(&platform).await;
        (0..2).all(|n| rest[n] < empty[n] + grown[n] / 2)
    })
    .await;
}
