//! What only a newer build could understand is left to it while there may be an instance of one.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull};
use common::event::{Event, NEWEST_VERSION};
use futures::StreamExt;
use nats::Verdict;
use nats::topology::{CHECKOUT, DEAD_LETTERS, Durable, Limits};
use support::{
    PATIENCE, Seen, Server, count, dead_letters, durable_info, each, eventually, header, run, settled, started,
};

/// The body of a start as a newer build would write it.
fn newer(n: usize) -> Vec<u8> {
    let body = String::from_utf8(Event::from(started(n)).encode().unwrap()).unwrap();
    body.replace("\"version\":1", &format!("\"version\":{}", NEWEST_VERSION + 1)).into_bytes()
}

/// Requests of a newer instance at once. The server gives to one request after the other, so most of what comes again comes here.
const REQUESTS: usize = 8;

/// An instance of a newer build, which shares the durable: it takes so many messages of the newer version, and leaves the others.
async fn newer_instance(admin: &jetstream::Context, mut wanted: usize) {
    let durable: jetstream::consumer::Consumer<pull::Config> =
        admin.get_consumer_from_stream(Durable::Payment.name(), CHECKOUT).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while wanted > 0 {
        assert!(tokio::time::Instant::now() < deadline, "{wanted} never came here");
        let request = || durable.batch().max_messages(50).expires(Duration::from_secs(5)).messages();
        let requests = futures::future::try_join_all((0..REQUESTS).map(|_| request())).await.unwrap();
        let mut messages = futures::stream::select_all(requests);
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            let is_newer =
                Event::decode(&message.subject, &message.payload, None).is_err_and(|poison| poison.is_newer());
            let answer = if is_newer { jetstream::AckKind::Ack } else { jetstream::AckKind::Nak(None) };
            message.ack_with(answer).await.unwrap();
            // It may come again to who stands still for longer than the server waits.
            wanted = wanted.saturating_sub(usize::from(is_newer));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_event_waits_for_an_instance_of_a_newer_build_and_the_rest_flows_on() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    for n in 0..5 {
        admin.publish("checkout.started", newer(n).into()).await.unwrap().await.unwrap();
        broker.publish(&started(100 + n).into(), None).await.unwrap();
    }
    let seen = Seen::default();
    let old = run(&broker, Durable::Payment, &limits, seen.taking());
    eventually("the old instance has done what it understands", || async { seen.distinct().len() == 5 }).await;
    eventually("it has met the others more than once", || async {
        let info = durable_info(&admin, Durable::Payment).await;
        info.num_redelivered == 5 && info.num_ack_pending == 5
    })
    .await;
    assert_eq!(count(&admin, DEAD_LETTERS).await, 0);
    newer_instance(&admin, 5).await;
    settled(&admin, Durable::Payment).await;
    old.stop().await;
    assert_eq!(count(&admin, DEAD_LETTERS).await, 0);
    assert_eq!(seen.distinct(), (100..105).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_event_that_nobody_takes_is_a_dead_letter_in_the_end() {
    let server = Server::start();
    let limits = Limits { newer_patience: Duration::from_millis(500), ..Limits::default() };
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    admin.publish("checkout.started", newer(1).into()).await.unwrap().await.unwrap();
    let old = run(&broker, Durable::Payment, &limits, each(|_| Verdict::Publish(vec![])));
    let letters = dead_letters(&admin, 1).await;
    settled(&admin, Durable::Payment).await;
    old.stop().await;
    let reason = header(&letters[0].0, "dead-reason");
    assert!(reason.contains("newer than") && reason.contains("no instance of a newer build"), "{reason}");
    assert_eq!(letters[0].1, newer(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_only_a_newer_topology_brings_here_is_left_to_newer_instances() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    // A newer build has a new event, and payment react to one more.
    let mut stream = admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.clone();
    stream.subjects.push("fraud.suspected".to_owned());
    admin.update_stream(&stream).await.unwrap();
    let mut durable = durable_info(&admin, Durable::Payment).await.config;
    durable.filter_subjects.extend(["fraud.suspected", "stock.reserved"].map(str::to_owned));
    admin.create_consumer_on_stream(durable, CHECKOUT).await.unwrap();
    let body = Event::from(started(1)).encode().unwrap();
    for subject in ["fraud.suspected", "stock.reserved"] {
        admin.publish(subject, body.clone().into()).await.unwrap().await.unwrap();
    }
    let old = run(&broker, Durable::Payment, &limits, each(|event| panic!("not for this build: {event:?}")));
    eventually("it has met both more than once", || async {
        let info = durable_info(&admin, Durable::Payment).await;
        info.num_redelivered == 2 && info.num_ack_pending == 2
    })
    .await;
    old.stop().await;
    assert_eq!(count(&admin, DEAD_LETTERS).await, 0);
}
