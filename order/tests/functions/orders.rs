//! The functions of the REST commands apart from the checkout: once per operation key.

use common::amount::{Amount, MAX, Quantity};
use common::id::OrderId;
use common::limits::MAX_ENTRIES_PER_ORDER;
use common::problem::Code;
use common::redis::{BatchChunk, Call, Operation};
use common::undo::State;
use order::effect::{Cost, NewOrder, Order, add_item, batch_init, create, find, read_order};
use testing::database::{operation, other_request};

use crate::support::{Orders, failed};

fn add(key: &str, order: &str, item: &str, quantity: u64, cost: u64) -> Call {
    add_at(key, order, item, quantity, Amount::try_from(cost).map_or(Cost::TooMuch, Cost::Of))
}

fn add_at(key: &str, order: &str, item: &str, quantity: u64, cost: Cost) -> Call {
    let (order, item) = (order.parse().unwrap(), item.parse().unwrap());
    add_item(&operation(key), &order, &item, Quantity::try_from(quantity).unwrap(), cost)
}

async fn found(orders: &Orders, order: &str) -> Option<Order> {
    let order: OrderId = order.parse().unwrap();
    read_order(&orders.db.call(find(&order)).await).unwrap()
}

#[tokio::test]
async fn an_order_is_created_once_per_operation() {
    let mut orders = Orders::start().await;
    let (first, second, user) = ("o1".parse().unwrap(), "o2".parse().unwrap(), "7".parse().unwrap());
    let key = operation("create");
    assert_eq!(orders.db.texts(create(&key, &first, &user, "k")).await, ["ok", "o1"]);
    assert_eq!(orders.db.texts(add("add", "o1", "a", 1, 5)).await, ["ok", "5"]);
    // The repeat comes with the id that another instance drew; it answers with the first one and resets nothing.
    assert_eq!(orders.db.texts(create(&key, &second, &user, "j")).await, ["ok", "o1"]);
    assert_eq!(orders.db.texts(create(&other_request(&key), &second, &user, "j")).await, ["key_mismatch"]);
    let order = found(&orders, "o1").await.unwrap();
    assert_eq!((order.user_id, order.total.get(), order.paid), (user, 5, false));
    assert_eq!(order.items, [("a".parse().unwrap(), 1.try_into().unwrap())]);
    assert_eq!(found(&orders, "o2").await, None);
    assert_eq!((orders.order("o1", "incarnation"), orders.order("o1", "attempt")), ("k".into(), "0".into()));
}

#[tokio::test]
async fn entries_are_kept_as_they_were_added_and_added_once_per_operation() {
    let orders = Orders::with_order().await;
    for _ in 0..3 {
        assert_eq!(orders.db.texts(add("1", "5", "a", 4, 8)).await, ["ok", "28"]);
    }
    assert_eq!(orders.db.texts(add("2", "5", "c", 0, 0)).await, ["ok", "28"]);
    let mismatch = add_item(
        &other_request(&operation("1")),
        &"5".parse().unwrap(),
        &"a".parse().unwrap(),
        Quantity::ZERO,
        Cost::Of(Amount::ZERO),
    );
    assert_eq!(orders.db.texts(mismatch).await, ["key_mismatch"]);
    let at_no_price = |key: &str| {
        let (order, item) = ("5".parse().unwrap(), "a".parse().unwrap());
        add_item(&operation(key), &order, &item, 4.try_into().unwrap(), Cost::NotKnown)
    };
    assert_eq!(orders.db.texts(at_no_price("1")).await, ["ok", "28"]);
    assert_eq!(orders.db.texts(at_no_price("4")).await, ["no_price"]);
    assert_eq!(orders.db.texts(add("4", "5", "c", 0, 0)).await, ["ok", "28"], "that was not recorded");
    assert_eq!(orders.db.texts(add("3", "6", "a", 1, 1)).await, ["no_order"]);
    let order = found(&orders, "5").await.unwrap();
    let items: Vec<String> = order.items.iter().map(|(item, quantity)| format!("{item}:{quantity}")).collect();
    assert_eq!(items, ["b:1", "a:2", "b:3", "a:4", "c:0", "c:0"]);
    assert_eq!(found(&orders, "6").await, None);
}

