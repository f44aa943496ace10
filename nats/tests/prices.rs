//! The price service: a NATS micro service that stock runs and order asks.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::Duration;

use async_nats::service::Stats;
use common::amount::Amount;
use common::id::ItemId;
use support::{PATIENCE, Server, eventually, header};
use tokio_util::sync::CancellationToken;

fn item(text: &str) -> ItemId {
    text.parse().unwrap()
}

async fn lookup(item: ItemId) -> Result<Option<Amount>, String> {
    match item.as_str() {
        "1" => Ok(Some(Amount::try_from(17).unwrap())),
        "slow" => {
            tokio::time::sleep(PATIENCE * 10).await;
            Ok(None)
        }
        "trouble" => Err("the database\r\nis away".to_owned()),
        _ => Ok(None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_are_asked_over_nats() {
    let server = Server::start();
    let (stock, order) = (server.broker("stock-1").await, server.broker("order-1").await);
    let nobody = order.ask_price(&item("1"), Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(nobody.contains("price service"), "{nobody}");

    let shutdown = CancellationToken::new();
    let serving = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { stock.serve_prices(lookup, shutdown).await }
    });
    eventually("the service answers", || async { order.ask_price(&item("1"), PATIENCE).await.is_ok() }).await;
    let price = order.ask_price(&item("1"), PATIENCE).await.unwrap();
    assert_eq!(price.map(Amount::get), Some(17));
    assert_eq!(order.ask_price(&item("2"), PATIENCE).await.unwrap(), None);
    let trouble = order.ask_price(&item("trouble"), PATIENCE).await.unwrap_err().to_string();
    assert!(trouble.contains("503: the database  is away"), "{trouble}");

    // One slow answer does not hold up the others.
    let slow = tokio::spawn({
        let order = order.clone();
        async move { order.ask_price(&item("slow"), PATIENCE * 2).await }
    });
    assert!(order.ask_price(&item("1"), PATIENCE).await.unwrap().is_some());
    slow.abort();

    let client = server.client().await;
    for bad in ["", "{}", "not json", "{\"item_id\":\"a b\"}", "{\"item_id\":7}", "{\"item_id\":\"\u{1f4a5}\"}"] {
        let reply = client.request("prices.get", bad.into()).await.unwrap();
        assert_eq!(header(reply.headers.as_ref().unwrap(), "Nats-Service-Error-Code"), "400", "{bad}");
    }
    let reply = client.request("prices.get", "{\"item_id\":\"1\"}".into()).await.unwrap();
    assert_eq!(reply.payload, "{\"item_id\":\"1\",\"price\":17}");

    // As `nats micro stats stock` does.
    let stats = client.request("$SRV.STATS.stock", "".into()).await.unwrap();
    let stats: Stats = serde_json::from_slice(&stats.payload).unwrap();
    assert_eq!((stats.name.as_str(), stats.endpoints.len()), ("stock", 1));
    assert_eq!(stats.endpoints[0].subject, "prices.get");
    assert!(stats.endpoints[0].requests > 6 && stats.endpoints[0].errors > 6);
    shutdown.cancel();
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_price_service_stops_when_asked_and_outlives_the_server() {
    let mut server = Server::start();
    let (stock, order) = (server.hasty_broker("stock-1").await, server.hasty_broker("order-1").await);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn({
        let (stock, shutdown) = (stock.clone(), shutdown.clone());
        async move { stock.serve_prices(lookup, shutdown).await }
    });
    let answers = || async { order.ask_price(&item("1"), Duration::from_secs(1)).await.is_ok() };
    eventually("the service answers", answers).await;
    server.kill();
    assert!(order.ask_price(&item("1"), Duration::from_millis(100)).await.is_err());
    server.start_again();
    eventually("the service answers again", answers).await;
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    assert!(!answers().await);
}
