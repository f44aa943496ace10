//! More than the platform takes is turned away before anything is started.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use testing::client::{Answer, Client};
use testing::platform::{Options, Platform};
use testing::stream::{Nats, Stored};
use testing::wait::eventually;
use tokio::task::JoinHandle;

/// A user with enough credit, and orders for one piece each.
async fn orders(client: &Client, number: u64) -> (String, String, Vec<String>) {
    let (user, item) = (client.user(number).await, client.item(1, number).await);
    let mut orders = Vec::new();
    for _ in 0..number {
        orders.push(client.order(&user, &[(&item, 1)]).await);
    }
    (user, item, orders)
}

fn buys(platform: &Platform, order: &str) -> JoinHandle<Answer> {
    let (client, order) = (platform.client(), order.to_owned());
    tokio::spawn(async move { client.checkout(&order).await })
}

/// The orders of all sagas that have been started. (A start is told again, by the reconciler too.)
async fn started(nats: &Nats) -> Vec<String> {
    let is_start = |event: &Stored| event.subject == "checkout.started";
    let (mut sagas, mut orders) = (BTreeSet::new(), Vec::new());
    for event in nats.events().await.into_iter().filter(is_start) {
        if sagas.insert(event.saga().to_owned()) {
            orders.push(event.json()["order_id"].as_str().unwrap().to_owned());
        }
    }
    orders
}

async fn is_turned_away(client: &Client, order: &str) {
    let answer = client.checkout(order).await.expect_problem(429, "overloaded", order);
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_as_many_sagas_are_open_as_may_be_none_is_started_whoever_has_gone_away() {
    let platform = Platform::start(Options::default().scale("order", 2).set("order.MAX_SAGAS_OPEN=2")).await;
    let (client, nats) = (platform.client(), Nats::of(&platform).await);
    let (user, item, orders) = orders(&client, 4).await;
    let stands_still = platform.hold("payment-1").await;
    for order in &orders[..2] {
        let buyer = buys(&platform, order);
        eventually("its saga is open", async || started(&nats).await.contains(order)).await;
        // Its saga stays.
        buyer.abort();
    }
    for order in &orders[2..] {
        is_turned_away(&client, order).await;
        let keyed = platform.client().post_once("key", &format!("/orders/checkout/{order}")).await;
        keyed.expect_problem(429, "overloaded", order);
    }
    // To join one that is open is to start none.
    let joins = buys(&platform, &orders[0]);
    drop(stands_still);
    joins.await.unwrap().expect_status(200);
    eventually("the other one ends too", async || client.is_paid(&orders[1]).await).await;
    assert!(!client.is_paid(&orders[2]).await && !client.is_paid(&orders[3]).await);
    assert_eq!((client.credit(&user).await, client.pieces(&item).await), (2, 2));
    // The key was not taken.
    client.post_once("key", &format!("/orders/checkout/{}", orders[2])).await.expect_status(200);
    client.checkout(&orders[3]).await.expect_status(200);
    assert_eq!((client.credit(&user).await, client.pieces(&item).await), (0, 0));
    assert_eq!(started(&nats).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_checkouts_wait_in_an_instance_than_it_has_places() {
    let platform = Platform::start(Options::default().set("order.MAX_CHECKOUTS_IN_FLIGHT=1")).await;
    let (client, nats) = (platform.client(), Nats::of(&platform).await);
    let (user, _, orders) = orders(&client, 2).await;
    let stands_still = platform.hold("payment-1").await;
    let buyer = buys(&platform, &orders[0]);
    eventually("its saga is open", async || started(&nats).await.contains(&orders[0])).await;
    is_turned_away(&client, &orders[1]).await;
    drop(stands_still);
    buyer.await.unwrap().expect_status(200);
    client.checkout(&orders[1]).await.expect_status(200);
    assert_eq!(client.credit(&user).await, 0);
    assert_eq!(started(&nats).await, orders);
}
