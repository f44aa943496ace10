//! Beginning a checkout: opens the order's saga, joins the open one, or answers from what is recorded.

use common::undo::State;
use order::effect::Begun;
use testing::database::{operation, other_request};

use crate::support::{MOST_OPEN, Orders, TRACE, failed};

#[tokio::test]
async fn the_first_checkout_opens_a_saga() {
    let mut orders = Orders::with_order().await;
    let before = orders.now_ms();
    let saga = orders.started("5", "inbox-1", None).await;
    assert!((before..=orders.now_ms()).contains(&saga.started_at_ms));
    assert_eq!((saga.saga_id.as_str(), saga.order_id.as_str(), saga.user_id.as_str()), ("5.k.0", "5", "7"));
    assert_eq!((saga.amount.get(), saga.items.to_string()), (20, "a:2,b:4".into()), "items are summed and sorted");
    let started = saga.started_at_ms.to_string();
    let entry = [
        ("amount", "20"),
        ("inboxes", "inbox-1"),
        ("items", "b:1,a:2,b:3"),
        ("order", "5"),
        ("started_ms", &started),
        ("state", "started"),
        ("traceparent", TRACE),
        ("user", "7"),
    ];
    assert_eq!(orders.undo(&saga), entry.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(orders.db.console.number(&["TTL", "undo:5.k.0"]), -1, "an open entry does not expire");
    assert_eq!(orders.scores("open"), [("5.k.0".to_owned(), saga.started_at_ms)].into());
    assert_eq!((orders.order("5", "saga"), orders.total("started")), ("5.k.0".into(), 1));
    assert_eq!(orders.db.console.keys("").len(), 4, "without a client's key no operation is recorded");
    orders.assert_books_balance();
}

#[tokio::test]
async fn later_checkouts_join_the_open_saga_and_each_inbox_is_told_once() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox-1", None).await;
    for inbox in ["inbox-2", "inbox-1", "inbox-2", "inbox-12"] {
        assert_eq!(orders.begin("5", inbox, None).await, Begun::Joined(saga.saga_id.clone()));
    }
    assert_eq!(orders.undo(&saga)["inboxes"], "inbox-1,inbox-2,inbox-12");
    assert_eq!((orders.total("started"), orders.scores("open").len()), (1, 1));
    orders.assert_books_balance();
}

#[tokio::test]
async fn an_order_that_is_paid_or_missing_opens_nothing() {
    let mut orders = Orders::with_order().await;
    orders.db.console.ask(&["HSET", "order:5", "paid", "1"]);
    let before = orders.db.console.dump();
    assert_eq!(orders.begin("5", "inbox", None).await, Begun::Paid);
    assert_eq!(orders.begin("6", "inbox", None).await, Begun::NoOrder);
    assert_eq!(orders.db.console.dump(), before);
    let (paid, missing) = (operation("paid"), operation("missing"));
    assert_eq!(orders.begin("5", "inbox", Some(&paid)).await, Begun::Paid);
    assert_eq!(orders.begin("6", "inbox", Some(&missing)).await, Begun::NoOrder);
    // The same request gets the same reply, whatever has become of the orders.
    orders.db.console.ask(&["HSET", "order:5", "paid", "0"]);
    orders.put_order("6", "k");
    assert_eq!(orders.begin("5", "inbox", Some(&paid)).await, Begun::Ended(State::Completed));
    assert_eq!(orders.begin("6", "inbox", Some(&missing)).await, Begun::NoOrder);
    assert_eq!(orders.scores("open").len(), 0);
}

