//! What a person with the NATS CLI finds: the price service, and events as CloudEvents that belong to the client's trace.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testing::platform::{Options, Platform};
use testing::stream::Nats;
use testing::wait::{eventually, until};

async fn ask(nats: &Nats, subject: &str, question: &str) -> async_nats::Message {
    nats.client
        .request(subject.to_owned(), question.to_owned().into())
        .await
        .unwrap_or_else(|e| panic!("{subject}: {e}"))
}

async fn ask_json(nats: &Nats, subject: &str) -> Value {
    serde_json::from_slice(&ask(nats, subject, "").await.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_price_service_answers_as_a_nats_service() {
    let platform = Platform::start(Options::default()).await;
    let (nats, client) = (Nats::of(&platform).await, platform.client());
    for what in ["PING", "INFO", "STATS"] {
        for subject in [format!("$SRV.{what}"), format!("$SRV.{what}.stock")] {
            let answer = ask_json(&nats, &subject).await;
            assert_eq!(answer["name"], "stock", "{answer}");
            assert_eq!(answer["type"], format!("io.nats.micro.v1.{}_response", what.to_lowercase()), "{answer}");
        }
    }
    let info = ask_json(&nats, "$SRV.INFO.stock").await;
    assert_eq!(info["endpoints"][0]["subject"], "prices.get", "{info}");

    let item = client.item(17, 0).await;
    let price = ask(&nats, "prices.get", &json!({ "item_id": item }).to_string()).await;
    assert_eq!(serde_json::from_slice::<Value>(&price.payload).unwrap(), json!({ "item_id": item, "price": 17 }));
    for (question, code) in
        [(r#"{"item_id":"none"}"#, "404"), ("no JSON", "400"), (r#"{"item_id":"a b"}"#, "400"), ("", "400")]
    {
        let answer = ask(&nats, "prices.get", question).await;
        let code_of = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
        assert_eq!(code_of.map(|value| value.as_str()), Some(code), "{question}");
    }
    // The order service asks there, too: the count rises by one for an item that it does not know yet, and then no more.
    let requests = async || ask_json(&nats, "$SRV.STATS.stock").await["endpoints"][0]["num_requests"].as_u64().unwrap();
    let before = requests().await;
    assert!(before >= 5, "{before}");
    client.order("0", &[(&item, 1), (&item, 2)]).await;
    assert_eq!(requests().await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_cloud_events_of_the_clients_trace() {
    // A saga that takes long is not replayed.
    let platform = Platform::start(Options::default().set("order.REPLAY_FIRST_MS=3600000")).await;
    let (nats, client) = (Nats::of(&platform).await, platform.client());
    let (user, item) = (client.user(10).await, client.item(2, 1).await);
    let good = client.order(&user, &[(&item, 1)]).await;
    let short = client.order(&user, &[(&item, 1)]).await;
    let poor = client.order(&user, &[(&item, 9)]).await;
    let ways = [
        (good, &["checkout.started", "payment.debited", "stock.reserved", "checkout.completed"][..]),
        (short, &["checkout.started", "payment.debited", "stock.failed", "payment.refunded", "checkout.failed"]),
        (poor, &["checkout.started", "payment.declined", "checkout.failed"]),
    ];
    for (n, (order, way)) in ways.iter().enumerate() {
        let trace = format!("00-{:032x}-{:016x}-01", n + 1, n + 100);
        client.post_with(&format!("/orders/checkout/{order}"), &[("traceparent", &trace)]).await;
        let events = until("all events of the saga", async || {
            let mut events = nats.events().await;
            events.retain(|event| event.json()["order_id"] == **order);
            // What was not confirmed in time is told again, as it was.
            let mut ids = BTreeSet::new();
            events.retain(|event| ids.insert(event.header("ce-id").to_owned()));
            (events.len() >= way.len()).then_some(events)
        })
        .await;
        let subjects: Vec<&str> = events.iter().map(|event| event.subject.as_str()).collect();
        assert_eq!(&subjects, way);
        for event in &events {
            let saga = event.json()["saga_id"].as_str().unwrap().to_owned();
            assert!(saga.starts_with(&format!("{order}.")), "{saga}");
            let service = match event.subject.split_once('.').unwrap().0 {
                "checkout" => "order",
                service => service,
            };
            for (name, value) in [
                ("ce-specversion", "1.0"),
                ("ce-type", &event.subject),
                ("ce-subject", &saga),
                ("ce-source", &format!("/checkout/{service}")),
                ("ce-instance", &format!("{service}-1")),
                ("content-type", "application/json"),
                ("traceparent", &trace),
            ] {
                assert_eq!(event.header(name), value, "{name} of {}", event.subject);
            }
            assert!(
                event.header("ce-id").starts_with(&format!("{saga}/{}", event.subject)),
                "{}",
                event.header("ce-id")
            );
            let time = event.header("ce-time");
            assert!(time.len() >= 20 && time.starts_with("20") && time.ends_with('Z'), "{time}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_is_told_again_while_nobody_tells_prices() {
    let platform = Platform::start(Options::default().set("order.REQUEST_LIMIT_MS=1000")).await;
    let client = platform.client();
    let (user, item) = (client.user(1).await, client.item(3, 1).await);
    let order = client.order(&user, &[]).await;
    let path = format!("/orders/addItem/{order}/{item}/2");
    let once = async |key: &str| client.insist(Method::POST, &path, &[("idempotency-key", key)]).await;
    let first = until("it is added", async || Some(once("key").await).filter(|answer| answer.status == 200)).await;
    // So that the price is not remembered.
    platform.end_and_await("order-1", Signal::SIGKILL).await;
    let stands_still = platform.hold("stock-1").await;
    assert_eq!(once("key").await.expect_status(200).text(), first.text());
    eventually("of another one it is said that its price is not known", async || {
        let answer = client.post_once("another", &path).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        // In so short a time a busy machine may not even have come to that question.
        let names_it = answer.text().contains("urn:checkout:problem:unavailable") && answer.text().contains(&item);
        if names_it {
            answer.expect_problem(503, "unavailable", &item);
        }
        names_it
    })
    .await;
    drop(stands_still);
    eventually("it is added too", async || once("another").await.status == 200).await;
    assert_eq!(client.find_order(&order).await["total_cost"], 12);
}
