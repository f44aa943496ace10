//! What cannot be understood is put aside with its reason, and the rest flows on.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use common::event::{Event, Kind};
use common::saga::Items;
use nats::Verdict;
use nats::topology::{CHECKOUT, DEAD_LETTERS, Durable, Limits};
use support::{HOUR, Seen, Server, count, dead_letters, each, header, number, run, saga, settled, started};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_dead_lettered_and_the_rest_flows_on() {
    let server = Server::start();
    // Nobody is given the time to take what is newer, see `newer.rs`; and nothing comes again only because it has been in hand for long.
    let limits = Limits { newer_patience: Duration::ZERO, ack_wait: HOUR, ..Limits::default() };
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;

    let good = Event::from(started(1)).encode().unwrap();
    let newer = String::from_utf8(good.clone()).unwrap().replace("\"version\":1", "\"version\":99");
    let megabyte = vec![b'x'; 1_000_000];
    // As large as the server allows at all: nothing can be added to it.
    let full = vec![b'y'; 1 << 20];
    let poison: [(&'static str, Bytes, &str); 7] = [
        ("checkout.started", Bytes::from_static(b"not json"), "does not fit"),
        ("checkout.started", Bytes::from_static(b"{}"), "missing field `version`"),
        ("checkout.started", newer.into(), "newer than"),
        ("stock.failed", good.into(), "must say its reason"),
        ("checkout.started", megabyte.into(), "does not fit"),
        ("checkout.started", full.into(), "does not fit"),
        ("checkout.watermark", Bytes::from_static(b"\xff\xfe"), "does not fit"),
    ];
    for (n, (subject, payload, _)) in poison.iter().enumerate() {
        broker.publish(&started(n).into(), None).await.unwrap();
        admin.publish(*subject, payload.clone()).await.unwrap().await.unwrap();
    }

    let seen = Seen::default();
    let consumer = run(&broker, Durable::Payment, &limits, seen.taking());
    let mut letters = dead_letters(&admin, poison.len()).await;
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    assert_eq!(count(&admin, DEAD_LETTERS).await, poison.len() as u64, "each is put aside once");

    // In whatever order: what is sent to us in several pieces is several batches, which are not told one after the other.
    assert_eq!((seen.all().len(), seen.distinct()), (poison.len(), (0..poison.len()).collect()));
    letters.sort_by_key(|(headers, _)| header(headers, "dead-sequence").parse::<u64>().unwrap());
    for (n, ((subject, payload, reason), (headers, body))) in poison.iter().zip(&letters).enumerate() {
        assert!(header(headers, "dead-reason").contains(reason), "{reason}: {headers:?}");
        assert_eq!(header(headers, "dead-subject"), *subject);
        assert_eq!(header(headers, "dead-stream"), CHECKOUT);
        assert_eq!(header(headers, "dead-consumer"), "payment");
        assert_eq!(header(headers, "dead-sequence"), (2 * n + 2).to_string());
        assert_eq!(header(headers, "dead-delivered"), "1");
        assert!(header(headers, "dead-time").ends_with('Z'));
        if payload.len() < 1 << 20 {
            assert_eq!(body, payload);
        } else {
            assert!(payload.starts_with(body) && body.len() > 1_000_000);
            assert_eq!(header(headers, "dead-truncated-from-bytes"), payload.len().to_string());
        }
    }
    assert_eq!(letters.len(), poison.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_to_the_server_in_a_poisoned_message_do_not_stop_the_consumer() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    let mut headers = HeaderMap::new();
    // True for CHECKOUT, where it is stored; never true for the dead letters.
    headers.insert("Nats-Expected-Stream", CHECKOUT);
    headers.insert("ce-id", "kept");
    admin.publish_with_headers("checkout.started", headers, "?".into()).await.unwrap().await.unwrap();
    let consumer = run(&broker, Durable::Payment, &limits, each(|_| Verdict::Publish(vec![])));
    let letters = dead_letters(&admin, 1).await;
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    assert_eq!(header(&letters[0].0, "dead-Nats-Expected-Stream"), CHECKOUT);
    assert_eq!(header(&letters[0].0, "ce-id"), "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reaction_can_declare_an_event_dead() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    let events: Vec<Event> = (0..10).map(|n| started(n).into()).collect();
    broker.publish_all(&events).await.unwrap();
    let consumer = run(
        &broker,
        Durable::Payment,
        &limits,
        each(|event| {
            if number(event) == 4 {
                Verdict::Dead("too old:\r\nstarted before the watermark".to_owned())
            } else {
                Verdict::Publish(vec![saga(event).then(Kind::PaymentDebited, None, 2).into()])
            }
        }),
    );
    let letters = dead_letters(&admin, 1).await;
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    let (headers, body) = &letters[0];
    assert_eq!(header(headers, "dead-reason"), "too old:  started before the watermark");
    assert_eq!(header(headers, "ce-id"), "4.k.0/checkout.started/0");
    assert_eq!(header(headers, "traceparent"), saga(&events[4]).traceparent.as_str());
    assert_eq!(*body, events[4].encode().unwrap());
    assert_eq!((letters.len(), count(&admin, CHECKOUT).await), (1, 19));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_does_not_fit_makes_its_cause_a_dead_letter() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    broker.publish_all(&[started(0).into(), started(1).into(), started(2).into()]).await.unwrap();
    let many = |n: usize| (format!("{n:064}").parse().unwrap(), 1.try_into().unwrap());
    let huge = Items::sum((0..20_000).map(many)).unwrap();
    let consumer = run(
        &broker,
        Durable::Payment,
        &limits,
        each(move |event| {
            let mut outcome = saga(event).then(Kind::PaymentDebited, None, 2);
            if number(event) == 1 {
                outcome.saga.items = huge.clone();
            }
            Verdict::Publish(vec![outcome.into()])
        }),
    );
    let letters = dead_letters(&admin, 1).await;
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    assert!(header(&letters[0].0, "dead-reason").starts_with("its outcome cannot be published"), "{letters:?}");
    assert_eq!(header(&letters[0].0, "ce-id"), "1.k.0/checkout.started/0");
}
