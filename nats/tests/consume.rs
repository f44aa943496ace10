//! The promises of a consumer while everything works.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::event::{Event, Kind};
use common::limits::MAX_CONSUMER_BATCH;
use futures::StreamExt;
use nats::Verdict;
use nats::topology::{CHECKOUT, Durable, Limits};
use support::{
    HOUR, PATIENCE, Seen, Server, answer_with, count, durable_info, each, eventually, header, number, run, saga,
    settled, started, whole,
};
use tokio::sync::Semaphore;

/// Messages that one instance asks for ahead, at the least.
const AHEAD: usize = 2 * MAX_CONSUMER_BATCH;

fn events(range: std::ops::Range<usize>) -> Vec<Event> {
    range.map(|n| started(n).into()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_published_as_cloud_events_and_inputs_acknowledged() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    broker.publish_all(&events(0..500)).await.unwrap();
    let consumer = run(&broker, Durable::Payment, &limits, answer_with(Kind::PaymentDebited));
    eventually("500 outcomes", || async { count(&admin, CHECKOUT).await == 1_000 }).await;
    settled(&admin, Durable::Payment).await;
    assert!(consumer.ready.is_ready());
    consumer.stop().await;

    let stream = admin.get_stream(CHECKOUT).await.unwrap();
    let message = stream.get_last_raw_message_by_subject("payment.debited").await.unwrap();
    let id = header(&message.headers, "ce-id");
    assert!(id.ends_with(".k.0/payment.debited/0"), "{id}");
    assert_eq!(header(&message.headers, "ce-specversion"), "1.0");
    assert_eq!(header(&message.headers, "ce-type"), "payment.debited");
    assert_eq!(header(&message.headers, "ce-source"), "/checkout/payment");
    assert_eq!(header(&message.headers, "ce-instance"), "payment-1");
    assert_eq!(header(&message.headers, "ce-subject"), id.split('/').next().unwrap());
    assert_eq!(header(&message.headers, "content-type"), "application/json");
    assert!(header(&message.headers, "ce-time").ends_with('Z'));
    let event =
        Event::decode("payment.debited", &message.payload, Some(header(&message.headers, "traceparent"))).unwrap();
    assert_eq!(saga(&event).traceparent.as_str(), header(&message.headers, "traceparent"));
    assert!(message.headers.get("Nats-Msg-Id").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ready_runs_as_one_batch() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    broker.publish_all(&events(0..2_000)).await.unwrap();
    let largest = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let consumer = run(&broker, Durable::Payment, &limits, {
        let (largest, gate) = (largest.clone(), gate.clone());
        whole(move |batch| {
            largest.fetch_max(batch.len(), Ordering::Relaxed);
            let gate = gate.clone();
            async move {
                drop(gate.acquire().await.unwrap());
                vec![Verdict::Publish(vec![]); batch.len()]
            }
        })
    });
    // However small the first batches were: what comes while they last waits, and is here after a round trip.
    eventually("more has been sent than small batches take", || async {
        durable_info(&admin, Durable::Payment).await.num_ack_pending >= AHEAD
    })
    .await;
    broker.publish(&started(2_000).into(), None).await.unwrap();
    gate.add_permits(1);
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    let largest = largest.load(Ordering::Relaxed);
    assert!(largest > 64 && largest <= MAX_CONSUMER_BATCH, "the largest batch has {largest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_brings_an_event_back_later_and_only_that_one() {
    let server = Server::start();
    let limits = Limits { ack_wait: HOUR, ..Limits::default() };
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    broker.publish_all(&events(0..20)).await.unwrap();
    let times: Arc<Mutex<HashMap<usize, Vec<std::time::Instant>>>> = Arc::default();
    let consumer = run(&broker, Durable::Payment, &limits, {
        let times = times.clone();
        each(move |event| {
            let mut times = times.lock().unwrap();
            let seen = times.entry(number(event)).or_default();
            seen.push(std::time::Instant::now());
            if number(event) % 7 == 3 && seen.len() < 3 {
                Verdict::Retry("not yet".to_owned())
            } else {
                Verdict::Publish(vec![])
            }
        })
    });
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    for (n, seen) in times.lock().unwrap().iter() {
        assert_eq!(seen.len(), if n % 7 == 3 { 3 } else { 1 }, "{n}");
        assert!(seen.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(90)), "{n}: redelivered at once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reaction_is_not_taken_for_a_dead_one() {
    let server = Server::start();
    // Long enough that a machine which stands still for some seconds is not taken for a dead reaction.
    let limits = Limits { ack_wait: Duration::from_secs(10), ..Limits::default() };
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    // More than the batches in flight take, so that some wait in hand without having been begun.
    broker.publish_all(&events(0..1_400)).await.unwrap();
    let mut answers = server.admin().await.client().subscribe("$JS.ACK.>").await.unwrap();
    let seen = Seen::default();
    let gate = Arc::new(Semaphore::new(0));
    let consumer = run(&broker, Durable::Payment, &limits, {
        let (seen, gate) = (seen.clone(), gate.clone());
        whole(move |batch| {
            batch.iter().for_each(|event| seen.add(event));
            let gate = gate.clone();
            async move {
                drop(gate.acquire().await.unwrap());
                vec![Verdict::Publish(vec![]); batch.len()]
            }
        })
    });
    // The database is away for longer than the server's patience: each message in hand, begun or not, gives several signs of life within it.
    let patient = |signs: &HashMap<String, usize>| {
        signs.len() >= AHEAD && signs.len() > seen.all().len() && signs.values().all(|signs| *signs > 4)
    };
    let listening = async {
        let mut signs = HashMap::<String, usize>::new();
        while !patient(&signs) {
            let answer = answers.next().await.unwrap();
            assert_eq!(&*answer.payload, b"+WPI", "{} was answered before it was handled", answer.subject);
            *signs.entry(answer.subject.into_string()).or_default() += 1;
        }
    };
    tokio::time::timeout(PATIENCE, listening).await.expect("signs of life");
    assert_eq!(durable_info(&admin, Durable::Payment).await.num_redelivered, 0);
    gate.add_permits(1);
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    assert_eq!((seen.all().len(), seen.distinct().len()), (1_400, 1_400), "something was delivered twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_hands_back_what_was_not_begun() {
    let server = Server::start();
    // What is not handed back comes again only after an hour: then this test fails.
    let limits = Limits { ack_wait: HOUR, ..Limits::default() };
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    broker.publish_all(&events(0..3_000)).await.unwrap();

    let first_seen = Seen::default();
    let gate = Arc::new(Semaphore::new(0));
    let first = run(&broker, Durable::Payment, &limits, {
        let (seen, gate) = (first_seen.clone(), gate.clone());
        whole(move |batch| {
            batch.iter().for_each(|event| seen.add(event));
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                vec![Verdict::Publish(vec![]); batch.len()]
            }
        })
    });
    eventually("more is in hand than in batches", || async {
        let info = durable_info(&admin, Durable::Payment).await;
        info.num_ack_pending > first_seen.all().len() && !first_seen.all().is_empty()
    })
    .await;
    let stopping = tokio::spawn(first.stop());

    let second_broker = server.broker("payment-2").await;
    let second_seen = Seen::default();
    let second = run(&second_broker, Durable::Payment, &limits, second_seen.taking());
    eventually("the other instance has the rest", || async {
        first_seen.distinct().len() + second_seen.distinct().len() == 3_000
    })
    .await;
    // Only now may the first one finish what it had begun: nothing of that went elsewhere.
    assert!(first_seen.distinct().is_disjoint(&second_seen.distinct()));
    gate.add_permits(10_000);
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
    settled(&admin, Durable::Payment).await;
    second.stop().await;
    assert_eq!(first_seen.all().len() + second_seen.all().len(), 3_000, "something was begun twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_come_and_go_under_traffic_and_nothing_is_left_lying() {
    let server = Server::start();
    // What one of them takes along comes again only after an hour: then this test fails.
    let limits = Limits { ack_wait: HOUR, ..Limits::default() };
    let publisher = server.ready_broker("order-1", &limits).await;
    let admin = server.admin().await;
    let handed_over = Arc::new(AtomicUsize::new(0));
    let publishing = tokio::spawn({
        let handed_over = handed_over.clone();
        async move {
            let mut published = 0;
            while published < 5_000 || handed_over.load(Ordering::Relaxed) < 3 {
                publisher.publish(&started(published).into(), None).await.unwrap();
                published += 1;
            }
            published
        }
    });
    let seen = Seen::default();
    let start = async |n: usize| {
        let broker = server.broker(&format!("payment-{n}")).await;
        let consumer = run(&broker, Durable::Payment, &limits, seen.taking());
        eventually("bound", || async { consumer.ready.is_ready() }).await;
        consumer
    };
    let mut running = start(0).await;
    while !publishing.is_finished() {
        let next = start(handed_over.load(Ordering::Relaxed) + 1).await;
        std::mem::replace(&mut running, next).stop().await;
        handed_over.fetch_add(1, Ordering::Relaxed);
    }
    let published = publishing.await.unwrap();
    settled(&admin, Durable::Payment).await;
    running.stop().await;
    assert_eq!((seen.all().len(), seen.distinct().len()), (published, published));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reaction_that_panics_or_miscounts_acknowledges_nothing() {
    let server = Server::start();
    let limits = Limits { ack_wait: Duration::from_millis(300), ..Limits::default() };
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    broker.publish_all(&events(0..1)).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let consumer = run(&broker, Durable::Payment, &limits, {
        let calls = calls.clone();
        whole(move |batch| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                match call {
                    0 => panic!("a bug"),
                    1 => vec![],
                    _ => vec![Verdict::Publish(vec![]); batch.len()],
                }
            }
        })
    });
    eventually("the third call", || async { calls.load(Ordering::Relaxed) >= 3 }).await;
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_hears_what_it_is_told_and_nothing_else_is_told() {
    let server = Server::start();
    let (waiter, closer) = (server.broker("order-1").await, server.broker("order-2").await);
    let mut inbox = waiter.inbox().await.unwrap();
    let subject = inbox.subject().to_owned();
    // Not an inbox: refused, and the connection stays whole.
    closer.notify("checkout.completed", "x".into()).await;
    closer.notify("_INBOX.a\r\nPUB checkout.started 0", "x".into()).await;
    // The subscription and the notification travel on two connections, so the first ones may come too early.
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            closer.notify(&subject, "closed".into()).await;
            if let Ok(told) = tokio::time::timeout(Duration::from_millis(100), inbox.next()).await {
                return told;
            }
        }
    });
    assert_eq!(told.await.unwrap().unwrap(), "closed");
}
