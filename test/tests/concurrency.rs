//! Many clients at once: each is answered, and nothing is sold or charged twice.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use futures::future::join_all;
use testing::books::Books;
use testing::client::Client;
use testing::load::{Load, Seed, Told, check_out};
use testing::platform::{Options, Platform};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_users_with_one_credit_exactly_one_hundred_get_the_hundred_pieces() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    client.batch_users(1_000, 1).await;
    let item = client.item(1, 100).await;
    let entry = [(item.as_str(), 1)];
    let orders: Vec<String> = join_all((0..1_000).map(|user| {
        let (client, entry) = (&client, &entry);
        async move { client.order(&user.to_string(), entry).await }
    }))
    .await;
    let told = join_all(orders.iter().map(|order| check_out(&client, order))).await;

    let paid = told.iter().filter(|told| **told == Told::Paid).count();
    let refused = told.iter().filter(|told| **told == Told::Refused(400)).count();
    assert_eq!((paid, refused), (100, 900));
    let books = Books::closed(&platform).await;
    assert_eq!(books.items[&item].pieces, 0);
    for (user, (order, told)) in orders.iter().zip(&told).enumerate() {
        let paid = *told == Told::Paid;
        assert_eq!(books.orders[order].paid, paid, "order {order}");
        assert_eq!(books.credit[&user.to_string()], i128::from(!paid), "user {user}");
    }
}

/// All clients are answered with 200, and one charge was made.
async fn check_out_together(platform: &Platform, clients: &[Client]) {
    let client = platform.client();
    let user = client.user(1_000).await;
    let item = client.item(7, 1_000).await;
    let order = client.order(&user, &[(&item, 2)]).await;
    let path = format!("/orders/checkout/{order}");
    let answers = join_all((0..200).map(|n| clients[n % clients.len()].post(&path))).await;
    for answer in answers {
        assert_eq!((answer.status, answer.text().as_str()), (200, "Checkout successful"));
    }
    assert_eq!(client.credit(&user).await, 1_000 - 14);
    assert_eq!(client.pieces(&item).await, 1_000 - 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_checkouts_of_one_order_join_and_charge_once_also_across_instances() {
    let platform = Platform::start(Options::default().scale("order", 2)).await;
    check_out_together(&platform, &[platform.client()]).await;
    // Past the gateway, so that it is certain that both instances have waiters for the same saga.
    let processes = platform.processes();
    check_out_together(&platform, &["order-1", "order-2"].map(|name| Client::new(&processes[name]))).await;
    let books = Books::closed(&platform).await;
    assert_eq!(books.undo.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_fails_fails_for_all_who_joined_it() {
    let platform = Platform::start(Options::default().scale("order", 2)).await;
    let client = platform.client();
    let (user, item) = (client.user(1).await, client.item(1, 0).await);
    let order = client.order(&user, &[(&item, 1)]).await;
    let held = platform.hold("payment-1").await;
    let path = format!("/orders/checkout/{order}");
    let together = join_all((0..50).map(|_| client.post(&path)));
    let release = async {
        testing::wait::eventually("a saga is open", async || Books::count_open(&platform).await == Some(1)).await;
        drop(held);
    };
    let (answers, ()) = futures::join!(together, release);
    for answer in answers {
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.json()["type"], "urn:checkout:problem:out-of-stock");
    }
    let books = Books::closed(&platform).await;
    assert_eq!(books.credit[&user], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_clients_that_connect_at_once_are_all_answered() {
    const CLIENTS: u64 = 5_000;
    let platform = Platform::start(Options::default().set("order.REQUEST_LIMIT_MS=60000")).await;
    Seed::plenty(CLIENTS).fill(&platform.client()).await;
    // Each has a connection of its own.
    let told = join_all((0..CLIENTS).map(|order| {
        let client = platform.client();
        tokio::spawn(async move { check_out(&client, &order.to_string()).await })
    }))
    .await;
    let mut counts = BTreeMap::<String, u64>::new();
    for told in told {
        *counts.entry(format!("{:?}", told.unwrap())).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("Paid".to_owned(), CLIENTS)]));
    let books = Books::closed(&platform).await;
    assert_eq!(books.paid() as u64, CLIENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_one_hundred_thousand_are_made_and_found() {
    const N: u64 = 100_000;
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    client.batch_users(N, 17).await;
    client.batch_items(N, 5, 3).await;
    client.batch_orders(N, N, N, 3).await;
    let books = Books::read(&platform).await;
    assert_eq!((books.credit.len(), books.items.len(), books.orders.len()), (100_000, 100_000, 100_000));
    assert_eq!((books.all_credit(), books.all_pieces()), (1_700_000, 500_000));
    for id in ["0", "1", "31415", "99999"] {
        assert_eq!(client.credit(id).await, 17);
        assert_eq!(client.pieces(id).await, 5);
        let order = client.find_order(id).await;
        assert_eq!((&order["paid"], &order["total_cost"]), (&false.into(), &6.into()), "{order}");
        assert_eq!(order["items"].as_array().map(Vec::len), Some(2), "{order}");
    }
    for path in ["/payment/find_user/100000", "/stock/find/100000", "/orders/find/100000"] {
        client.get(path).await.expect_status(404);
    }
    // What is replaced is counted as replaced, and a checkout of an order made so works as any other.
    client.batch_users(N, 600).await;
    let answers = Load::start(&platform, 100, 20).all().await;
    assert_eq!(answers.paid(), 100);
    Books::closed(&platform).await;
}
