//! Closing a saga whose undo entry is gone: lost with the tail of a failover, or expired long after its end.

use common::saga::Saga;
use common::undo::State;
use order::decision::Outcome;
use order::effect::{Begun, find_undo};
use order::undo::read_entry;

use crate::support::{Orders, closed, failed};

/// Takes the database back to before the saga was begun, as a failover does that loses its tail.
fn lose_the_tail(orders: &mut Orders, saga: &Saga) {
    orders.db.console.ask(&["DEL", &format!("undo:{}", saga.saga_id), "open", "totals"]);
    orders.db.console.ask(&["HSET", &format!("order:{}", saga.order_id), "saga", ""]);
}

#[tokio::test]
async fn a_lost_entry_is_recovered_from_the_event_that_closes_it() {
    for end in [State::Completed, failed("abandoned")] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        lose_the_tail(&mut orders, &saga);
        assert_eq!(orders.close(&saga, &end).await, closed(&[]), "who waited for it is lost too");
        assert_eq!((orders.total("recovered"), orders.total(end.name())), (1, 1));
        let paid = if end == State::Completed { "1" } else { "0" };
        assert_eq!(orders.order("5", "paid"), paid);
        let undo = orders.undo(&saga);
        assert_eq!((&*undo["order"], &*undo["user"], &*undo["amount"], &*undo["items"]), ("5", "7", "20", "a:2,b:4"));
        assert_eq!((&*undo["state"], undo["started_ms"].parse()), (end.name(), Ok(saga.started_at_ms)));
        assert!(orders.db.console.number(&["TTL", "undo:5.k.0"]) > 0);
        let entry = read_entry(&saga.saga_id, &orders.db.call(find_undo(&saga.saga_id)).await).unwrap();
        assert_eq!(entry.unwrap().state, end);
        assert_eq!(orders.close(&saga, &end).await, Outcome::Repeat(end.clone()));
        assert_eq!(orders.total("recovered"), 1);
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn an_order_that_is_lost_too_is_not_invented() {
    for (end, replaced) in [(State::Completed, false), (failed("abandoned"), false), (State::Completed, true)] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        orders.db.console.ask(&["FLUSHDB"]);
        if replaced {
            orders.put_order("5", "another");
        }
        let before = orders.db.console.hash("order:5");
        assert_eq!(orders.close(&saga, &end).await, closed(&[]));
        assert_eq!(orders.db.console.hash("order:5"), before);
        assert_eq!((orders.undo(&saga)["state"].as_str(), orders.total("recovered")), (end.name(), 1));
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn after_an_entry_has_expired_the_order_record_knows_how_its_saga_ended() {
    // Of a failure, the reason went with the entry, and the one that comes again stands for it.
    for end in [State::Completed, failed("out_of_stock:a")] {
        let mut orders = Orders::with_order().await;
        let saga = orders.started("5", "inbox", None).await;
        orders.close(&saga, &end).await;
        orders.db.console.ask(&["DEL", "undo:5.k.0"]);
        let before = orders.db.console.dump();
        assert_eq!(orders.close(&saga, &end).await, Outcome::Repeat(end.clone()));
        let other = if end == State::Completed { failed("abandoned") } else { State::Completed };
        assert_eq!(orders.close(&saga, &other).await, Outcome::EndedTwice(end.name().into()));
        assert_eq!(orders.db.console.dump(), before);
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn a_late_event_of_an_earlier_attempt_leaves_the_present_one_alone() {
    let mut orders = Orders::with_order().await;
    let first = orders.started("5", "inbox", None).await;
    orders.close(&first, &failed("out_of_stock:a")).await;
    orders.db.console.ask(&["DEL", "undo:5.k.0"]);
    let second = orders.started("5", "inbox", None).await;
    let before = orders.db.console.dump();
    assert_eq!(orders.close(&first, &failed("out_of_stock:a")).await, Outcome::Repeat(failed("out_of_stock:a")));
    assert_eq!(orders.close(&first, &State::Completed).await, Outcome::EndedTwice("failed".into()));
    assert_eq!(orders.db.console.dump(), before);
    orders.close(&second, &State::Completed).await;
    assert_eq!(orders.close(&first, &failed("out_of_stock:a")).await, Outcome::Repeat(failed("out_of_stock:a")));
    assert_eq!(orders.begin("5", "inbox", None).await, Begun::Paid);
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_lost_entry_behind_the_watermark_is_not_recovered() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    lose_the_tail(&mut orders, &saga);
    let watermark = saga.started_at_ms + 1;
    orders.db.console.ask(&["SET", "watermark", &watermark.to_string()]);
    let before = orders.db.console.dump();
    for end in [State::Completed, failed("abandoned")] {
        assert_eq!(orders.close(&saga, &end).await, Outcome::TooOld(watermark));
    }
    orders.db.console.ask(&["DEL", "order:5"]);
    assert_eq!(orders.close(&saga, &State::Completed).await, Outcome::TooOld(watermark));
    orders.put_order("5", "k");
    assert_eq!(orders.db.console.dump(), before);
    orders.db.console.ask(&["SET", "watermark", &saga.started_at_ms.to_string()]);
    assert_eq!(orders.close(&saga, &State::Completed).await, closed(&[]), "the watermark itself is not old");
}
