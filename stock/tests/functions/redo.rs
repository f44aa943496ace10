//! Redo: a published decision that a failover has lost is true again as it was decided, and one that survived is left alone.

use common::event::{Kind, SagaEvent};
use common::saga::Saga;
use common::trace::TraceParent;
use stock::decision::{Effect, Outcome};
use stock::effect;

use crate::support::{START_MS, Stock, failed, saga, started_at};

/// What the stock service has published about a saga.
pub fn published(saga: Saga, kind: Kind, reason: Option<&str>) -> SagaEvent {
    let first = SagaEvent::first(Kind::CheckoutStarted, saga, 0, TraceParent::random());
    first.then(kind, reason.map(|reason| reason.parse().unwrap()), 23)
}

async fn redo(stock: &Stock, saga: &Saga, kind: Kind, reason: Option<&str>) -> Vec<String> {
    stock.db.texts(effect::redo(&published(saga.clone(), kind, reason)).unwrap()).await
}

async fn reserve(stock: &Stock, saga: &Saga) -> Outcome {
    effect::read_outcome(&stock.db.call(effect::apply(saga, &Effect::Reserve)).await).unwrap()
}

/// A database with so many pieces of `a` and `b`.
async fn with_pieces(a: u64, b: u64) -> Stock {
    let mut stock = Stock::start().await;
    for (item, pieces) in [("a", a), ("b", b)] {
        stock.db.console.ask(&["HSET", &format!("item:{item}"), "stock", &pieces.to_string(), "price", "1"]);
        stock.db.console.ask(&["HINCRBY", "totals", "initial", &pieces.to_string()]);
    }
    stock
}

fn pieces(stock: &mut Stock) -> (i128, i128) {
    (stock.db.console.field("item:a", "stock"), stock.db.console.field("item:b", "stock"))
}

#[tokio::test]
async fn a_lost_reservation_is_redone_once() {
    let mut stock = with_pieces(5, 5).await;
    let saga = saga("5.k.0", "a:1,b:2");
    for expected in ["redone", "known", "known"] {
        assert_eq!(redo(&stock, &saga, Kind::StockReserved, None).await, [expected]);
        assert_eq!(pieces(&mut stock), (4, 3));
    }
    assert_eq!(reserve(&stock, &saga).await, Outcome::Reserved);
    assert_eq!(pieces(&mut stock), (4, 3));
    stock.assert_books_balance();
}

#[tokio::test]
async fn a_lost_failure_is_recorded_again() {
    let mut stock = with_pieces(5, 5).await;
    let saga = saga("5.k.0", "a:1");
    for expected in ["redone", "known"] {
        assert_eq!(redo(&stock, &saga, Kind::StockFailed, Some("out_of_stock:a")).await, [expected]);
    }
    // There are pieces now, but it is decided.
    assert_eq!(reserve(&stock, &saga).await, failed("out_of_stock:a"));
    assert_eq!(pieces(&mut stock), (5, 5));
}

#[tokio::test]
async fn a_reservation_stands_where_the_pieces_are_lost_too() {
    let mut stock = with_pieces(5, 1).await;
    let saga = saga("5.k.0", "a:2,b:3,c:4");
    assert_eq!(redo(&stock, &saga, Kind::StockReserved, None).await, ["short", "6"]);
    assert_eq!((pieces(&mut stock), stock.total("uncovered")), ((3, 0), 6));
    assert_eq!(stock.db.console.keys("item:"), ["item:a", "item:b"]);
    assert_eq!(reserve(&stock, &saga).await, Outcome::Reserved);
    stock.assert_books_balance();
}

#[tokio::test]
async fn what_contradicts_the_records_or_is_forgotten_changes_nothing() {
    let mut stock = with_pieces(5, 5).await;
    let decided = saga("5.k.0", "a:1");
    reserve(&stock, &decided).await;
    stock.db.console.ask(&["SET", "watermark", &START_MS.to_string()]);
    let before = stock.db.console.dump();
    let other = redo(&stock, &saga("5.k.0", "a:2"), Kind::StockReserved, None).await;
    assert_eq!(other, ["conflict", "reserved a:1"]);
    let opposite = redo(&stock, &decided, Kind::StockFailed, Some("abandoned")).await;
    assert_eq!(opposite, ["contradiction", "reserved a:1"]);
    let old = started_at(saga("6.k.0", "a:1"), START_MS - 1);
    let forgotten = redo(&stock, &old, Kind::StockReserved, None).await;
    assert_eq!(forgotten, ["too_old".to_owned(), START_MS.to_string()]);
    assert_eq!(stock.db.console.dump(), before);
    assert!(effect::redo(&published(old, Kind::PaymentDebited, None)).is_none(), "another's decision");
}
