//! The watermark: never beyond the oldest open saga, less a margin, and never back.

use std::time::Duration;

use common::undo::State;
use order::config::ReconcileSettings;
use order::effect::raise_watermark;

use crate::support::{Orders, settings};

const MARGIN_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;

fn margin(ms: u64) -> ReconcileSettings {
    let fast = settings(Duration::ZERO, Duration::from_secs(10));
    ReconcileSettings { watermark_margin: Duration::from_millis(ms), ..fast }
}

/// What the function answers: the watermark, the open sagas, the age of the oldest.
async fn raise(orders: &mut Orders, margin_ms: u64) -> (u64, u64, u64) {
    let reply = orders.db.call(raise_watermark(&margin(margin_ms))).await;
    assert_eq!(reply.code(), "ok");
    let watermark: u64 = reply.parse(1).unwrap();
    assert_eq!(orders.db.console.text(&["GET", "watermark"]), Some(watermark.to_string()), "it is kept");
    (watermark, reply.parse(2).unwrap(), reply.parse(3).unwrap())
}

#[tokio::test]
async fn with_nothing_open_it_follows_the_clock_at_the_margin() {
    let mut orders = Orders::start().await;
    let before = orders.now_ms();
    let (watermark, open, oldest_ms) = raise(&mut orders, MARGIN_MS).await;
    let after = orders.now_ms();
    assert!((before - MARGIN_MS..=after - MARGIN_MS).contains(&watermark));
    assert_eq!((open, oldest_ms), (0, 0));
}

#[tokio::test]
async fn the_oldest_open_saga_holds_it_back_before_and_after_it_is_claimed() {
    let mut orders = Orders::with_order().await;
    let oldest = orders.started("5", "inbox", None).await;
    let oldest = orders.make_older(&oldest, 2 * HOUR_MS);
    orders.put_order("6", "k");
    let younger = orders.started("6", "inbox", None).await;
    let younger = orders.make_older(&younger, HOUR_MS);
    let held = oldest.started_at_ms - MARGIN_MS;
    let (watermark, open, age) = raise(&mut orders, MARGIN_MS).await;
    assert_eq!((watermark, open), (held, 2));
    assert!((2 * HOUR_MS..3 * HOUR_MS).contains(&age), "{age}");

    let (claimed, _) = orders.claim(&settings(Duration::from_millis(HOUR_MS * 3 / 2), Duration::from_secs(60))).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!((orders.places(&oldest), orders.places(&younger)), (vec!["retry", "retry_started"], vec!["open"]));
    let (watermark, open, age) = raise(&mut orders, MARGIN_MS).await;
    assert_eq!((watermark, open), (held, 2));
    assert!((2 * HOUR_MS..3 * HOUR_MS).contains(&age), "{age}");

    orders.close(&oldest, &State::Completed).await;
    let (watermark, open, _) = raise(&mut orders, MARGIN_MS).await;
    assert_eq!((watermark, open), (younger.started_at_ms - MARGIN_MS, 1), "the next one holds it");
    orders.close(&younger, &State::Completed).await;
    let before = orders.now_ms();
    let (watermark, open, _) = raise(&mut orders, MARGIN_MS).await;
    assert!(watermark >= before - MARGIN_MS);
    assert_eq!(open, 0);
}

#[tokio::test]
async fn it_never_falls() {
    let mut orders = Orders::with_order().await;
    let (first, ..) = raise(&mut orders, MARGIN_MS).await;
    assert_eq!(raise(&mut orders, 2 * HOUR_MS).await.0, first, "a larger margin does not lower it");
    let saga = orders.started("5", "inbox", None).await;
    orders.make_older(&saga, HOUR_MS);
    assert_eq!(raise(&mut orders, MARGIN_MS).await.0, first, "a saga that turns out to be older does not lower it");
    let ahead = orders.now_ms() + HOUR_MS;
    orders.db.console.ask(&["SET", "watermark", &ahead.to_string()]);
    assert_eq!(raise(&mut orders, 0).await.0, ahead, "a clock that is set back does not lower it");
}

#[tokio::test]
async fn what_is_kept_of_a_replaced_order_goes_when_the_watermark_has_passed_it_and_not_before() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    orders.close(&saga, &State::Completed).await;
    orders.replace("5", "another").await;
    // One that has had no saga leaves nothing behind.
    orders.replace("5", "third").await;
    let at_ms = orders.scores("replaced")["replaced:5.k"];
    assert!(at_ms >= saga.started_at_ms);
    for (watermark, kept) in [(at_ms + 2 * HOUR_MS, 1), (at_ms + 2 * HOUR_MS + 1, 0)] {
        orders.db.console.ask(&["SET", "watermark", &watermark.to_string()]);
        raise(&mut orders, 2 * HOUR_MS).await;
        assert_eq!((orders.scores("replaced").len(), orders.db.console.keys("replaced:").len()), (kept, kept));
    }
}

#[tokio::test]
async fn a_margin_beyond_the_epoch_is_no_watermark() {
    let mut orders = Orders::start().await;
    assert_eq!(raise(&mut orders, 1_000_000_000_000_000).await, (0, 0, 0));
}