#[tokio::test]
async fn an_item_that_is_not_there_binds_the_key_like_any_other() {
    let mut orders = Orders::with_order().await;
    let no_item = || add_at("key", "5", "z", 1, Cost::NoItem);
    assert_eq!(orders.db.texts(no_item()).await, ["no_item"]);
    assert_eq!(orders.db.texts(add("key", "5", "z", 1, 1)).await, ["no_item"], "also when it is there by now");
    let other = add_item(
        &other_request(&operation("key")),
        &"5".parse().unwrap(),
        &"a".parse().unwrap(),
        1.try_into().unwrap(),
        Cost::Of(Amount::ZERO),
    );
    assert_eq!(orders.db.texts(other).await, ["key_mismatch"]);
    assert_eq!(orders.db.texts(add_at("other", "6", "z", 1, Cost::NoItem)).await, ["no_order"]);
    assert_eq!(orders.order("5", "items"), "b:1,a:2,b:3");
}

#[tokio::test]
async fn sums_stop_at_the_largest_exact_number() {
    let mut orders = Orders::with_order().await;
    let overflow = ["overflow"];
    assert_eq!(orders.db.texts(add_at("too dear", "5", "a", 1, Cost::TooMuch)).await, overflow);
    assert_eq!(orders.db.texts(add("cost", "5", "a", 1, MAX)).await, overflow);
    assert_eq!(orders.db.texts(add("cost+1", "5", "a", 1, MAX - 19)).await, overflow);
    assert_eq!(orders.db.texts(add("pieces", "5", "b", MAX, 0)).await, overflow);
    assert_eq!(orders.db.texts(add("pieces+1", "5", "b", MAX - 3, 0)).await, overflow);
    assert_eq!(orders.order("5", "items"), "b:1,a:2,b:3");
    let max = MAX.to_string();
    assert_eq!(orders.db.texts(add("most cost", "5", "a", 1, MAX - 20)).await, ["ok", &max]);
    assert_eq!(orders.db.texts(add("most pieces", "5", "b", MAX - 4, 0)).await, ["ok", &max]);
    assert_eq!(orders.order("5", "total"), max);
    let saga = orders.started("5", "inbox", None).await;
    assert_eq!((saga.amount.get(), saga.items.to_string()), (MAX, format!("a:3,b:{MAX}")));
}

#[tokio::test]
async fn an_order_takes_a_bounded_number_of_entries() {
    let mut orders = Orders::with_order().await;
    let entry = ["z:1"; MAX_ENTRIES_PER_ORDER as usize - 1].join(",");
    orders.db.console.ask(&["HSET", "order:5", "items", &entry]);
    assert_eq!(orders.db.texts(add("last", "5", "a", 1, 0)).await, ["ok", "20"]);
    assert_eq!(orders.db.texts(add("one more", "5", "a", 1, 0)).await, ["too_many"]);
}

#[tokio::test]
async fn an_order_changes_only_while_it_is_neither_in_flight_nor_paid() {
    let orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    assert_eq!(orders.db.texts(add("in flight", "5", "a", 1, 1)).await, ["in_flight", "5.k.0"]);
    orders.close(&saga, &failed("out_of_stock:a")).await;
    assert_eq!(orders.db.texts(add("after a failure", "5", "a", 1, 1)).await, ["ok", "21"]);
    let saga = orders.started("5", "inbox", None).await;
    assert_eq!((saga.saga_id.as_str(), saga.amount.get()), ("5.k.1", 21));
    orders.close(&saga, &State::Completed).await;
    assert_eq!(orders.db.texts(add("when paid", "5", "a", 1, 1)).await, ["paid"]);
    // The refusal is recorded with the key: the same request gets the same reply.
    assert_eq!(orders.db.texts(add("in flight", "5", "a", 1, 1)).await, ["in_flight", "5.k.0"]);
    assert!(found(&orders, "5").await.unwrap().paid);
}

