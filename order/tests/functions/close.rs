//! Closing an undo entry: once, and with it the order's open saga.

use common::event::Kind;
use common::saga::Saga;
use common::undo::State;
use order::decision::Outcome;
use order::effect::{Begun, find_undo, redo_start};
use order::undo::read_entry;
use serde_json::json;

use crate::redo::published;
use crate::support::{Orders, RETENTION_S, closed, failed, settings};
use std::time::Duration;

#[tokio::test]
async fn a_completed_saga_pays_the_order() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox-1", None).await;
    orders.begin("5", "inbox-2", None).await;
    let before = orders.now_ms();
    assert_eq!(orders.close(&saga, &State::Completed).await, closed(&["inbox-1", "inbox-2"]));
    assert_eq!((orders.order("5", "paid"), orders.order("5", "saga")), ("1".into(), String::new()));
    assert_eq!((orders.order("5", "attempt"), orders.places(&saga)), ("0".into(), vec![]));
    assert_eq!((orders.total("completed"), orders.total("completed_amount"), orders.total("failed")), (1, 20, 0));
    let undo = orders.undo(&saga);
    assert_eq!((&*undo["state"], &*undo["steps"], undo.get("reason")), ("completed", "payment.debited@17", None));
    assert!((before..=orders.now_ms()).contains(&undo["closed_ms"].parse().unwrap()));
    let ttl = orders.db.console.number(&["TTL", "undo:5.k.0"]);
    assert!((1..=RETENTION_S.cast_signed()).contains(&ttl), "a closed entry can be read for a time: {ttl}");
    assert_eq!(orders.begin("5", "inbox", None).await, Begun::Paid);
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_failed_saga_sets_the_order_free() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox-1", None).await;
    assert_eq!(orders.close(&saga, &failed("out_of_stock:a")).await, closed(&["inbox-1"]));
    assert_eq!((orders.order("5", "paid"), orders.order("5", "saga")), ("0".into(), String::new()));
    assert_eq!((orders.order("5", "attempt"), orders.places(&saga)), ("1".into(), vec![]));
    assert_eq!((orders.total("failed"), orders.total("failed_amount"), orders.total("completed")), (1, 20, 0));
    let entry = read_entry(&saga.saga_id, &orders.db.call(find_undo(&saga.saga_id)).await).unwrap().unwrap();
    assert_eq!(entry.state, failed("out_of_stock:a"));
    assert_eq!((&entry.view["reason"], &entry.view["amount"]), (&json!("out_of_stock:a"), &json!(20)));
    assert_eq!(entry.view["items"], json!([["b", 1], ["a", 2], ["b", 3]]));
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_repeated_close_changes_nothing_and_the_first_reason_stands() {
    for end in [State::Completed, failed("out_of_stock:a")] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        orders.close(&saga, &end).await;
        let before = orders.db.console.dump();
        assert_eq!(orders.close(&saga, &end).await, Outcome::Repeat(end.clone()));
        if end != State::Completed {
            assert_eq!(orders.close(&saga, &failed("abandoned")).await, Outcome::Repeat(end));
        }
        assert_eq!(orders.db.console.dump(), before);
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn a_saga_that_would_end_twice_is_loud_and_changes_nothing() {
    for (first, second) in [(State::Completed, failed("abandoned")), (failed("abandoned"), State::Completed)] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        orders.close(&saga, &first).await;
        let before = orders.db.console.dump();
        assert_eq!(orders.close(&saga, &second).await, Outcome::EndedTwice(first.name().into()));
        assert_eq!(orders.db.console.dump(), before);
    }
}

#[tokio::test]
async fn the_same_saga_with_other_content_is_a_conflict_and_changes_nothing() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    let dear = Saga { amount: 21.try_into().unwrap(), ..saga.clone() };
    let foreign = Saga { user_id: "8".parse().unwrap(), ..saga.clone() };
    for round in 0..2 {
        let before = orders.db.console.dump();
        for other in [&dear, &foreign] {
            for end in [State::Completed, failed("abandoned")] {
                assert_eq!(orders.close(other, &end).await, Outcome::Conflict("7 20".into()));
            }
        }
        assert_eq!(orders.db.console.dump(), before, "round {round}");
        // Once more for the closed entry.
        orders.close(&saga, &State::Completed).await;
    }
}

