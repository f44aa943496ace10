//! The functions of the REST commands: once per operation key.

use common::amount::{Amount, MAX, Quantity};
use common::id::ItemId;
use common::problem::Code;
use common::redis::Operation;
use stock::effect::{Item, add, batch_init, create_item, find_item, read_item, subtract};
use testing::database::{operation, other_request};

use crate::support::{Stock, saga};

fn quantity(number: u64) -> Quantity {
    number.try_into().unwrap()
}

fn price(number: u64) -> Amount {
    number.try_into().unwrap()
}

async fn find(stock: &Stock, item: &ItemId) -> Option<(u64, u64)> {
    let item: Option<Item> = read_item(&stock.db.call(find_item(item)).await).unwrap();
    item.map(|item| (item.stock.get(), item.price.get()))
}

#[tokio::test]
async fn an_item_is_created_once_per_operation() {
    let mut stock = Stock::start().await;
    let (first, second) = ("i1".parse().unwrap(), "i2".parse().unwrap());
    let key = operation("create");
    assert_eq!(stock.db.texts(create_item(&key, &first, price(MAX))).await, ["ok", "i1"]);
    assert_eq!(find(&stock, &first).await, Some((0, MAX)));
    // The repeat comes with the id that another instance drew; it answers with the first one.
    stock.db.call(add(&operation("add"), &first, quantity(5))).await;
    assert_eq!(stock.db.texts(create_item(&key, &second, price(MAX))).await, ["ok", "i1"]);
    assert_eq!(stock.db.texts(create_item(&other_request(&key), &second, price(1))).await, ["key_mismatch"]);
    assert_eq!(find(&stock, &first).await, Some((5, MAX)), "a repeat does not reset the item");
    assert_eq!(find(&stock, &second).await, None);
    stock.assert_books_balance();
}

#[tokio::test]
async fn pieces_are_added_once_per_operation() {
    let mut stock = Stock::with_items(&[("1", 7)]).await;
    let (known, unknown) = ("1".parse().unwrap(), "2".parse().unwrap());
    for _ in 0..3 {
        assert_eq!(stock.db.texts(add(&operation("a"), &known, quantity(5))).await, ["ok", "12"]);
    }
    let mismatch = add(&other_request(&operation("a")), &known, quantity(6));
    assert_eq!(stock.db.texts(mismatch).await, ["key_mismatch"]);
    assert_eq!(stock.db.texts(add(&operation("b"), &known, quantity(0))).await, ["ok", "12"]);
    assert_eq!(stock.db.texts(add(&operation("c"), &unknown, quantity(5))).await, ["no_item"]);
    // A refusal is a reply like any other: its repeat gives it again, whatever has become of the item.
    stock.put_item("2", 0);
    assert_eq!(stock.db.texts(add(&operation("c"), &unknown, quantity(5))).await, ["no_item"]);
    assert_eq!((stock.pieces("1"), stock.pieces("2"), stock.total("added")), (Some(12), Some(0), 5));
    stock.assert_books_balance();
}

#[tokio::test]
async fn stock_stops_at_the_largest_exact_number() {
    let mut stock = Stock::with_items(&[("1", MAX - 1), ("2", 0)]).await;
    let (one, two) = ("1".parse().unwrap(), "2".parse().unwrap());
    let max = MAX.to_string();
    assert_eq!(stock.db.texts(add(&operation("a"), &one, quantity(1))).await, ["ok", &max]);
    assert_eq!(stock.db.texts(add(&operation("b"), &one, quantity(1))).await, ["overflow", &max]);
    assert_eq!(stock.db.texts(add(&operation("c"), &one, quantity(MAX))).await, ["overflow", &max]);
    assert_eq!(stock.db.texts(add(&operation("d"), &one, quantity(0))).await, ["ok", &max]);
    assert_eq!(stock.db.texts(add(&operation("e"), &two, quantity(MAX))).await, ["ok", &max]);
    assert_eq!(stock.db.texts(subtract(&operation("f"), &two, quantity(MAX))).await, ["ok", "0"]);
    assert_eq!((stock.pieces("1"), stock.pieces("2")), (Some(MAX), Some(0)));
    stock.assert_books_balance();
}

