//! Dead letters are looked at, redriven and dropped, and wherever it stops in between, none is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, AckKind, consumer::pull};
use bytes::Bytes;
use common::event::Event;
use futures::StreamExt;
use nats::graveyard::{Filter, Graveyard, GraveyardError, Note, Order};
use nats::topology::{ADVISORIES, CHECKOUT, DEAD_LETTERS, DEAD_LETTERS_LOG, Durable, Limits};
use nats::{Broker, Verdict};
use support::{HOUR, Server, count, dead_letters, durable_info, each, eventually, number, run, settled, started};

struct Scene {
    server: Server,
    broker: Broker,
    admin: jetstream::Context,
    graveyard: Graveyard,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start();
        let broker = server.ready_broker("payment-1", &limits()).await;
        let (admin, graveyard) = (server.admin().await, Graveyard::new(broker.clone()));
        Self { server, broker, admin, graveyard }
    }

    /// Publishes `checkout.started` of the sagas 0 to `n` and lets payment declare all of them dead, one after the other.
    async fn dead(&self, n: usize) {
        let verdict = |event: &Event| Verdict::Dead(format!("Reason number {}", number(event)));
        let consumer = run(&self.broker, Durable::Payment, &limits(), each(verdict));
        for n in 0..n {
            self.broker.publish(&started(n).into(), None).await.unwrap();
            eventually("it is dead", || async { count(&self.admin, DEAD_LETTERS).await > n as u64 }).await;
        }
        settled(&self.admin, Durable::Payment).await;
        consumer.stop().await;
        assert_eq!(count(&self.admin, DEAD_LETTERS).await, n as u64);
    }

    /// A letter as nobody here writes it.
    async fn forged(&self, place: &'static str, headers: &[(&'static str, &str)], body: &'static str) -> u64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        self.admin.publish_with_headers(place, map, body.into()).await.unwrap().await.unwrap().sequence
    }

    async fn counts(&self) -> (u64, u64, u64) {
        let count = |stream| count(&self.admin, stream);
        (count(CHECKOUT).await, count(DEAD_LETTERS).await, count(DEAD_LETTERS_LOG).await)
    }

    async fn message(&self, stream: &str, sequence: u64) -> (HeaderMap, Bytes) {
        let message = self.admin.get_stream(stream).await.unwrap().get_raw_message(sequence).await.unwrap();
        (message.headers, message.payload)
    }

    /// From now on the server refuses to delete dead letters, which is all that a crash before the deletion does.
    async fn refuse_deletions(&self) {
        let config = self.admin.get_stream(DEAD_LETTERS).await.unwrap().cached_info().config.clone();
        self.admin.update_stream(&Config { deny_delete: true, ..config }).await.unwrap();
    }

    async fn sequences(&self, filter: &Filter, order: Order, limit: usize) -> Vec<u64> {
        let letters = self.graveyard.letters(filter, order, limit).await.unwrap();
        letters.into_iter().map(|letter| letter.sequence).collect()
    }
}

/// Nothing comes again only because it has been in hand for long.
fn limits() -> Limits {
    Limits { ack_wait: HOUR, ..Limits::default() }
}