#[tokio::test]
async fn a_saga_that_was_claimed_leaves_every_set_when_it_is_closed() {
    for end in [State::Completed, failed("abandoned")] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        orders.claim(&settings(Duration::ZERO, Duration::from_secs(10))).await;
        assert_eq!(orders.places(&saga), ["retry", "retry_started"]);
        assert_eq!(orders.close(&saga, &end).await, closed(&["inbox"]));
        assert_eq!(orders.places(&saga), Vec::<&str>::new());
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn an_order_that_was_replaced_is_left_alone() {
    for end in [State::Completed, failed("abandoned")] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        orders.put_order("5", "another");
        let before = orders.db.console.hash("order:5");
        assert_eq!(orders.close(&saga, &end).await, closed(&["inbox"]));
        assert_eq!(orders.db.console.hash("order:5"), before);
        let next = orders.started("5", "inbox", None).await;
        assert_eq!(next.saga_id.as_str(), "5.another.0");
        // A late repeat for the earlier incarnation does not touch the saga that is open now.
        assert_eq!(orders.close(&saga, &end).await, Outcome::Repeat(end.clone()));
        assert_eq!((orders.order("5", "saga"), orders.places(&next)), ("5.another.0".into(), vec!["open"]));
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn an_open_saga_is_closed_however_old_it_is() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    orders.db.console.ask(&["SET", "watermark", &(saga.started_at_ms + 1).to_string()]);
    assert_eq!(orders.close(&saga, &State::Completed).await, closed(&["inbox"]));
    orders.assert_books_balance();
}

#[tokio::test]
async fn what_a_later_version_has_added_to_an_order_or_an_entry_is_left_alone() {
    let mut orders = Orders::with_order().await;
    orders.db.console.ask(&["HSET", "order:5", "later", "1"]);
    let saga = orders.started("5", "inbox-1", None).await;
    orders.db.console.ask(&["HSET", "undo:5.k.0", "later", "1"]);
    assert_eq!(orders.begin("5", "inbox-2", None).await, Begun::Joined(saga.saga_id.clone()));
    let (claimed, _) = orders.claim(&settings(Duration::ZERO, Duration::ZERO)).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(orders.close(&saga, &failed("out_of_stock:a")).await, closed(&["inbox-1", "inbox-2"]));
    let entry = read_entry(&saga.saga_id, &orders.db.call(find_undo(&saga.saga_id)).await).unwrap().unwrap();
    assert_eq!(entry.state, failed("out_of_stock:a"));
    assert_eq!((&*orders.undo(&saga)["later"], &*orders.order("5", "later")), ("1", "1"));
    orders.assert_books_balance();
}

/// Undo entries live no longer.
fn expire(orders: &mut Orders, saga: &Saga) {
    orders.db.console.ask(&["DEL", &format!("undo:{}", saga.saga_id)]);
}

#[tokio::test]
async fn a_saga_of_a_replaced_order_is_over_when_its_undo_entry_has_expired_until_the_watermark_has_passed_it() {
    for end in [State::Completed, failed("abandoned")] {
        let other = if end == State::Completed { failed("abandoned") } else { State::Completed };
        // Replaced after the saga's end, and before.
        for is_closed_first in [true, false] {
            let mut orders = Orders::with_order().await;
            let saga = orders.started("5", "inbox", None).await;
            if is_closed_first {
                orders.close(&saga, &end).await;
            }
            orders.replace("5", "another").await;
            if !is_closed_first {
                assert_eq!(orders.close(&saga, &end).await, closed(&["inbox"]));
            }
            expire(&mut orders, &saga);
            let before = orders.db.console.dump();
            assert!(matches!(orders.close(&saga, &end).await, Outcome::Repeat(state) if state.name() == end.name()));
            assert_eq!(orders.close(&saga, &other).await, Outcome::EndedTwice(end.name().into()));
            let start = published(&saga, Kind::CheckoutStarted, None);
            assert_eq!(orders.db.texts(redo_start(&start)).await, ["known"]);
            assert_eq!(orders.db.console.dump(), before);
            assert_eq!(orders.scores("replaced").into_keys().collect::<Vec<_>>(), ["replaced:5.k"]);
            orders.assert_books_balance();
        }
    }
}

#[tokio::test]
async fn the_end_of_a_saga_whose_order_is_lost_outlives_its_undo_entry() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    orders.db.clear();
    assert_eq!(orders.close(&saga, &State::Completed).await, closed(&[]));
    expire(&mut orders, &saga);
    assert_eq!(orders.close(&saga, &State::Completed).await, Outcome::Repeat(State::Completed));
    assert_eq!((orders.total("completed"), orders.scores("replaced").len()), (1, 1));
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_lost_start_of_a_replaced_order_leaves_the_new_order_alone() {
    let mut orders = Orders::with_order().await;
    let first = orders.started("5", "inbox", None).await;
    orders.close(&first, &failed("abandoned")).await;
    let saga = orders.started("5", "inbox", None).await;
    orders.replace("5", "another").await;
    expire(&mut orders, &saga);
    orders.db.console.ask(&["ZREM", "open", saga.saga_id.as_str()]);
    let before = orders.db.console.hash("order:5");
    let start = published(&saga, Kind::CheckoutStarted, None);
    assert_eq!(orders.db.texts(redo_start(&start)).await, ["redone"]);
    assert_eq!(orders.close(&saga, &State::Completed).await, closed(&[]));
    assert_eq!(orders.db.console.hash("order:5"), before);
    assert_eq!(orders.db.console.hash("replaced:5.k")["paid"], "1");
}
