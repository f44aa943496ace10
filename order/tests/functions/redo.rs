//! Redo: starts and closings that were published, and that a failover has lost, are true again as they were.

use common::event::{Kind, SagaEvent};
use common::saga::Saga;
use common::undo::State;
use order::effect::{self, Begun};

use crate::support::{Orders, RETENTION_S, TRACE, failed};

/// What the order service has published about a saga.
pub fn published(saga: &Saga, kind: Kind, reason: Option<&str>) -> SagaEvent {
    let first = SagaEvent::first(Kind::CheckoutStarted, saga.clone(), 3, TRACE.parse().unwrap());
    SagaEvent { kind, reason: reason.map(|reason| reason.parse().unwrap()), ..first }
}

async fn redo(orders: &Orders, saga: &Saga, kind: Kind, reason: Option<&str>) -> Vec<String> {
    orders.db.texts(effect::redo(&published(saga, kind, reason), RETENTION_S).unwrap()).await
}

/// A saga that was begun in a database that has lost everything since, but for what `keeps` says.
async fn lost(keeps: impl Fn(&mut Orders)) -> (Orders, Saga) {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    orders.db.clear();
    keeps(&mut orders);
    (orders, saga)
}

#[tokio::test]
async fn a_lost_start_is_redone_with_its_order() {
    for keeps_order in [true, false] {
        let (mut orders, saga) = lost(|orders| {
            if keeps_order {
                orders.put_order("5", "k");
            }
        })
        .await;
        for expected in ["redone", "known"] {
            assert_eq!(redo(&orders, &saga, Kind::CheckoutStarted, None).await, [expected]);
            assert_eq!((orders.places(&saga), orders.total("started")), (vec!["open"], 1));
        }
        assert_eq!(orders.scores("open")["5.k.0"], saga.started_at_ms);
        assert_eq!((&*orders.order("5", "saga"), &*orders.order("5", "user")), ("5.k.0", "7"));
        assert_eq!((&*orders.order("5", "total"), &*orders.order("5", "paid")), ("20", "0"));
        let undo = orders.undo(&saga);
        assert_eq!((&*undo["state"], &*undo["round"], &*undo["traceparent"]), ("started", "3", TRACE));
        assert_eq!(orders.begin("5", "inbox", None).await, Begun::Joined(saga.saga_id.clone()));
        assert_eq!(redo(&orders, &saga, Kind::CheckoutCompleted, None).await, ["closed", "inbox"]);
        assert_eq!(redo(&orders, &saga, Kind::CheckoutCompleted, None).await[0], "repeat");
        assert_eq!(redo(&orders, &saga, Kind::CheckoutFailed, Some("abandoned")).await[0], "ended_twice");
        assert_eq!((&*orders.order("5", "paid"), orders.places(&saga).len()), ("1", 0));
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn a_start_whose_saga_has_ended_is_not_opened_again() {
    for (end, paid) in [(State::Completed, "1"), (failed("abandoned"), "0")] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        orders.close(&saga, &end).await;
        assert_eq!(redo(&orders, &saga, Kind::CheckoutStarted, None).await, ["known"]);
        // Its entry has lived its time.
        orders.db.console.ask(&["DEL", "undo:5.k.0"]);
        assert_eq!(redo(&orders, &saga, Kind::CheckoutStarted, None).await, ["known"]);
        assert_eq!((&*orders.order("5", "paid"), orders.places(&saga).len()), (paid, 0));
    }
}

#[tokio::test]
async fn a_lost_second_attempt_is_redone_although_the_end_of_the_first_is_lost_too() {
    let mut orders = Orders::with_order().await;
    let first = orders.started("5", "inbox", None).await;
    let second = Saga { saga_id: "5.k.1".parse().unwrap(), ..first.clone() };
    assert_eq!(redo(&orders, &second, Kind::CheckoutStarted, None).await, ["redone"]);
    assert_eq!((&*orders.order("5", "attempt"), &*orders.order("5", "saga")), ("1", "5.k.1"));
    orders.close(&first, &failed("abandoned")).await;
    assert_eq!((&*orders.order("5", "attempt"), &*orders.order("5", "saga")), ("1", "5.k.1"));
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_replaced_order_is_left_alone_and_its_saga_goes_on() {
    let (mut orders, saga) = lost(|orders| orders.put_order("5", "other")).await;
    assert_eq!(redo(&orders, &saga, Kind::CheckoutStarted, None).await, ["redone"]);
    assert_eq!((&*orders.order("5", "incarnation"), &*orders.order("5", "saga")), ("other", ""));
    assert_eq!(orders.places(&saga), ["open"]);
}

#[tokio::test]
async fn what_conflicts_or_is_forgotten_changes_nothing() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    let watermark = (saga.started_at_ms + 1).to_string();
    orders.db.console.ask(&["SET", "watermark", &watermark]);
    let before = orders.db.console.dump();
    let other = Saga { amount: 21.try_into().unwrap(), ..saga.clone() };
    assert_eq!(redo(&orders, &other, Kind::CheckoutStarted, None).await, ["conflict", "7 20"]);
    let old = Saga { saga_id: "5.k.1".parse().unwrap(), ..saga.clone() };
    assert_eq!(redo(&orders, &old, Kind::CheckoutStarted, None).await, ["too_old".to_owned(), watermark]);
    assert_eq!(orders.db.console.dump(), before);
    let abandoned = published(&saga, Kind::CheckoutAbandoned, Some("abandoned"));
    assert!(effect::redo(&abandoned, RETENTION_S).is_none(), "stands for no effect");
}