fn note() -> Note {
    Note { who: "ada@host".to_owned(), why: "fixed in 1.2".to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redriven_letter_is_the_event_it_was_and_the_saga_goes_on() {
    let scene = Scene::new().await;
    scene.dead(2).await;
    assert_eq!(scene.graveyard.redrive(2, &note()).await.unwrap(), 3);
    assert_eq!(scene.counts().await, (3, 1, 1));
    assert_eq!(
        scene.message(CHECKOUT, 3).await,
        scene.message(CHECKOUT, 2).await,
        "headers and payload are the original's"
    );
    assert!(matches!(scene.graveyard.letter(2).await, Err(GraveyardError::NoLetter(2))));

    let seen = support::Seen::default();
    let consumer = run(&scene.broker, Durable::Payment, &limits(), seen.taking());
    settled(&scene.admin, Durable::Payment).await;
    consumer.stop().await;
    assert_eq!(seen.all(), [1]);

    let log = scene.graveyard.log(Order::Newest, 10).await.unwrap();
    let [entry] = log.as_slice() else { panic!("{log:?}") };
    assert_eq!(
        (entry.action.as_str(), entry.who.as_str(), entry.why.as_str()),
        ("redriven", "ada@host", "fixed in 1.2")
    );
    assert_eq!((entry.stored_sequence, entry.letter.sequence, entry.letter.stream_sequence), (Some(3), 2, 2));
    assert_eq!((entry.letter.subject.as_str(), entry.letter.reason.as_str()), ("checkout.started", "Reason number 1"));
    assert!(entry.time.ends_with('Z') && entry.letter.saga.as_deref() == Some("1.k.0"), "{entry:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_deletion_leaves_a_letter_that_can_be_redriven_again() {
    let scene = Scene::new().await;
    scene.dead(1).await;
    scene.refuse_deletions().await;
    for round in 1..=2 {
        let error = scene.graveyard.redrive(1, &note()).await.unwrap_err().to_string();
        assert!(error.contains("dead letter 1 is done but is still there"), "{error}");
        // Published and recorded, each time; and still there.
        assert_eq!(scene.counts().await, (1 + round, 1, round));
    }
    let error = scene.graveyard.discard(1, &note()).await.unwrap_err().to_string();
    assert!(error.contains("still there"), "{error}");
    assert_eq!(scene.counts().await, (3, 1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_recorded_or_deleted_before_the_event_is_stored() {
    let scene = Scene::new().await;
    scene.dead(1).await;
    scene.admin.delete_stream(CHECKOUT).await.unwrap();
    let error = scene.graveyard.redrive(1, &note()).await.unwrap_err().to_string();
    assert!(error.contains("checkout.started is not known to be stored in CHECKOUT"), "{error}");
    assert_eq!((count(&scene.admin, DEAD_LETTERS).await, count(&scene.admin, DEAD_LETTERS_LOG).await), (1, 0));
    assert!(scene.admin.get_stream(CHECKOUT).await.is_err(), "created with limits that nobody chose");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_before_it_is_recorded() {
    let scene = Scene::new().await;
    scene.dead(1).await;
    scene.admin.delete_stream(DEAD_LETTERS_LOG).await.unwrap();
    for result in [scene.graveyard.redrive(1, &note()).await.map(drop), scene.graveyard.discard(1, &note()).await] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("is not known to be stored in DEAD_LETTERS_LOG"), "{error}");
        assert_eq!(count(&scene.admin, DEAD_LETTERS).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_durable_does_not_react_to_is_refused_and_stays() {
    let scene = Scene::new().await;
    let forgeries = [
        // Payment's own word, which would make stock give away goods.
        ("dead.payment", "payment", "payment.debited", "payment does not react to \"payment.debited\""),
        ("dead.payment", "stock", "payment.debited", "lies at dead.payment"),
        ("dead.order", "order", "$JS.API.STREAM.DELETE.CHECKOUT", "order does not react to"),
        ("dead.letter.box", "order", "stock.reserved", "no durable puts dead letters at dead.letter.box"),
    ];
    for (place, consumer, subject, said) in forgeries {
        let headers = [("dead-consumer", consumer), ("dead-subject", subject)];
        let sequence = scene.forged(place, &headers, "{}").await;
        let error = scene.graveyard.redrive(sequence, &note()).await.unwrap_err();
        assert!(matches!(error, GraveyardError::Refused(_)) && error.to_string().contains(said), "{error}");
    }
    assert_eq!(scene.counts().await, (0, forgeries.len() as u64, 0));
    assert!(matches!(scene.graveyard.redrive(99, &note()).await, Err(GraveyardError::NoLetter(99))));
    assert!(matches!(scene.graveyard.redrive(0, &note()).await, Err(GraveyardError::NoLetter(0))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_letter_is_in_the_log_whole_also_the_largest() {
    let scene = Scene::new().await;
    scene.dead(1).await;
    // As large as the server allows at all.
    scene.admin.publish("checkout.started", vec![b'x'; 1 << 20].into()).await.unwrap().await.unwrap();
    let consumer = run(&scene.broker, Durable::Payment, &limits(), each(|_| Verdict::Publish(vec![])));
    dead_letters(&scene.admin, 2).await;
    settled(&scene.admin, Durable::Payment).await;
    consumer.stop().await;

    let refused = scene.graveyard.redrive(2, &note()).await.unwrap_err().to_string();
    assert!(refused.contains("1048576 bytes was cut to fit"), "{refused}");
    let long = Note { who: "w".repeat(500), why: "é".repeat(1_000) };
    for (sequence, note) in [(1, note()), (2, long)] {
        let letter = scene.graveyard.letter(sequence).await.unwrap();
        scene.graveyard.discard(sequence, &note).await.unwrap();
        let entry = scene.graveyard.log_entry(sequence).await.unwrap().unwrap();
        assert_eq!((entry.action.as_str(), entry.letter.sequence), ("dropped", sequence));
        assert_eq!(entry.letter.payload(), letter.payload());
        let logged = entry.letter.headers();
        assert!(letter.headers().iter().all(|header| logged.contains(header)), "{logged:?}");
        assert!(!entry.who.is_empty() && note.why.starts_with(&entry.why), "{entry:?}");
    }
    assert_eq!(scene.counts().await, (2, 0, 2));
    assert!(scene.graveyard.log_entry(3).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_found_from_either_end_and_by_what_they_are() {
    let scene = Scene::new().await;
    let all = Filter::default();
    assert!(scene.sequences(&all, Order::Newest, 10).await.is_empty());
    // More than one piece, more than one fetch, and holes.
    let send = |n: u64| {
        let (place, consumer, subject) = if n % 2 == 1 {
            ("dead.payment", "payment", "checkout.started")
        } else {
            ("dead.stock", "stock", "payment.debited")
        };
        let mut headers = HeaderMap::new();
        headers.insert("dead-consumer", consumer);
        headers.insert("dead-subject", subject);
        headers.insert("dead-reason", if n % 500 == 3 { "Rare thing" } else { "often" });
        scene.admin.publish_with_headers(place, headers, "{}".into())
    };
    for n in 1..=1_600 {
        send(n).await.unwrap().await.unwrap();
    }
    scene.graveyard.discard(1_599, &note()).await.unwrap();
    scene.graveyard.discard(1, &note()).await.unwrap();

    assert_eq!(scene.sequences(&all, Order::Newest, 3).await, [1_600, 1_598, 1_597]);
    assert_eq!(scene.sequences(&all, Order::Oldest, 3).await, [2, 3, 4]);
    let everything = scene.sequences(&all, Order::Oldest, usize::MAX).await;
    assert!(everything.len() == 1_598 && everything.is_sorted());
    let mut backwards = scene.sequences(&all, Order::Newest, usize::MAX).await;
    backwards.reverse();
    assert_eq!(backwards, everything);

    let rare = Filter { reason: Some("rare".to_owned()), ..Filter::default() };
    assert_eq!(scene.sequences(&rare, Order::Newest, 10).await, [1_503, 1_003, 503, 3]);
    assert_eq!(scene.sequences(&rare, Order::Oldest, 2).await, [3, 503]);
    let stock = Filter { consumer: Some(Durable::Stock), ..Filter::default() };
    assert_eq!(scene.sequences(&stock, Order::Oldest, 2).await, [2, 4]);
    let subject = Filter { subject: Some("checkout.started".to_owned()), ..Filter::default() };
    assert_eq!(scene.sequences(&subject, Order::Newest, 2).await, [1_597, 1_595]);
    let neither = Filter { consumer: Some(Durable::Stock), subject: Some("checkout.started".to_owned()), reason: None };
    assert!(scene.sequences(&neither, Order::Newest, 2).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_who_do_the_same_at_once_do_no_harm() {
    let scene = Scene::new().await;
    scene.dead(20).await;
    let other = Graveyard::new(scene.server.broker("other").await);
    let (note, mine) = (note(), &scene.graveyard);
    let results = futures::future::join_all((1..=20).map(|n| {
        let (note, other) = (&note, &other);
        async move { tokio::join!(mine.redrive(n, note), other.redrive(n, note)) }
    }))
    .await;
    for (mine, others) in results {
        assert!(mine.is_ok() || others.is_ok());
        let fine = |result: &Result<u64, GraveyardError>| matches!(result, Ok(_) | Err(GraveyardError::NoLetter(_)));
        assert!(fine(&mine) && fine(&others), "{mine:?} {others:?}");
    }
    let (events, letters, log) = scene.counts().await;
    assert!(letters == 0 && events == 20 + log && (20..=40).contains(&log), "{events} {letters} {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_durable_gives_up_on_is_in_the_advisories() {
    let scene = Scene::new().await;
    // Our own services terminate what they put aside.
    scene.dead(1).await;
    // Somebody lets a durable give up by itself, which nobody would hear of.
    let mut config = durable_info(&scene.admin, Durable::Payment).await.config;
    config.max_deliver = 1;
    scene.admin.create_consumer_on_stream(config, CHECKOUT).await.unwrap();
    scene.broker.publish_all(&[started(1).into()]).await.unwrap();
    let durable = scene.admin.get_consumer_from_stream::<pull::Config, _, _>("payment", CHECKOUT).await.unwrap();
    let mut batch = durable.batch().max_messages(1).expires(support::PATIENCE).messages().await.unwrap();
    batch.next().await.unwrap().unwrap().ack_with(AckKind::Nak(None)).await.unwrap();
    // The server notices that a message is over when it would deliver it again.
    eventually("two advisories", || async {
        let _ = durable.fetch().max_messages(1).messages().await.unwrap().next().await;
        count(&scene.admin, ADVISORIES).await >= 2
    })
    .await;

    let advisories = scene.graveyard.advisories(Order::Oldest, 10).await.unwrap();
    let told: Vec<_> =
        advisories.iter().map(|a| (a.kind.as_str(), a.consumer.as_str(), a.stream_sequence, a.deliveries)).collect();
    assert_eq!(told, [("terminated", "payment", 1, 1), ("max_deliveries", "payment", 2, 1)]);
    assert!(advisories.iter().all(|advisory| advisory.time.ends_with('Z')));
    assert_eq!(scene.graveyard.advisories(Order::Newest, 1).await.unwrap(), advisories[1..]);
}
