//! What a checkout does in each situation, as its client sees it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use testing::books::Books;
use testing::client::{Answer, Client};
use testing::platform::{Options, Platform};
use testing::stream::{Nats, Stored};
use testing::wait::{eventually, until};

/// A platform on which a request is answered soon, also when its outcome is not known yet, and a saga is not given up however long it takes. What
/// is asked of it must be asked again where a busy machine has no answer in so short a time.
async fn hasty() -> Platform {
    let options = Options::default().set("order.REQUEST_LIMIT_MS=2500").set("order.SAGA_LIMIT_MS=3600000");
    Platform::start(options).await
}

fn assert_success(answer: &Answer) {
    assert_eq!((answer.status, answer.text().as_str()), (200, "Checkout successful"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_takes_what_it_should_and_nothing_when_it_fails() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let user = client.user(100).await;
    let (pen, book) = (client.item(2, 10).await, client.item(30, 1).await);

    // The same item twice: the sum is taken.
    let order = client.order(&user, &[(&pen, 3), (&book, 1), (&pen, 4)]).await;
    assert_success(&client.checkout(&order).await);
    assert_eq!((client.credit(&user).await, client.pieces(&pen).await, client.pieces(&book).await), (56, 3, 0));
    assert!(client.is_paid(&order).await);

    // A paid order: 200 again, nothing is charged, and it cannot be changed.
    assert_success(&client.checkout(&order).await);
    assert_eq!(client.credit(&user).await, 56);
    client.post(&format!("/orders/addItem/{order}/{pen}/1")).await.expect_problem(409, "order-paid", &order);

    // An empty order changes nothing but `paid`.
    let empty = client.order(&user, &[]).await;
    assert_success(&client.checkout(&empty).await);
    assert!(client.is_paid(&empty).await);

    // Out of stock, also where only the sum of two entries is too much: everything is as it was.
    for entries in [&[(pen.as_str(), 1), (book.as_str(), 1)][..], &[(&pen, 2), (&pen, 2)]] {
        let order = client.order(&user, entries).await;
        let short = if entries.len() == 2 && entries[1].0 == book { &book } else { &pen };
        client.checkout(&order).await.expect_problem(400, "out-of-stock", short);
        assert!(!client.is_paid(&order).await);
        assert_eq!((client.credit(&user).await, client.pieces(&pen).await), (56, 3));
    }

    // A user who does not exist.
    let order = client.order("nobody", &[(&pen, 1)]).await;
    client.checkout(&order).await.expect_problem(400, "unknown-user", "nobody");
    assert_eq!(client.pieces(&pen).await, 3);
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_the_order_can_be_changed_and_checked_out_again() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let (user, item) = (client.user(3).await, client.item(2, 1).await);
    let order = client.order(&user, &[(&item, 2)]).await;
    client.checkout(&order).await.expect_problem(400, "insufficient-credit", &user);
    client.post(&format!("/payment/add_funds/{user}/3")).await.expect_status(200);
    client.checkout(&order).await.expect_problem(400, "out-of-stock", &item);
    assert_eq!(client.credit(&user).await, 6);
    client.post(&format!("/stock/add/{item}/9")).await.expect_status(200);
    client.post(&format!("/orders/addItem/{order}/{item}/1")).await.expect_status(200);
    assert_success(&client.checkout(&order).await);
    assert_eq!((client.credit(&user).await, client.pieces(&item).await), (0, 7));
    let books = Books::closed(&platform).await;
    assert_eq!(books.undo.len(), 3, "each try is a saga of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_batch_init_replaced_are_unknown_or_cost_what_was_agreed() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    client.batch_users(1, 10).await;
    // An order for items of which the second never existed: made by batch_init, which does not ask.
    client.batch_items(1, 5, 1).await;
    client.post("/orders/batch_init/40/2/1/1").await.expect_status(200);
    let order = until("an order with item 1", async || {
        for id in 0..40 {
            let order = client.find_order(&id.to_string()).await;
            if order["items"].to_string().contains("\"1\"") {
                return Some(id.to_string());
            }
        }
        None
    })
    .await;
    client.checkout(&order).await.expect_problem(400, "out-of-stock", "no item 1");
    assert_eq!(client.credit("0").await, 10);
    Books::closed(&platform).await;
}

/// Asks for something until it is known that it goes on: the path of the saga that the 202 speaks of.
async fn saga_of(client: &Client, path: &str, headers: &[(&str, &str)]) -> String {
    until("a saga that goes on", async || {
        let answer = client.insist(Method::POST, path, headers).await;
        // Of a request that did not get as far as to its saga it is not known whether there is one.
        let is_of_a_saga = answer.status != 202 || answer.header("location").starts_with("/orders/saga/");
        is_of_a_saga.then(|| {
            let answer = answer.expect_problem(202, "not-known-yet", "goes on");
            answer.header("location").to_owned()
        })
    })
    .await
}

/// The undo entry of a saga when it has completed.
async fn completed(client: &Client, saga: &str) -> Value {
    until("the saga completes", async || {
        Some(client.get(saga).await.json()).filter(|entry| entry["state"] == "completed")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_payment_is_held_a_checkout_is_not_known_and_then_completes() {
    let platform = hasty().await;
    let client = platform.client();
    let (user, item) = (client.user(10).await, client.item(2, 5).await);
    let order = client.order(&user, &[(&item, 2)]).await;
    for name in ["payment-1", "redis-payment"] {
        let order = if name == "payment-1" { order.clone() } else { client.order(&user, &[(&item, 1)]).await };
        let checkout = format!("/orders/checkout/{order}");
        let held = platform.hold(name).await;
        let saga = saga_of(&client, &checkout, &[]).await;
        let entry = client.get(&saga).await.expect_status(200).json();
        assert_eq!((&entry["state"], &entry["reason"]), (&json!("started"), &json!(null)), "{entry}");
        assert_eq!((&entry["order_id"], &entry["user_id"]), (&json!(order), &json!(user)), "{entry}");
        // In flight: it cannot be changed, and another checkout joins.
        let change = client.insist(Method::POST, &format!("/orders/addItem/{order}/{item}/1"), &[]).await;
        change.expect_problem(409, "order-in-flight", &order);
        assert_eq!(saga_of(&client, &checkout, &[]).await, saga);
        drop(held);
        let entry = completed(&client, &saga).await;
        let steps: Vec<_> = entry["steps"].as_array().unwrap().iter().map(|step| step["event"].clone()).collect();
        assert_eq!(steps, ["checkout.started", "payment.debited", "stock.reserved"], "{entry}");
        assert!(client.is_paid(&order).await);
    }
    assert_eq!((client.credit(&user).await, client.pieces(&item).await), (4, 2));
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_nobody_can_carry_out_is_abandoned_and_undone() {
    let options = Options::default().set("order.SAGA_LIMIT_MS=500").set("order.REQUEST_LIMIT_MS=60000");
    let platform = Platform::start(options).await;
    let (client, nats) = (platform.client(), Nats::of(&platform).await);
    let (user, item) = (client.user(10).await, client.item(2, 5).await);
    let order = client.order(&user, &[(&item, 2)]).await;
    let held = platform.hold("payment-1").await;
    let buyer = tokio::spawn({
        let (client, order) = (platform.client(), order.clone());
        async move { client.checkout(&order).await }
    });
    // Stock has decided against it before payment has done anything.
    let is_refused = |event: &Stored| event.subject == "stock.failed";
    eventually("the saga is given up", async || nats.events().await.iter().any(is_refused)).await;
    drop(held);
    buyer.await.unwrap().expect_problem(409, "abandoned", &order);
    assert!(!client.is_paid(&order).await);
    assert_eq!((client.credit(&user).await, client.pieces(&item).await), (10, 5));
    Books::closed(&platform).await;
}

/// Sends a request twice with one key, and another request with the same key.
async fn once(client: &Client, key: &str, path: &str, other: &str) {
    let first = client.post_once(key, path).await;
    let again = client.post_once(key, path).await;
    assert_eq!((first.status, first.text()), (again.status, again.text()), "{path}");
    assert_eq!(first.header("content-type"), again.header("content-type"), "{path}");
    client.post_once(key, other).await.expect_problem(422, "idempotency-key-mismatch", other);
    let third = client.post_once(key, path).await;
    assert_eq!((first.status, first.text()), (third.status, third.text()), "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_an_idempotency_key_happens_once() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let (user, item) = (client.user(100).await, client.item(1, 100).await);
    let order = client.order(&user, &[]).await;
    once(&client, "k1", "/payment/create_user", "/payment/add_funds/0/1").await;
    once(&client, "k2", &format!("/payment/add_funds/{user}/5"), &format!("/payment/add_funds/{user}/6")).await;
    once(&client, "k3", &format!("/payment/pay/{user}/7"), &format!("/payment/pay/{user}/8")).await;
    once(&client, "k4", &format!("/payment/pay/{user}/1000"), &format!("/payment/pay/{user}/8")).await;
    once(&client, "k5", "/payment/batch_init/2/5", "/payment/batch_init/2/6").await;
    once(&client, "k1", "/stock/item/create/3", "/stock/item/create/4").await;
    once(&client, "k2", &format!("/stock/add/{item}/5"), &format!("/stock/add/{item}/6")).await;
    once(&client, "k3", &format!("/stock/subtract/{item}/7"), &format!("/stock/subtract/{item}/8")).await;
    once(&client, "k5", "/stock/batch_init/2/5/1", "/stock/batch_init/2/6/1").await;
    once(&client, "k1", &format!("/orders/create/{user}"), "/orders/create/0").await;
    once(&client, "k2", &format!("/orders/addItem/{order}/{item}/5"), &format!("/orders/addItem/{order}/{item}/6"))
        .await;
    once(&client, "k5", "/orders/batch_init/2/2/2/1", "/orders/batch_init/3/2/2/1").await;
    once(&client, "k6", &format!("/orders/checkout/{order}"), "/orders/checkout/0").await;
    once(&client, "k7", "/orders/checkout/none", "/orders/checkout/0").await;
    assert_eq!(client.credit(&user).await, 100 + 5 - 7 - 5);
    assert_eq!(client.pieces(&item).await, 100 + 5 - 7 - 5);
    let books = Books::closed(&platform).await;
    assert_eq!(books.credit.len(), 2 + 2, "one user was created, one more with the key, two by batch_init");
    for key in ["", &"x".repeat(256), "é"] {
        let answer = client.post_once(key, "/payment/create_user").await;
        answer.expect_problem(400, "malformed", "Idempotency-Key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_one_key_that_come_at_once_happen_once() {
    let platform = Platform::start(Options::default().scale("payment", 2)).await;
    let client = platform.client();
    let user = client.user(100).await;
    let path = format!("/payment/add_funds/{user}/7");
    let answers = join_all((0..50).map(|_| client.post_once("k", &path))).await;
    let told: BTreeSet<_> = answers.iter().map(|answer| (answer.status, answer.text())).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(client.credit(&user).await, 107);
    // A batch takes a while: who comes while it runs is told so, who comes later gets its answer.
    let answers = join_all((0..20).map(|_| client.post_once("b", "/payment/batch_init/50000/3"))).await;
    for answer in answers.into_iter().filter(|answer| answer.status != 200) {
        answer.expect_problem(409, "idempotency-key-in-use", "/payment/batch_init/50000/3");
    }
    client.post_once("b", "/payment/batch_init/50000/3").await.expect_status(200);
    let books = Books::closed(&platform).await;
    assert_eq!(books.total("payment", "initial"), 150_000, "the batch ran once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_checkout_with_a_key_stays_failed_for_that_key_only() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let (user, item) = (client.user(0).await, client.item(1, 1).await);
    let order = client.order(&user, &[(&item, 1)]).await;
    let path = format!("/orders/checkout/{order}");
    let refused = client.post_once("a", &path).await.expect_problem(400, "insufficient-credit", &user).json();
    let place = refused["instance"].as_str().expect("the saga that was undone");
    assert!(place.starts_with(&format!("/orders/saga/{order}.")) && place.ends_with(".0"), "{place}");
    assert_eq!(client.get(place).await.expect_status(200).json()["state"], "failed");
    client.post(&format!("/payment/add_funds/{user}/1")).await.expect_status(200);
    let again = client.post_once("a", &path).await.expect_problem(400, "insufficient-credit", &user);
    assert_eq!(again.json(), refused, "the key is told of the same saga");
    assert_success(&client.post_once("b", &path).await);
    let again = client.post_once("a", &path).await.expect_problem(400, "insufficient-credit", &user);
    assert_eq!(again.json(), refused);
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_request_is_running_is_in_use() {
    let platform = hasty().await;
    let client = platform.client();
    let (user, item) = (client.user(9).await, client.item(1, 9).await);
    let order = client.order(&user, &[(&item, 1)]).await;
    let path = format!("/orders/checkout/{order}");
    let held = platform.hold("payment-1").await;
    let once = async |key: &str, path: &str| client.insist(Method::POST, path, &[("idempotency-key", key)]).await;
    let saga = saga_of(&client, &path, &[("idempotency-key", "k")]).await;
    once("k", &path).await.expect_problem(409, "idempotency-key-in-use", &path);
    let another = "/orders/checkout/0";
    once("k", another).await.expect_problem(422, "idempotency-key-mismatch", another);
    // Another key joins the saga, and is in use as well.
    assert_eq!(saga_of(&client, &path, &[("idempotency-key", "other")]).await, saga);
    once("other", &path).await.expect_problem(409, "idempotency-key-in-use", &path);
    drop(held);
    completed(&client, &saga).await;
    assert_success(&once("k", &path).await);
    assert_success(&once("other", &path).await);
    assert_eq!(client.credit(&user).await, 8);
    Books::closed(&platform).await;
}
