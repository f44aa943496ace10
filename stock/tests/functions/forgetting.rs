//! Outcome records are forgotten behind the watermark, and from then on nothing may begin there.

use common::event::Watermark;
use common::limits::{MAX_BUCKETS_PER_TRIM, OUTCOME_BUCKET_MS};
use stock::decision::Outcome;
use stock::effect::trim;

use crate::support::{START_MS, Stock, failed, saga, started_at};

async fn trim_to(stock: &Stock, closed_before_ms: u64) -> Vec<String> {
    stock.db.texts(trim(Watermark { closed_before_ms })).await
}

#[tokio::test]
async fn only_whole_buckets_behind_the_watermark_are_forgotten() {
    let mut stock = Stock::with_items(&[("a", 100)]).await;
    let times = [START_MS, START_MS + OUTCOME_BUCKET_MS - 1, START_MS + OUTCOME_BUCKET_MS];
    for (n, time) in times.into_iter().enumerate() {
        stock.reserve(&started_at(saga(&format!("{n}.k.0"), "a:10"), time)).await;
    }
    assert_eq!(trim_to(&stock, START_MS + OUTCOME_BUCKET_MS - 1).await, ["ok", "0", "0"]);
    assert_eq!(stock.records().len(), 3);
    assert_eq!(trim_to(&stock, START_MS + OUTCOME_BUCKET_MS).await, ["ok", "2", "0"]);
    assert_eq!(stock.records().into_keys().collect::<Vec<_>>(), ["2.k.0"]);
    assert_eq!(stock.db.console.keys("outcomes:").len(), 1);
    assert_eq!(trim_to(&stock, START_MS + OUTCOME_BUCKET_MS).await, ["ok", "0", "0"], "a repeat finds nothing");
    assert_eq!(stock.pieces("a"), Some(70), "what was done stays done");
    stock.assert_books_balance();
}

#[tokio::test]
async fn the_watermark_only_rises() {
    let mut stock = Stock::start().await;
    for (told, kept) in [(500, 500), (400, 500), (500, 500), (0, 500), (501, 501)] {
        trim_to(&stock, told).await;
        assert_eq!(stock.db.console.number(&["GET", "watermark"]), kept, "after {told}");
    }
}

#[tokio::test]
async fn a_watermark_from_the_future_is_not_believed() {
    let mut stock = Stock::start().await;
    let now = stock.db.console.number(&["TIME"]).cast_unsigned() * 1_000;
    let before = stock.db.console.dump();
    for far in [now + 60_000, now * 2, u64::MAX] {
        let told = trim_to(&stock, far).await;
        assert_eq!(told[0], "in_future", "{far}: {told:?}");
        assert!(told[1].parse::<u64>().unwrap() >= now, "{told:?}");
    }
    assert_eq!(stock.db.console.dump(), before, "nothing is changed");
    assert_eq!(trim_to(&stock, now).await, ["ok", "0", "0"], "that of a moment ago is");
}

#[tokio::test]
async fn an_old_watermark_that_comes_late_goes_on_with_the_trimming() {
    let mut stock = Stock::with_items(&[("a", 100)]).await;
    stock.reserve(&saga("5.k.0", "a:10")).await;
    stock.db.console.ask(&["SET", "watermark", &(START_MS + OUTCOME_BUCKET_MS).to_string()]);
    assert_eq!(trim_to(&stock, 1).await, ["ok", "1", "0"]);
    assert!(stock.records().is_empty());
}

#[tokio::test]
async fn a_trim_takes_a_bounded_number_of_buckets() {
    let mut stock = Stock::with_items(&[("a", 1_000)]).await;
    let more = 30;
    for n in 0..MAX_BUCKETS_PER_TRIM + more {
        stock.reserve(&started_at(saga(&format!("{n}.k.0"), "a:1"), START_MS + n * OUTCOME_BUCKET_MS)).await;
    }
    let closed = START_MS + 1_000 * OUTCOME_BUCKET_MS;
    let (all, left) = (MAX_BUCKETS_PER_TRIM.to_string(), more.to_string());
    assert_eq!(trim_to(&stock, closed).await, ["ok", &all, &left]);
    assert_eq!(stock.records().len() as u64, more);
    assert_eq!(trim_to(&stock, closed).await, ["ok", &left, "0"]);
    assert!(stock.records().is_empty());
    assert_eq!(stock.db.console.keys("").len(), 3, "item, totals and watermark are left");
    stock.assert_books_balance();
}

#[tokio::test]
async fn nothing_begins_for_a_saga_that_is_too_old() {
    let mut stock = Stock::with_items(&[("a", 100)]).await;
    let (done, fresh) = (saga("1.k.0", "a:10"), saga("2.k.0", "a:10"));
    stock.reserve(&done).await;
    let watermark = START_MS + OUTCOME_BUCKET_MS;
    trim_to(&stock, watermark).await;
    let before = stock.db.console.dump();
    for saga in [&done, &fresh] {
        assert_eq!(stock.reserve(saga).await, Outcome::TooOld(watermark));
        assert_eq!(stock.abandon(saga).await, Outcome::TooOld(watermark));
    }
    assert_eq!(stock.db.console.dump(), before, "nothing was applied and nothing recorded");
    let at_the_edge = started_at(fresh, watermark);
    assert_eq!(stock.reserve(&at_the_edge).await, Outcome::Reserved, "the watermark itself is not old");
    stock.assert_books_balance();
}

#[tokio::test]
async fn what_is_still_recorded_answers_however_old_it_is() {
    let mut stock = Stock::with_items(&[("a", 100)]).await;
    let (done, short, void) = (saga("1.k.0", "a:10"), saga("2.k.0", "a:1000"), saga("3.k.0", "a:10"));
    stock.reserve(&done).await;
    stock.reserve(&short).await;
    stock.abandon(&void).await;
    // The bucket has not ended at the watermark, so its records are kept.
    trim_to(&stock, START_MS + OUTCOME_BUCKET_MS - 1).await;
    assert_eq!(stock.reserve(&done).await, Outcome::Reserved);
    assert_eq!(stock.reserve(&short).await, failed("out_of_stock:a"));
    assert_eq!(stock.reserve(&void).await, failed("abandoned"));
    assert_eq!(stock.abandon(&done).await, Outcome::Reserved);
    assert_eq!(stock.pieces("a"), Some(90));
    stock.assert_books_balance();
}

#[tokio::test]
async fn a_saga_that_is_opened_again_later_meets_its_record_and_keeps_it() {
    let mut stock = Stock::with_items(&[("1", 100)]).await;
    let (first, later) = (saga("1.k.0", "1:10"), 3 * OUTCOME_BUCKET_MS);
    let again = started_at(first.clone(), START_MS + later);
    assert_eq!(stock.reserve(&first).await, Outcome::Reserved);
    assert_eq!(stock.reserve(&again).await, Outcome::Reserved);
    assert_eq!(stock.pieces("1"), Some(90), "the same saga takes once, whenever it is said to have started");
    // The record went with the later start: the watermark passes the first one.
    trim_to(&stock, START_MS + later).await;
    assert_eq!(stock.abandon(&again).await, Outcome::Reserved);
    assert_eq!(stock.reserve(&first).await, Outcome::Reserved, "an old message meets it too");
    assert_eq!(stock.records().len(), 1);
    assert_eq!(stock.pieces("1"), Some(90));
    stock.assert_books_balance();
}
