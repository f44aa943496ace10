//! Outcome records are forgotten behind the watermark, and from then on nothing may begin there.

use common::event::Watermark;
use common::limits::{MAX_BUCKETS_PER_TRIM, OUTCOME_BUCKET_MS};
use payment::decision::Outcome;
use payment::effect::trim;

use crate::support::{Payment, START_MS, declined, refunded, saga, started_at, voided};

async fn trim_to(payment: &Payment, closed_before_ms: u64) -> Vec<String> {
    payment.db.texts(trim(Watermark { closed_before_ms })).await
}

#[tokio::test]
async fn only_whole_buckets_behind_the_watermark_are_forgotten() {
    let mut payment = Payment::with_users(&[("7", 100)]).await;
    let times = [START_MS, START_MS + OUTCOME_BUCKET_MS - 1, START_MS + OUTCOME_BUCKET_MS];
    for (n, time) in times.into_iter().enumerate() {
        payment.debit(&started_at(saga(&format!("{n}.k.0"), "7", 10), time)).await;
    }
    assert_eq!(trim_to(&payment, START_MS + OUTCOME_BUCKET_MS - 1).await, ["ok", "0", "0"]);
    assert_eq!(payment.records().len(), 3);
    assert_eq!(trim_to(&payment, START_MS + OUTCOME_BUCKET_MS).await, ["ok", "2", "0"]);
    assert_eq!(payment.records().into_keys().collect::<Vec<_>>(), ["2.k.0"]);
    assert_eq!(payment.db.console.keys("outcomes:").len(), 1);
    assert_eq!(trim_to(&payment, START_MS + OUTCOME_BUCKET_MS).await, ["ok", "0", "0"], "a repeat finds nothing");
    assert_eq!(payment.credit("7"), Some(70), "what was done stays done");
    payment.assert_books_balance();
}

#[tokio::test]
async fn the_watermark_only_rises() {
    let mut payment = Payment::start().await;
    for (told, kept) in [(500, 500), (400, 500), (500, 500), (0, 500), (501, 501)] {
        trim_to(&payment, told).await;
        assert_eq!(payment.db.console.number(&["GET", "watermark"]), kept, "after {told}");
    }
}

#[tokio::test]
async fn a_watermark_from_the_future_is_not_believed() {
    let mut payment = Payment::start().await;
    let now = payment.db.console.number(&["TIME"]).cast_unsigned() * 1_000;
    let before = payment.db.console.dump();
    for far in [now + 60_000, now * 2, u64::MAX] {
        let told = trim_to(&payment, far).await;
        assert_eq!(told[0], "in_future", "{far}: {told:?}");
        assert!(told[1].parse::<u64>().unwrap() >= now, "{told:?}");
    }
    assert_eq!(payment.db.console.dump(), before, "nothing is changed");
    assert_eq!(trim_to(&payment, now).await, ["ok", "0", "0"], "that of a moment ago is");
}

#[tokio::test]
async fn an_old_watermark_that_comes_late_goes_on_with_the_trimming() {
    let mut payment = Payment::with_users(&[("7", 100)]).await;
    payment.debit(&saga("5.k.0", "7", 10)).await;
    payment.db.console.ask(&["SET", "watermark", &(START_MS + OUTCOME_BUCKET_MS).to_string()]);
    assert_eq!(trim_to(&payment, 1).await, ["ok", "1", "0"]);
    assert!(payment.records().is_empty());
}

#[tokio::test]
async fn a_trim_takes_a_bounded_number_of_buckets() {
    let mut payment = Payment::with_users(&[("7", 1_000)]).await;
    let more = 30;
    for n in 0..MAX_BUCKETS_PER_TRIM + more {
        payment.debit(&started_at(saga(&format!("{n}.k.0"), "7", 1), START_MS + n * OUTCOME_BUCKET_MS)).await;
    }
    let closed = START_MS + 1_000 * OUTCOME_BUCKET_MS;
    let (all, left) = (MAX_BUCKETS_PER_TRIM.to_string(), more.to_string());
    assert_eq!(trim_to(&payment, closed).await, ["ok", &all, &left]);
    assert_eq!(payment.records().len() as u64, more);
    assert_eq!(trim_to(&payment, closed).await, ["ok", &left, "0"]);
    assert!(payment.records().is_empty());
    assert_eq!(payment.db.console.keys("").len(), 3, "user, totals and watermark are left");
    payment.assert_books_balance();
}

#[tokio::test]
async fn nothing_begins_for_a_saga_that_is_too_old() {
    let mut payment = Payment::with_users(&[("7", 100)]).await;
    let (done, fresh) = (saga("1.k.0", "7", 10), saga("2.k.0", "7", 10));
    payment.debit(&done).await;
    let watermark = START_MS + OUTCOME_BUCKET_MS;
    trim_to(&payment, watermark).await;
    let before = payment.db.console.dump();
    for saga in [&done, &fresh] {
        assert_eq!(payment.debit(saga).await, Outcome::TooOld(watermark));
        assert_eq!(payment.refund(saga, "abandoned").await, Outcome::TooOld(watermark));
    }
    assert_eq!(payment.db.console.dump(), before, "nothing was applied and nothing recorded");
    let at_the_edge = started_at(fresh, watermark);
    assert_eq!(payment.debit(&at_the_edge).await, Outcome::Debited, "the watermark itself is not old");
    payment.assert_books_balance();
}

#[tokio::test]
async fn what_is_still_recorded_answers_however_old_it_is() {
    let mut payment = Payment::with_users(&[("7", 100)]).await;
    let (debited, poor, void) = (saga("1.k.0", "7", 10), saga("2.k.0", "7", 1_000), saga("3.k.0", "7", 10));
    payment.debit(&debited).await;
    payment.debit(&poor).await;
    payment.refund(&void, "abandoned").await;
    // The bucket has not ended at the watermark, so its records are kept.
    trim_to(&payment, START_MS + OUTCOME_BUCKET_MS - 1).await;
    assert_eq!(payment.debit(&debited).await, Outcome::Debited);
    assert_eq!(payment.debit(&poor).await, declined("insufficient_credit:7"));
    assert_eq!(payment.debit(&void).await, voided("abandoned"));
    assert_eq!(payment.refund(&debited, "abandoned").await, refunded("abandoned"), "what was begun can be undone");
    assert_eq!(payment.credit("7"), Some(100));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_saga_that_is_opened_again_later_meets_its_record_and_keeps_it() {
    let mut payment = Payment::with_users(&[("7", 100)]).await;
    let (first, later) = (saga("1.k.0", "7", 10), 3 * OUTCOME_BUCKET_MS);
    let again = started_at(first.clone(), START_MS + later);
    assert_eq!(payment.debit(&first).await, Outcome::Debited);
    assert_eq!(payment.debit(&again).await, Outcome::Debited);
    assert_eq!(payment.credit("7"), Some(90), "the same saga pays once, whenever it is said to have started");
    // The record went with the later start: the watermark passes the first one.
    trim_to(&payment, START_MS + later).await;
    assert_eq!(payment.debit(&again).await, Outcome::Debited);
    assert_eq!(payment.refund(&first, "abandoned").await, refunded("abandoned"), "an old message meets it too");
    assert_eq!(payment.records().len(), 1);
    assert_eq!(payment.credit("7"), Some(100));
    payment.assert_books_balance();
}