fn chunk_call(key: &Operation, chunk: &BatchChunk, incarnation: &str) -> Call {
    let new = |n: u64| NewOrder {
        user: common::id::UserId::from_index(n % 3),
        items: format!("{n}:1,{}:1", n + 1),
        incarnation: format!("{incarnation}{n}"),
    };
    let orders: Vec<NewOrder> = (chunk.first..chunk.first + chunk.count).map(new).collect();
    batch_init(key, chunk, 6.try_into().unwrap(), &orders)
}

async fn init(orders: &Orders, key: &Operation, count: u64, incarnation: &str) -> Result<(), Code> {
    let call = |chunk: &_| chunk_call(key, chunk, incarnation);
    orders.db.batch(key, count, call).await.map_err(|problem| problem.code)
}

#[tokio::test]
async fn a_batch_creates_and_replaces_orders_whole() {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    orders.put_order("2500", "k");
    assert_eq!(init(&orders, &operation("first"), 2_500, "x").await, Ok(()));
    assert_eq!(orders.db.console.keys("order:").len(), 2_501);
    for id in ["0", "5", "999", "1000", "2499"] {
        let order = found(&orders, id).await.unwrap();
        let n: u64 = id.parse().unwrap();
        assert_eq!((order.user_id.to_string(), order.total.get(), order.paid), ((n % 3).to_string(), 6, false));
        assert_eq!(orders.order(id, "items"), format!("{n}:1,{}:1", n + 1));
        assert_eq!((orders.order(id, "saga"), orders.order(id, "attempt")), (String::new(), "0".into()));
    }
    assert_eq!(orders.order("2500", "incarnation"), "k");
    // The replaced order begins a saga of its own, beside the open one of its predecessor.
    assert_eq!(orders.started("5", "inbox", None).await.saga_id.as_str(), "5.x5.0");
    assert_eq!(orders.undo(&saga)["state"], "started");
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_batch_that_is_done_is_not_repeated() {
    let mut orders = Orders::start().await;
    for count in [0, 1, 1_500] {
        let key = operation(&format!("batch-{count}"));
        assert_eq!(init(&orders, &key, count, "x").await, Ok(()));
        let before = orders.db.console.dump();
        assert_eq!(init(&orders, &key, count, "y").await, Ok(()));
        assert_eq!(orders.db.console.dump(), before, "a repeat changes nothing");
        assert_eq!(init(&orders, &other_request(&key), count, "z").await, Err(Code::KeyMismatch));
        assert_eq!(orders.db.console.dump(), before, "another request with the key changes nothing");
    }
}

#[tokio::test]
async fn a_batch_belongs_to_the_request_that_began_it_until_its_lease_is_over() {
    let mut orders = Orders::start().await;
    let key = operation("batch");
    let chunks = orders.db.chunks(1_500).await;
    assert_eq!(orders.db.texts(chunk_call(&key, &chunks[0], "x")).await, ["ok"]);
    let lease = orders.db.console.number(&["TTL", &key.key]);
    assert!((1..=10).contains(&lease), "a request that dies leaves its key free in {lease} s");
    assert_eq!(init(&orders, &key, 1_500, "y").await, Err(Code::KeyInUse));
    assert_eq!(orders.order("0", "incarnation"), "x0");
    orders.db.console.ask(&["DEL", &key.key]);
    assert_eq!(init(&orders, &key, 1_500, "y").await, Ok(()));
    assert_eq!(orders.db.texts(chunk_call(&key, &chunks[1], "x")).await, ["done"], "the first owner is too late");
    assert_eq!((orders.order("0", "incarnation"), orders.order("1499", "incarnation")), ("y0".into(), "y1499".into()));
}
