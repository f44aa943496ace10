//! Events that come again, in any order, or before what they should follow: the outcome stays as it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use futures::future::join_all;
use nix::sys::signal::Signal;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use testing::books::Books;
use testing::client::Client;
use testing::load::{Load, Seed};
use testing::platform::{Options, Platform};
use testing::stream::{Nats, Stored};
use testing::wait::{eventually, until};

const ORDERS: u64 = 300;

/// A platform that replays nothing by itself, so that only the test repeats anything.
fn never_replays() -> Options {
    Options::default().set("order.REPLAY_FIRST_MS=3600000")
}

/// Sagas of every kind, ended: completed, without credit, without stock, and without a user.
async fn sagas_of_every_kind(platform: &Platform) -> Books {
    let client = platform.client();
    Seed::scarce(ORDERS).fill(&client).await;
    Load::start(platform, ORDERS, 16).all().await;
    let order = client.order("nobody", &[("0", 1)]).await;
    client.checkout(&order).await.expect_status(400);
    let books = Books::closed(platform).await;
    let reasons: BTreeSet<&str> = books.undo.values().filter_map(|undo| undo.reason.split(':').next()).collect();
    assert_eq!(reasons, BTreeSet::from(["", "insufficient_credit", "out_of_stock", "unknown_user"]));
    books
}

async fn publish_all(nats: &Nats, events: &[Stored]) {
    for some in events.chunks(200) {
        join_all(some.iter().map(|event| nats.publish_again(event))).await;
    }
}

