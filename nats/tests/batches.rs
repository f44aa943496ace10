//! Publishing as batches that are confirmed once, and one by one where the stream does not take batches.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeSet;

use async_nats::Subscriber;
use async_nats::jetstream::stream::Config;
use common::event::Event;
use futures::StreamExt;
use nats::topology::{CHECKOUT, Limits};
use support::{PATIENCE, Server, count, number, started};

fn events(numbers: std::ops::Range<usize>) -> Vec<Event> {
    numbers.map(|n| started(n).into()).collect()
}

/// Everything that the server answers to instances of the order service.
async fn answers(server: &Server) -> (async_nats::Client, Subscriber) {
    let client = server.client().await;
    let subscriber = client.subscribe("_INBOX.order.>").await.unwrap();
    client.flush().await.unwrap();
    (client, subscriber)
}

/// How many messages each confirmation is about, until so many messages are confirmed; 0 for one of a message by itself.
async fn confirmed(answers: &mut Subscriber, messages: u64) -> Vec<u64> {
    let mut confirmed = Vec::new();
    while confirmed.iter().map(|count: &u64| *count.max(&1)).sum::<u64>() < messages {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("confirmations").unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        if answer["stream"] == CHECKOUT && answer["error"].is_null() {
            confirmed.push(answer["count"].as_u64().unwrap_or_default());
        }
    }
    confirmed
}

/// The numbers of the stored sagas, in order.
async fn stored(server: &Server) -> Vec<usize> {
    let admin = server.admin().await;
    let stream = admin.get_stream(CHECKOUT).await.unwrap();
    let mut numbers = Vec::new();
    for sequence in 1..=count(&admin, CHECKOUT).await {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let event = Event::decode(
            &message.subject,
            &message.payload,
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        );
        numbers.push(number(&event.unwrap()));
    }
    numbers
}

#[tokio::test]
async fn many_events_are_stored_in_order_and_confirmed_once() {
    let server = Server::start();
    let broker = server.ready_broker("order-1", &Limits::default()).await;
    let (_client, mut answers) = answers(&server).await;
    broker.publish_all(&events(0..300)).await.unwrap();
    assert_eq!(confirmed(&mut answers, 300).await, [300]);
    assert_eq!(stored(&server).await, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_published_at_the_same_time_goes_together() {
    let server = Server::start();
    let broker = server.ready_broker("order-1", &Limits::default()).await;
    let (_client, mut answers) = answers(&server).await;
    let events = events(0..200);
    let published = futures::future::join_all(events.iter().map(|event| broker.publish(event, None))).await;
    assert!(published.iter().all(Result::is_ok), "{published:?}");
    let confirmed = confirmed(&mut answers, 200).await;
    assert_eq!(confirmed.iter().sum::<u64>(), 200);
    assert!(confirmed.len() < 20, "{confirmed:?}");
    assert_eq!(stored(&server).await.into_iter().collect::<BTreeSet<_>>().len(), 200);
}

#[tokio::test]
async fn a_stream_that_takes_no_batches_is_published_to_one_by_one() {
    let server = Server::start();
    let limits = Limits::default();
    server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    let found = admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.clone();
    admin.update_stream(&Config { allow_batch_publish: false, ..found }).await.unwrap();

    // As where other tools keep the streams.
    let broker = server.ready_broker("order-1", &Limits { creates: false, ..limits }).await;
    let (_client, mut answers) = answers(&server).await;
    broker.publish_all(&events(0..30)).await.unwrap();
    broker.publish_all(&events(30..60)).await.unwrap();
    assert_eq!(confirmed(&mut answers, 60).await, [0; 60]);
    assert_eq!(stored(&server).await, (0..60).collect::<Vec<_>>(), "each once, although batches were tried");
}

#[tokio::test]
async fn a_batch_without_a_stream_is_stored_when_there_is_one_again() {
    let server = Server::start();
    let broker = server.ready_hasty_broker("order-1", &Limits::default()).await;
    server.admin().await.delete_stream(CHECKOUT).await.unwrap();
    broker.publish_all(&events(0..30)).await.unwrap();
    let stored = stored(&server).await;
    assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), (0..30).collect::<BTreeSet<_>>());
}
