//! Following the stream by the auditor's durable: every message once and in its order, whatever happens to the listener, its connection, the
//! durable and the stream; and nothing is left at the server but the place.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, AckKind, consumer};
use common::event::Event;
use futures::StreamExt;
use nats::topology::{AUDITOR, CHECKOUT, Limits};
use nats::{Broker, Listen, Past};
use support::{PATIENCE, Server, eventually, number, started};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a listener heard: the numbers of the sagas.
#[derive(Debug, Default, Clone)]
struct Heard {
    recalled: Vec<usize>,
    heard: Vec<usize>,
    sequences: Vec<u64>,
    caught_up: usize,
}

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Heard>>);

impl Listener {
    fn heard(&self) -> Heard {
        self.0.lock().unwrap().clone()
    }
}

impl Listen for Listener {
    fn recall(&mut self, past: Past) {
        self.0.lock().unwrap().recalled.extend(saga_number(&past));
    }
    fn hear(&mut self, past: Past) {
        let Some(number) = saga_number(&past) else { return };
        let mut heard = self.0.lock().unwrap();
        heard.sequences.push(past.sequence);
        heard.heard.push(number);
    }
    fn caught_up(&mut self) {
        self.0.lock().unwrap().caught_up += 1;
    }
    fn deaf(&mut self) {}
}

fn saga_number(past: &Past) -> Option<usize> {
    let event = past.event.as_ref().unwrap();
    matches!(event, Event::Saga(_)).then(|| number(event))
}

/// Follows in the background, until it is told to stop or aborted.
fn follow(broker: &Broker, back: u64) -> (Listener, JoinHandle<()>) {
    let listener = Listener::default();
    let (broker, mut ear) = (broker.clone(), listener.clone());
    let task = tokio::spawn(async move { broker.follow(back, &mut ear, CancellationToken::new()).await });
    (listener, task)
}

async fn publish(broker: &Broker, numbers: std::ops::Range<usize>) {
    let events: Vec<_> = numbers.map(|n| started(n).into()).collect();
    broker.publish_all(&events).await.unwrap();
}

async fn durable(admin: &jetstream::Context) -> consumer::Consumer<consumer::pull::Config> {
    admin.get_consumer_from_stream(AUDITOR, CHECKOUT).await.unwrap()
}

async fn floor(admin: &jetstream::Context) -> u64 {
    durable(admin).await.cached_info().ack_floor.stream_sequence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_is_given_what_came_just_before_and_hears_on_where_the_floor_is() {
    let server = Server::start();
    let broker = server.ready_broker("auditor-1", &Limits::default()).await;
    let admin = server.admin().await;
    publish(&broker, 0..700).await;
    let (first, task) = follow(&broker, 10);
    eventually("all is heard and the floor says so", || async { floor(&admin).await == 700 }).await;
    assert_eq!(first.heard().heard, (0..700).collect::<Vec<_>>());
    assert_eq!(first.heard().recalled, Vec::<usize>::new(), "there was nobody before");
    assert_eq!(durable(&admin).await.cached_info().num_ack_pending, 0, "nothing is left at the server but the place");
    task.abort();
    let _ = task.await;

    publish(&broker, 700..1_500).await;
    let (second, _task) = follow(&broker, 10);
    eventually("all is heard", || async { floor(&admin).await == 1_500 }).await;
    let heard = second.heard();
    assert_eq!(heard.recalled, (690..700).collect::<Vec<_>>());
    assert_eq!(heard.heard, (700..1_500).collect::<Vec<_>>());
    eventually("it is told that this was all", || async { second.heard().caught_up > 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_to_one_who_died_is_heard_first_and_once() {
    let server = Server::start();
    let limits = Limits { ack_wait: Duration::from_secs(1), ..Limits::default() };
    let broker = server.ready_broker("auditor-1", &limits).await;
    let admin = server.admin().await;
    publish(&broker, 0..30).await;
    // Takes twenty, says of five that they are heard, and dies.
    let fetched = durable(&admin).await.batch().max_messages(20).expires(PATIENCE).messages().await.unwrap();
    let taken: Vec<_> = fetched.map(Result::unwrap).collect().await;
    taken[4].ack_with(AckKind::Ack).await.unwrap();
    eventually("the floor is moved", || async { floor(&admin).await == 5 }).await;

    let (listener, _task) = follow(&broker, 100);
    eventually("all is heard", || async { floor(&admin).await == 30 }).await;
    let heard = listener.heard();
    assert_eq!(heard.recalled, (0..5).collect::<Vec<_>>());
    assert_eq!(heard.heard, (5..30).collect::<Vec<_>>(), "in order, and what comes again is not heard again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_behind_a_lost_connection_a_deleted_durable_and_a_deleted_stream() {
    let mut server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_hasty_broker("auditor-1", &limits).await;
    let admin = server.admin().await;
    let (listener, _task) = follow(&broker, 100);
    publish(&server.broker("order-1").await, 0..100).await;
    eventually("all is heard", || async { listener.heard().heard.len() == 100 }).await;

    server.kill();
    server.start_again();
    // Over a connection that has not met the outage, so that each is published once.
    let publisher = server.broker("order-2").await;
    publish(&publisher, 100..200).await;
    eventually("all is heard", || async { listener.heard().heard.len() == 200 }).await;

    // The durable starts from the first message again, the listener does not.
    admin.get_stream(CHECKOUT).await.unwrap().delete_consumer(AUDITOR).await.unwrap();
    broker.ensure_topology(&limits).await.unwrap();
    publish(&publisher, 200..300).await;
    eventually("all is heard", || async { listener.heard().heard.len() >= 300 }).await;
    eventually("and said to be", || async { floor(&admin).await == 300 }).await;

    admin.get_stream(CHECKOUT).await.unwrap().purge().await.unwrap();
    publish(&publisher, 300..400).await;
    eventually("all is heard", || async { listener.heard().heard.len() >= 400 }).await;
    assert_eq!(listener.heard().heard, (0..400).collect::<Vec<_>>());
    assert!(listener.heard().sequences.is_sorted());

    admin.delete_stream(CHECKOUT).await.unwrap();
    broker.ensure_topology(&limits).await.unwrap();
    publish(&publisher, 400..500).await;
    eventually("all is heard", || async { floor(&admin).await == 100 }).await;
    assert_eq!(listener.heard().heard, (0..500).collect::<Vec<_>>());
    assert_eq!(listener.heard().sequences.last(), Some(&100), "of another stream");
    assert!(listener.heard().recalled.is_empty());
}