/// For each saga one public fact, under one id.
async fn assert_one_fact_per_saga(nats: &Nats, books: &Books) {
    let facts = nats.facts().await;
    assert_eq!(facts.keys().collect::<Vec<_>>(), books.undo.keys().collect::<Vec<_>>());
    for (saga, ids) in facts {
        assert_eq!(ids.len(), 1, "the end of {saga} was told under several ids: {ids:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_delivered_three_times_in_any_order_changes_nothing() {
    let platform = Platform::start(Options::default().scale_all(2)).await;
    let books = sagas_of_every_kind(&platform).await;
    let nats = Nats::of(&platform).await;
    let events = nats.events().await;
    assert!(events.len() > 3 * usize::try_from(ORDERS).unwrap(), "{} events", events.len());
    let seed = 20_261_126;
    let mut all: Vec<Stored> = events.iter().chain(&events).chain(&events).cloned().collect();
    all.shuffle(&mut StdRng::seed_from_u64(seed));
    publish_all(&nats, &all).await;
    assert_eq!(Books::closed(&platform).await, books, "seed {seed}");
    assert_one_fact_per_saga(&nats, &books).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_closed_saga_changes_nothing_and_tells_its_end_under_the_same_id() {
    let platform = Platform::start(Options::default()).await;
    let books = sagas_of_every_kind(&platform).await;
    let nats = Nats::of(&platform).await;
    // As the reconciler would, in a later round.
    let replay = |event: &Stored| {
        let mut body = event.json();
        body["round"] = 3.into();
        Stored { payload: body.to_string().into(), ..event.clone() }
    };
    let events = nats.events().await;
    let started: Vec<Stored> = events.iter().filter(|it| it.subject == "checkout.started").map(replay).collect();
    publish_all(&nats, &started).await;
    assert_eq!(Books::closed(&platform).await, books);
    assert_one_fact_per_saga(&nats, &books).await;
    let again = nats.events().await;
    let newest = events.iter().map(|event| event.sequence).max().unwrap();
    let completed = |events: &[Stored], after: u64| -> BTreeSet<String> {
        let facts = events.iter().filter(|it| it.subject == "checkout.completed" && it.sequence > after);
        facts.map(|event| event.saga().to_owned()).collect()
    };
    let told = completed(&events, 0);
    assert!(!told.is_empty());
    assert_eq!(completed(&again, newest), told, "every repeat tells the fact again, should the first have been lost");
}

/// A user with 10, an item with 5 pieces at 2, and an order for 2 of them.
struct Shop {
    client: Client,
    user: String,
    item: String,
    order: String,
}

impl Shop {
    async fn open(platform: &Platform) -> Self {
        let client = platform.client();
        let (user, item) = (client.user(10).await, client.item(2, 5).await);
        let order = client.order(&user, &[(&item, 2)]).await;
        Self { client, user, item, order }
    }

    /// Starts the checkout, which does not come to its end while a service is held, and returns the first event of this kind.
    async fn begin(&self, nats: &Nats, kind: &str) -> Stored {
        let (client, order) = (self.client.clone(), self.order.clone());
        // What it is told depends on when the saga is undone.
        tokio::spawn(async move { client.checkout(&order).await });
        until(&format!("{kind} is published"), async || nats.events().await.into_iter().find(|it| it.subject == kind))
            .await
    }

    async fn assert_unchanged(&self) {
        assert_eq!((self.client.credit(&self.user).await, self.client.pieces(&self.item).await), (10, 5));
        assert!(!self.client.is_paid(&self.order).await);
    }
}

/// Gives a saga up, as the reconciler does: the place of the event in the stream.
async fn abandon(nats: &Nats, event: &Stored) -> u64 {
    let mut body = event.json();
    body["reason"] = "abandoned".into();
    body["trail"] = serde_json::json!([]);
    nats.publish("checkout.abandoned", HeaderMap::new(), body.to_string()).await
}

async fn record(platform: &Platform, service: &str, saga: &str, prefix: &str) {
    eventually(&format!("{service} has recorded {prefix:?}"), async || {
        let books = Books::read(platform).await;
        let records = if service == "payment" { &books.payments } else { &books.reservations };
        records.get(saga).is_some_and(|record| record.starts_with(prefix))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_before_its_debit_keeps_the_debit_from_ever_happening() {
    let platform = Platform::start(never_replays()).await;
    let (nats, shop) = (Nats::of(&platform).await, Shop::open(&platform).await);
    let held = platform.hold("payment-1").await;
    let started = shop.begin(&nats, "checkout.started").await;
    // The stream forgets the start, stock decides against the saga, and payment hears of that first.
    nats.purge().await;
    abandon(&nats, &started).await;
    record(&platform, "stock", started.saga(), "failed").await;
    platform.end_and_await("payment-1", Signal::SIGKILL).await;
    drop(held);
    record(&platform, "payment", started.saga(), "voided").await;
    let before = Books::closed(&platform).await;
    shop.assert_unchanged().await;

    nats.publish_again(&started).await;
    assert_eq!(Books::closed(&platform).await, before);
    shop.assert_unchanged().await;
    // The order lives on: its next try is another saga.
    shop.client.checkout(&shop.order).await.expect_status(200);
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_after_its_abandonment_takes_nothing() {
    let platform = Platform::start(never_replays()).await;
    let (nats, shop) = (Nats::of(&platform).await, Shop::open(&platform).await);
    let held = platform.hold("stock-1").await;
    let debited = shop.begin(&nats, "payment.debited").await;
    nats.purge().await;
    abandon(&nats, &debited).await;
    platform.end_and_await("stock-1", Signal::SIGKILL).await;
    drop(held);
    record(&platform, "payment", debited.saga(), "refunded").await;
    let before = Books::closed(&platform).await;
    shop.assert_unchanged().await;

    nats.publish_again(&debited).await;
    assert_eq!(Books::closed(&platform).await, before);
    shop.assert_unchanged().await;
    shop.client.checkout(&shop.order).await.expect_status(200);
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandonment_after_the_reservation_changes_nothing() {
    let platform = Platform::start(never_replays()).await;
    let (nats, shop) = (Nats::of(&platform).await, Shop::open(&platform).await);
    shop.client.checkout(&shop.order).await.expect_status(200);
    let before = Books::closed(&platform).await;
    let started = nats.events().await.into_iter().find(|it| it.subject == "checkout.started").unwrap();
    let abandoned = abandon(&nats, &started).await;
    eventually("stock says it again", async || {
        nats.events().await.iter().any(|it| it.subject == "stock.reserved" && it.sequence > abandoned)
    })
    .await;
    assert_eq!(Books::closed(&platform).await, before);
    assert!(shop.client.is_paid(&shop.order).await);
}