#[tokio::test]
async fn a_clients_key_is_running_until_its_saga_ends_and_then_tells_how() {
    for (end, told) in [(State::Completed, State::Completed), (failed("out_of_stock:a"), failed("out_of_stock:a"))] {
        let mut orders = Orders::with_order().await;
        let (first, joined) = (operation("first"), operation("joined"));
        let saga = orders.started("5", "inbox", Some(&first)).await;
        assert_eq!(orders.begin("5", "inbox", Some(&first)).await, Begun::Running(saga.saga_id.clone()));
        assert_eq!(orders.begin("5", "inbox", Some(&joined)).await, Begun::Joined(saga.saga_id.clone()));
        assert_eq!(orders.begin("5", "inbox", Some(&joined)).await, Begun::Running(saga.saga_id.clone()));
        let another = other_request(&first);
        assert_eq!(orders.begin("5", "inbox", Some(&another)).await, Begun::KeyMismatch);
        let ttl = orders.db.console.number(&["TTL", &first.key]);
        assert!((301..=600).contains(&ttl), "{ttl}");
        orders.db.console.ask(&["EXPIRE", &first.key, "300"]);

        orders.close(&saga, &end).await;
        for key in [&first, &joined] {
            assert_eq!(orders.begin("5", "inbox", Some(key)).await, Begun::Ended(told.clone()));
        }
        assert_eq!(orders.begin("5", "inbox", Some(&another)).await, Begun::KeyMismatch);
        let ttl = orders.db.console.number(&["TTL", &first.key]);
        assert!((1..=300).contains(&ttl), "the record keeps its lifetime: {ttl}");
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn a_call_that_is_sent_again_joins_what_it_began() {
    let mut orders = Orders::with_order().await;
    let key = operation("key");
    let Begun::Started(saga) = orders.begin_as("this", "5", "inbox", Some(&key)).await else {
        panic!("not started");
    };
    assert_eq!(orders.begin_as("this", "5", "inbox", Some(&key)).await, Begun::Joined(saga.saga_id.clone()));
    assert_eq!(orders.begin_as("other", "5", "inbox", Some(&key)).await, Begun::Running(saga.saga_id.clone()));
    orders.close(&saga, &State::Completed).await;
    assert_eq!(orders.begin_as("this", "5", "inbox", Some(&key)).await, Begun::Ended(State::Completed));
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_key_of_any_visible_characters_is_settled() {
    let mut orders = Orders::with_order().await;
    // RFC 9110 allows these in a field value; none may be mistaken for what separates two keys.
    let keys = ["a,b", "with space", "\"quoted;k=v\"", "a|b;c:d", "x,operation:client:bystander"].map(operation);
    let bystander = operation("bystander");
    orders.put_order("6", "k");
    orders.started("6", "inbox", Some(&bystander)).await;
    let saga = orders.started("5", "inbox", None).await;
    for key in &keys {
        assert_eq!(orders.begin("5", "inbox", Some(key)).await, Begun::Joined(saga.saga_id.clone()));
    }
    orders.close(&saga, &State::Completed).await;
    for key in &keys {
        assert_eq!(orders.begin("5", "inbox", Some(key)).await, Begun::Ended(State::Completed), "{}", key.key);
    }
    let running = orders.begin("6", "inbox", Some(&bystander)).await;
    assert_eq!(running, Begun::Running("6.k.0".parse().unwrap()), "another client's key is left alone");
}

#[tokio::test]
async fn a_key_that_has_expired_is_not_brought_back() {
    let mut orders = Orders::with_order().await;
    let key = operation("key");
    let saga = orders.started("5", "inbox", Some(&key)).await;
    orders.db.console.ask(&["DEL", &key.key]);
    orders.close(&saga, &State::Completed).await;
    assert_eq!(orders.db.console.keys("operation:").len(), 0);
}

#[tokio::test]
async fn a_saga_after_a_failed_one_is_the_next_attempt() {
    let mut orders = Orders::with_order().await;
    for attempt in 0..3 {
        let saga = orders.started("5", "inbox", None).await;
        assert_eq!(saga.saga_id.as_str(), format!("5.k.{attempt}"));
        orders.close(&saga, &failed("insufficient_credit:7")).await;
    }
    assert_eq!((orders.order("5", "attempt"), orders.total("failed")), ("3".into(), 3));
    orders.assert_books_balance();
}

#[tokio::test]
async fn an_order_whose_undo_entry_is_lost_opens_the_same_saga_again() {
    let mut orders = Orders::with_order().await;
    let first = orders.started("5", "inbox", None).await;
    // The tail of the database is gone, with or without what the order knows about it.
    for forgotten in [first.saga_id.as_str(), ""] {
        orders.db.console.ask(&["DEL", "undo:5.k.0", "open", "totals"]);
        orders.db.console.ask(&["HSET", "order:5", "saga", forgotten]);
        let again = orders.started("5", "inbox", None).await;
        assert_eq!((&again.saga_id, again.amount, &again.items), (&first.saga_id, first.amount, &first.items));
        assert_eq!(orders.places(&again), ["open"]);
        orders.assert_books_balance();
    }
}

#[tokio::test]
async fn no_saga_starts_before_the_watermark() {
    let mut orders = Orders::with_order().await;
    // The clock was set back by an hour after the watermark was told.
    let watermark = orders.now_ms() + 3_600_000;
    orders.db.console.ask(&["SET", "watermark", &watermark.to_string()]);
    let saga = orders.started("5", "inbox", None).await;
    assert_eq!(saga.started_at_ms, watermark);
    assert_eq!(orders.scores("open")["5.k.0"], watermark);
}

#[tokio::test]
async fn an_empty_order_is_checked_out_for_nothing() {
    let mut orders = Orders::with_order().await;
    orders.db.console.ask(&["HSET", "order:5", "items", "", "total", "0"]);
    let saga = orders.started("5", "inbox", None).await;
    assert_eq!((saga.amount.get(), saga.items.to_string()), (0, String::new()));
    orders.close(&saga, &State::Completed).await;
    assert_eq!(orders.begin("5", "inbox", None).await, Begun::Paid);
    orders.assert_books_balance();
}

#[tokio::test]
async fn where_as_many_sagas_are_open_as_may_be_none_is_begun_and_nothing_written() {
    let mut orders = Orders::with_order().await;
    for number in 1..MOST_OPEN {
        // One that is replayed counts as well.
        let list = if number % 2 == 0 { "open" } else { "retry" };
        orders.db.console.ask(&["ZADD", list, "17", &format!("other.k.{number}")]);
    }
    let saga = orders.started("5", "inbox-1", None).await;
    orders.put_order("6", "k");
    let before = orders.db.console.dump();
    let key = operation("key");
    for operation in [None, Some(&key)] {
        assert_eq!(orders.begin("6", "inbox", operation).await, Begun::Overloaded);
    }
    assert_eq!(orders.db.console.dump(), before, "the key is free, too");
    assert_eq!(orders.begin("5", "inbox-2", None).await, Begun::Joined(saga.saga_id.clone()), "that is no new one");
    orders.close(&saga, &State::Completed).await;
    assert_eq!(orders.begin("5", "inbox", None).await, Begun::Paid);
    let begun = orders.begin("6", "inbox", Some(&key)).await;
    assert!(matches!(begun, Begun::Started(_)), "{begun:?}");
}

#[tokio::test]
async fn where_none_may_be_begun_what_is_paid_recorded_or_missing_is_answered_as_ever() {
    let mut orders = Orders::with_order().await;
    orders.put_order("6", "k");
    let (paid, refused) = (operation("paid"), operation("refused"));
    for (order, key, end) in [("5", &paid, State::Completed), ("6", &refused, failed("out_of_stock:a"))] {
        let saga = orders.started(order, "inbox", Some(key)).await;
        orders.close(&saga, &end).await;
    }
    for number in 0..MOST_OPEN {
        orders.db.console.ask(&["ZADD", "open", "17", &format!("other.k.{number}")]);
    }
    assert_eq!(orders.begin("6", "inbox", None).await, Begun::Overloaded, "its next try would be a new saga");
    assert_eq!(orders.begin("5", "inbox", None).await, Begun::Paid);
    assert_eq!(orders.begin("7", "inbox", None).await, Begun::NoOrder);
    assert_eq!(orders.begin("5", "inbox", Some(&paid)).await, Begun::Ended(State::Completed));
    assert_eq!(orders.begin("6", "inbox", Some(&refused)).await, Begun::Ended(failed("out_of_stock:a")));
}
