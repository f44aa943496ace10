//! Redo: a published decision that a failover has lost is true again as it was decided, and one that survived is left alone.

use common::event::{Kind, SagaEvent};
use common::saga::Saga;
use common::trace::TraceParent;
use payment::decision::Outcome;
use payment::effect;

use crate::support::{Payment, START_MS, refunded, saga, started_at};

/// What the payment service has published about a saga.
pub fn published(saga: Saga, kind: Kind, reason: Option<&str>) -> SagaEvent {
    let first = SagaEvent::first(Kind::CheckoutStarted, saga, 0, TraceParent::random());
    first.then(kind, reason.map(|reason| reason.parse().unwrap()), 23)
}

async fn redo(payment: &Payment, saga: &Saga, kind: Kind, reason: Option<&str>) -> Vec<String> {
    payment.db.texts(effect::redo(&published(saga.clone(), kind, reason)).unwrap()).await
}

#[tokio::test]
async fn a_lost_debit_and_a_lost_refund_are_redone_once() {
    let mut payment = Payment::with_users(&[("7", 30)]).await;
    let saga = saga("5.k.0", "7", 20);
    for expected in ["redone", "known", "known"] {
        assert_eq!(redo(&payment, &saga, Kind::PaymentDebited, None).await, [expected]);
        assert_eq!((payment.credit("7"), payment.total("debited")), (Some(10), 20));
    }
    assert_eq!(payment.debit(&saga).await, Outcome::Debited, "nobody pays twice");
    for expected in ["redone", "known"] {
        assert_eq!(redo(&payment, &saga, Kind::PaymentRefunded, Some("out_of_stock:1")).await, [expected]);
        assert_eq!((payment.credit("7"), payment.total("refunded")), (Some(30), 20));
    }
    assert_eq!(redo(&payment, &saga, Kind::PaymentDebited, None).await, ["known"]);
    assert_eq!(payment.debit(&saga).await, refunded("out_of_stock:1"));
    payment.assert_books_balance();
}

#[tokio::test]
async fn what_takes_nothing_is_recorded_again() {
    let mut payment = Payment::with_users(&[("7", 30)]).await;
    let (declined, void) = (saga("5.k.0", "7", 20), saga("6.k.0", "7", 20));
    let reason = Some("insufficient_credit:7");
    for expected in ["redone", "known"] {
        assert_eq!(redo(&payment, &declined, Kind::PaymentDeclined, reason).await, [expected]);
        assert_eq!(redo(&payment, &void, Kind::PaymentRefunded, Some("abandoned")).await, [expected]);
    }
    assert_eq!(payment.record(&declined).as_deref(), Some("declined 20 7 insufficient_credit:7"));
    assert_eq!(payment.record(&void).as_deref(), Some("voided 20 7 abandoned"));
    // There is credit for it now, but it is decided.
    assert_eq!(payment.debit(&declined).await, crate::support::declined("insufficient_credit:7"));
    assert_eq!(payment.credit("7"), Some(30));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_debit_stands_where_the_deposit_before_it_is_lost_too() {
    let mut payment = Payment::with_users(&[("7", 15)]).await;
    assert_eq!(redo(&payment, &saga("5.k.0", "7", 20), Kind::PaymentDebited, None).await, ["short", "5"]);
    assert_eq!(redo(&payment, &saga("6.k.0", "8", 20), Kind::PaymentDebited, None).await, ["short", "20"]);
    assert_eq!((payment.credit("7"), payment.credit("8"), payment.total("uncovered")), (Some(0), None, 25));
    assert_eq!(payment.debit(&saga("6.k.0", "8", 20)).await, Outcome::Debited);
    payment.assert_books_balance();
}

#[tokio::test]
async fn what_contradicts_the_records_is_told_and_changes_nothing() {
    let mut payment = Payment::with_users(&[("7", 50)]).await;
    let debited = saga("5.k.0", "7", 20);
    payment.debit(&debited).await;
    let before = payment.db.console.dump();
    let other = saga("5.k.0", "7", 21);
    assert_eq!(redo(&payment, &other, Kind::PaymentDebited, None).await, ["conflict", "debited 20 7"]);
    let reason = Some("insufficient_credit:7");
    assert_eq!(redo(&payment, &debited, Kind::PaymentDeclined, reason).await, ["contradiction", "debited 20 7"]);
    assert_eq!(payment.db.console.dump(), before);
}

#[tokio::test]
async fn what_lies_behind_the_watermark_is_not_redone() {
    let mut payment = Payment::with_users(&[("7", 50)]).await;
    payment.db.console.ask(&["SET", "watermark", &START_MS.to_string()]);
    let old = started_at(saga("5.k.0", "7", 20), START_MS - 1);
    let redone = redo(&payment, &old, Kind::PaymentDebited, None).await;
    assert_eq!(redone, ["too_old".to_owned(), START_MS.to_string()]);
    assert_eq!(payment.credit("7"), Some(50));
    assert!(effect::redo(&published(old, Kind::StockReserved, None)).is_none(), "another's decision");
}