#[tokio::test]
async fn pieces_are_taken_once_per_operation_and_never_more_than_there_are() {
    let mut stock = Stock::with_items(&[("1", 7)]).await;
    let (known, unknown) = ("1".parse().unwrap(), "2".parse().unwrap());
    assert_eq!(stock.db.texts(subtract(&operation("a"), &known, quantity(8))).await, ["short", "7"]);
    for _ in 0..3 {
        assert_eq!(stock.db.texts(subtract(&operation("b"), &known, quantity(7))).await, ["ok", "0"]);
    }
    assert_eq!(stock.db.texts(subtract(&operation("c"), &known, quantity(1))).await, ["short", "0"]);
    assert_eq!(stock.db.texts(subtract(&operation("d"), &known, quantity(0))).await, ["ok", "0"]);
    assert_eq!(stock.db.texts(subtract(&operation("e"), &unknown, quantity(0))).await, ["no_item"]);
    let mismatch = subtract(&other_request(&operation("b")), &known, quantity(0));
    assert_eq!(stock.db.texts(mismatch).await, ["key_mismatch"]);
    assert_eq!((stock.pieces("1"), stock.pieces("2"), stock.total("subtracted")), (Some(0), None, 7));
    stock.assert_books_balance();
}

async fn init(stock: &Stock, key: &Operation, items: u64, pieces: u64) -> Result<(), Code> {
    let call = |chunk: &_| batch_init(key, chunk, quantity(pieces), price(3));
    stock.db.batch(key, items, call).await.map_err(|problem| problem.code)
}

#[tokio::test]
async fn a_batch_creates_and_replaces_items_whole() {
    let mut stock = Stock::with_items(&[("2499", 3), ("2500", 4), ("other", 5)]).await;
    let (last, reserved) = ("2499".parse().unwrap(), saga("5.k.0", "7:4,8:0"));
    assert_eq!(init(&stock, &operation("first"), 2_500, 10).await, Ok(()));
    assert_eq!(stock.db.console.keys("item:").len(), 2_502);
    for (item, pieces) in [("0", 10), ("999", 10), ("1000", 10), ("2499", 10), ("2500", 4), ("other", 5)] {
        assert_eq!(stock.pieces(item), Some(pieces), "item {item}");
    }
    assert_eq!(find(&stock, &last).await, Some((10, 3)));
    assert_eq!((stock.total("initial"), stock.total("replaced")), (25_012, 3));
    stock.assert_books_balance();

    stock.reserve(&reserved).await;
    assert_eq!(init(&stock, &operation("second"), 1_000, 2).await, Ok(()));
    assert_eq!((stock.pieces("7"), stock.total("replaced")), (Some(2), 3 + 9_996));
    stock.assert_books_balance();
}

#[tokio::test]
async fn a_batch_that_is_done_is_not_repeated() {
    let mut stock = Stock::start().await;
    for items in [0, 1, 1_500] {
        let key = operation(&format!("batch-{items}"));
        assert_eq!(init(&stock, &key, items, 10).await, Ok(()));
        stock.db.call(subtract(&operation(&format!("take-{items}")), &"0".parse().unwrap(), quantity(1))).await;
        let before = stock.db.console.dump();
        assert_eq!(init(&stock, &key, items, 10).await, Ok(()));
        assert_eq!(stock.db.console.dump(), before, "a repeat changes nothing");
        assert_eq!(init(&stock, &other_request(&key), items, 10).await, Err(Code::KeyMismatch));
        assert_eq!(stock.db.console.dump(), before, "another request with the key changes nothing");
    }
    stock.assert_books_balance();
}

#[tokio::test]
async fn a_batch_belongs_to_the_request_that_began_it_until_its_lease_is_over() {
    let mut stock = Stock::start().await;
    let key = operation("batch");
    let chunks = stock.db.chunks(1_500).await;
    let call = |n: usize| batch_init(&key, &chunks[n], quantity(10), price(3));
    assert_eq!(stock.db.texts(call(0)).await, ["ok"]);
    let lease = stock.db.console.number(&["TTL", &key.key]);
    assert!((1..=10).contains(&lease), "a request that dies leaves its key free in {lease} s");
    assert_eq!(init(&stock, &key, 1_500, 10).await, Err(Code::KeyInUse));
    // The owner repeats a chunk whose reply it lost; the books still balance.
    assert_eq!(stock.db.texts(call(0)).await, ["ok"]);
    assert_eq!((stock.total("initial"), stock.total("replaced")), (20_000, 10_000));
    stock.assert_books_balance();

    stock.db.console.ask(&["DEL", &key.key]);
    assert_eq!(init(&stock, &key, 1_500, 10).await, Ok(()));
    assert_eq!(stock.db.texts(call(1)).await, ["done"], "the first owner comes too late");
    let ttl = stock.db.console.number(&["TTL", &key.key]);
    assert!((11..=600).contains(&ttl), "what is done is remembered as long as any reply: {ttl} s");
    assert_eq!(stock.db.console.keys("item:").len(), 1_500);
    stock.assert_books_balance();
}
