//! The process ends at every point between two effects, under load: afterwards every saga is closed and the books are right.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use testing::books::Books;
use testing::load::{Load, Seed};
use testing::platform::{Options, Platform};
use testing::stream::Nats;

const ORDERS: u64 = 400;
const CLIENTS: usize = 32;

/// Ends `service` at its `n`-th passing of `point` while some hundred checkouts run.
async fn crash(options: Options, service: &str, point: &str, n: u32) {
    let platform = Platform::start(options.set(&format!("{service}.CRASH_AT={point}:{n}"))).await;
    let instance = format!("{service}-1");
    let before = platform.pid(&instance).unwrap();
    Seed::scarce(ORDERS).fill(&platform.client()).await;
    let answers = Load::start(&platform, ORDERS, CLIENTS).all().await;

    platform.restarted(&instance, before).await;
    let log = platform.folder().log(&instance);
    assert!(log.contains(&format!("crash point {point}: ending the process")), "{instance} did not end at {point}");
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
    let (paid, refused) = (answers.paid(), answers.refused());
    assert!(paid > 0 && refused > 0, "the load must have seen both: {paid} paid, {refused} refused");
    assert_facts_are_told_once(&platform, &books).await;
}

/// For each saga one public fact, and the right one, however often it was published.
async fn assert_facts_are_told_once(platform: &Platform, books: &Books) {
    let facts = Nats::of(platform).await.facts().await;
    for (saga, undo) in &books.undo {
        let told = facts.get(saga).cloned().unwrap_or_default();
        let expected = BTreeSet::from([format!("{saga}/checkout.{}", undo.state)]);
        assert_eq!(told, expected, "{saga}");
    }
    assert_eq!(facts.len(), books.undo.len());
}

macro_rules! crash_points {
    ($($test:ident: $point:literal in $service:literal at $n:literal,)*) => {
        /// Every point and the service that passes it.
        const POINTS: &[&str] = &[$($point),*];

        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                crash(Options::default().recovers_soon(), $service, $point, $n).await;
            }
        )*
    };
}

/// The same with a reconciler that does nothing: what payment and stock had in hand comes again from the stream alone, because
/// nothing is acknowledged before what follows from it is stored.
macro_rules! crash_points_without_replays {
    ($($test:ident: $point:literal in $service:literal at $n:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let never = Options::default().recovers_soon().set("order.REPLAY_FIRST_MS=3600000");
                crash(never, $service, $point, $n).await;
            }
        )*
    };
}

// The first three are passed once per request or per batch of closes, the others once per batch; a batch has some 10 events here.
crash_points! {
    order_after_the_undo_entry: "order.begun" in "order" at 50,
    order_after_the_start_is_told: "order.told" in "order" at 50,
    order_after_the_undo_entry_is_closed: "order.closed" in "order" at 5,
    order_before_its_effects: "order.received" in "order" at 5,
    order_between_effects_and_publish: "order.effect" in "order" at 5,
    order_between_publish_and_ack: "order.published" in "order" at 5,
    order_after_the_ack: "order.acked" in "order" at 5,
    payment_before_its_effects: "payment.received" in "payment" at 5,
    payment_between_effects_and_publish: "payment.effect" in "payment" at 5,
    payment_between_publish_and_ack: "payment.published" in "payment" at 5,
    payment_after_the_ack: "payment.acked" in "payment" at 5,
    stock_before_its_effects: "stock.received" in "stock" at 5,
    stock_between_effects_and_publish: "stock.effect" in "stock" at 5,
    stock_between_publish_and_ack: "stock.published" in "stock" at 5,
    stock_after_the_ack: "stock.acked" in "stock" at 5,
}

crash_points_without_replays! {
    the_stream_alone_finishes_what_payment_had_received: "payment.received" in "payment" at 5,
    the_stream_alone_finishes_what_payment_had_done: "payment.effect" in "payment" at 5,
    the_stream_alone_finishes_what_payment_had_told: "payment.published" in "payment" at 5,
    the_stream_alone_finishes_what_payment_had_acknowledged: "payment.acked" in "payment" at 5,
    the_stream_alone_finishes_what_stock_had_received: "stock.received" in "stock" at 5,
    the_stream_alone_finishes_what_stock_had_done: "stock.effect" in "stock" at 5,
    the_stream_alone_finishes_what_stock_had_told: "stock.published" in "stock" at 5,
    the_stream_alone_finishes_what_stock_had_acknowledged: "stock.acked" in "stock" at 5,
}

/// The points that the code passes: `crash::point("…")`, and one of each kind per durable in `nats/src/batch.rs`.
fn points_in_the_code() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut points = BTreeSet::new();
    for package in ["common", "nats", "order", "payment", "stock"] {
        for entry in std::fs::read_dir(root.join(package).join("src")).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            for rest in text.split("crash::point(").skip(1) {
                let argument = rest.split(')').next().unwrap();
                match argument.strip_prefix("points.") {
                    Some(kind) => {
                        points.extend(["order", "payment", "stock"].map(|durable| format!("{durable}.{kind}")))
                    }
                    None => _ = points.insert(argument.trim_matches('"').to_owned()),
                }
            }
        }
    }
    points
}

#[test]
fn every_crash_point_of_the_code_is_tested() {
    let tested: BTreeSet<String> = POINTS.iter().map(|&point| point.to_owned()).collect();
    assert_eq!(points_in_the_code(), tested);
}
