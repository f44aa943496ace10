//! Reserve and abandon: all items or none, decided once, in whatever order they come.

use common::amount::MAX;
use stock::decision::Outcome;
use stock::effect::add;
use testing::database::operation;

use crate::support::{Stock, failed, saga};

#[tokio::test]
async fn a_reservation_takes_every_item_once() {
    let mut stock = Stock::with_items(&[("a", 5), ("b", 5), ("c", 5)]).await;
    let saga = saga("5.k.0", "a:2,b:5");
    for _ in 0..3 {
        assert_eq!(stock.reserve(&saga).await, Outcome::Reserved);
        assert_eq!((stock.pieces("a"), stock.pieces("b"), stock.pieces("c")), (Some(3), Some(0), Some(5)));
        assert_eq!(stock.total("reserved"), 7);
    }
    assert_eq!(stock.record(&saga).as_deref(), Some("reserved a:2,b:5"));
    stock.assert_books_balance();
}

#[tokio::test]
async fn a_reservation_takes_nothing_where_one_item_is_short() {
    let mut stock = Stock::with_items(&[("a", 5), ("b", 5), ("c", 5)]).await;
    for (id, items, short) in [("1.k.0", "a:6,b:1", "a"), ("2.k.0", "a:1,b:6", "b"), ("3.k.0", "a:5,b:5,c:6", "c")] {
        let (saga, reason) = (saga(id, items), format!("out_of_stock:{short}"));
        assert_eq!(stock.reserve(&saga).await, failed(&reason));
        assert_eq!(stock.record(&saga), Some(format!("failed {items} {reason}")));
        // It is decided: pieces that come later do not change it.
        let more = add(&operation(id), &short.parse().unwrap(), 10.try_into().unwrap());
        stock.db.call(more).await;
        assert_eq!(stock.reserve(&saga).await, failed(&reason));
        assert_eq!(stock.abandon(&saga).await, failed(&reason));
    }
    assert_eq!((stock.pieces("a"), stock.pieces("b"), stock.pieces("c")), (Some(15), Some(15), Some(15)));
    assert_eq!(stock.total("reserved"), 0);
    stock.assert_books_balance();
}

#[tokio::test]
async fn a_reservation_of_an_unknown_item_takes_nothing() {
    let mut stock = Stock::with_items(&[("a", 5)]).await;
    for (id, items) in [("1.k.0", "a:1,z:1"), ("2.k.0", "a:1,z:0")] {
        assert_eq!(stock.reserve(&saga(id, items)).await, failed("unknown_item:z"));
    }
    assert_eq!((stock.pieces("a"), stock.pieces("z"), stock.total("reserved")), (Some(5), None, 0));
    stock.assert_books_balance();
}

#[tokio::test]
async fn the_last_piece_nothing_at_all_and_very_many_can_be_reserved() {
    let mut stock = Stock::with_items(&[("a", MAX), ("b", 0)]).await;
    assert_eq!(stock.reserve(&saga("1.k.0", &format!("a:{MAX},b:0"))).await, Outcome::Reserved);
    assert_eq!((stock.pieces("a"), stock.pieces("b")), (Some(0), Some(0)));
    assert_eq!(stock.reserve(&saga("2.k.0", "a:1")).await, failed("out_of_stock:a"));
    assert_eq!(stock.reserve(&saga("3.k.0", "a:0")).await, Outcome::Reserved);
    let empty = saga("4.k.0", "");
    assert_eq!(stock.reserve(&empty).await, Outcome::Reserved);
    assert_eq!(stock.reserve(&empty).await, Outcome::Reserved);
    assert_eq!(stock.record(&empty).as_deref(), Some("reserved -"));
    stock.assert_books_balance();
}

#[tokio::test]
async fn an_order_with_the_most_entries_is_reserved_whole() {
    let names: Vec<String> = (0..common::limits::MAX_ENTRIES_PER_ORDER).map(|n| format!("item-{n}")).collect();
    let items: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    let mut stock = Stock::with_items(&items).await;
    let wanted: Vec<String> = names.iter().map(|name| format!("{name}:2")).collect();
    assert_eq!(stock.reserve(&saga("5.k.0", &wanted.join(","))).await, Outcome::Reserved);
    assert!(names.iter().all(|name| stock.pieces(name) == Some(0)));
    stock.assert_books_balance();
}

#[tokio::test]
async fn an_abandonment_before_the_reservation_keeps_it_from_ever_happening() {
    let mut stock = Stock::with_items(&[("a", 5)]).await;
    for (id, items, recorded) in [("1.k.0", "a:2", "a:2"), ("2.k.0", "", "-"), ("3.k.0", "z:1", "z:1")] {
        let saga = saga(id, items);
        for _ in 0..2 {
            assert_eq!(stock.abandon(&saga).await, failed("abandoned"));
        }
        assert_eq!(stock.reserve(&saga).await, failed("abandoned"), "a late reservation takes nothing");
        assert_eq!(stock.record(&saga), Some(format!("failed {recorded} abandoned")));
    }
    assert_eq!((stock.pieces("a"), stock.total("reserved")), (Some(5), 0));
    stock.assert_books_balance();
}

#[tokio::test]
async fn what_is_reserved_stays_reserved_when_it_is_abandoned() {
    let mut stock = Stock::with_items(&[("a", 5)]).await;
    let saga = saga("5.k.0", "a:2");
    stock.reserve(&saga).await;
    for _ in 0..2 {
        assert_eq!(stock.abandon(&saga).await, Outcome::Reserved);
    }
    assert_eq!(stock.record(&saga).as_deref(), Some("reserved a:2"));
    assert_eq!((stock.pieces("a"), stock.total("reserved")), (Some(3), 2));
    stock.assert_books_balance();
}

#[tokio::test]
async fn the_same_saga_with_other_items_is_a_conflict_and_changes_nothing() {
    let mut stock = Stock::with_items(&[("a", 5), ("b", 5)]).await;
    let (reserved, short, gone, empty) =
        (saga("1.k.0", "a:2"), saga("2.k.0", "a:9"), saga("3.k.0", "b:1"), saga("4.k.0", ""));
    stock.reserve(&reserved).await;
    stock.reserve(&short).await;
    stock.abandon(&gone).await;
    stock.reserve(&empty).await;
    let before = stock.db.console.dump();
    for recorded in [&reserved, &short, &gone, &empty] {
        let record = stock.record(recorded).unwrap();
        for items in ["a:1", "a:2,b:1", "b:2"] {
            let other = saga(recorded.saga_id.as_str(), items);
            assert_eq!(stock.reserve(&other).await, Outcome::Conflict(record.clone()));
            assert_eq!(stock.abandon(&other).await, Outcome::Conflict(record.clone()));
        }
    }
    assert_eq!(stock.db.console.dump(), before);
    stock.assert_books_balance();
}

#[tokio::test]
async fn sagas_of_other_attempts_and_incarnations_are_other_sagas() {
    let mut stock = Stock::with_items(&[("a", 3)]).await;
    for id in ["5.k.0", "5.k.1", "5.j.0"] {
        assert_eq!(stock.reserve(&saga(id, "a:1")).await, Outcome::Reserved);
    }
    assert_eq!((stock.pieces("a"), stock.records().len()), (Some(0), 3));
    stock.assert_books_balance();
}

#[tokio::test]
async fn what_a_later_version_has_added_to_a_record_or_an_item_is_left_alone() {
    for (record, again) in [
        ("reserved a:2,b:5 later=1 more=x:y", Outcome::Reserved),
        ("failed a:2,b:5 out_of_stock:a later=1", failed("out_of_stock:a")),
    ] {
        let mut stock = Stock::with_items(&[("a", 5), ("b", 5)]).await;
        stock.db.console.ask(&["HSET", "item:a", "later", "1"]);
        let saga = saga("5.k.0", "a:2,b:5");
        assert_eq!(stock.reserve(&saga).await, Outcome::Reserved);
        let bucket = stock.db.console.keys("outcomes:").remove(0);
        stock.db.console.ask(&["HSET", &bucket, "5.k.0", record]);
        assert_eq!(stock.reserve(&saga).await, again, "{record}");
        assert_eq!(stock.abandon(&saga).await, again, "{record}");
        assert_eq!(stock.record(&saga).as_deref(), Some(record));
        assert_eq!(stock.db.console.text(&["HGET", "item:a", "later"]).as_deref(), Some("1"));
    }
}
