//! The server, the stream or a durable goes away in the middle of everything.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use common::event::{Event, Kind};
use futures::StreamExt;
use nats::topology::{CHECKOUT, Durable, Limits};
use nats::{Broker, Verdict};
use support::{
    PATIENCE, Running, Seen, Server, answer_with, count, durable_info, each, eventually, run, saga, settled, started,
};
use tokio::time::Instant;

const SAGAS: usize = 3_000;

/// All three services in small, two instances of each, and the sagas that the order service has seen through.
struct Choreography {
    order: Broker,
    consumers: Vec<Running>,
    closed: Seen,
}

impl Choreography {
    async fn start(server: &Server, limits: &Limits) -> Self {
        let closed = Seen::default();
        let mut consumers = Vec::new();
        for instance in 1..=2 {
            let payment = server.ready_hasty_broker(&format!("payment-{instance}"), limits).await;
            consumers.push(run(&payment, Durable::Payment, limits, answer_with(Kind::PaymentDebited)));
            let stock = server.ready_hasty_broker(&format!("stock-{instance}"), limits).await;
            consumers.push(run(&stock, Durable::Stock, limits, answer_with(Kind::StockReserved)));
            let order = server.ready_hasty_broker(&format!("order-{instance}"), limits).await;
            let closed = closed.clone();
            consumers.push(run(
                &order,
                Durable::Order,
                limits,
                each(move |event| {
                    closed.add(event);
                    Verdict::Publish(vec![saga(event).then(Kind::CheckoutCompleted, None, 3).into()])
                }),
            ));
        }
        Self { order: server.hasty_broker("order-3").await, consumers, closed }
    }

    /// Publishes sagas in small groups while `disturb` does its worst, a few times.
    async fn run<F, Fut>(&self, mut disturb: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = ()>,
    {
        for (n, first) in (0..SAGAS).step_by(50).enumerate() {
            if n % 15 == 7 {
                disturb().await;
            }
            let group: Vec<Event> = (first..first + 50).map(|n| started(n).into()).collect();
            self.order.publish_all(&group).await.unwrap();
        }
    }

    /// The reconciler in small: what is not closed is started again, until everything is.
    async fn reconcile(&self) {
        let (mut closed, mut deadline) = (0, Instant::now() + PATIENCE);
        loop {
            let before = self.closed.distinct().len();
            if before == SAGAS {
                return;
            }
            if before > closed {
                (closed, deadline) = (before, Instant::now() + PATIENCE);
            }
            assert!(Instant::now() < deadline, "{before} of {SAGAS} are closed, and no further one");
            let progress = async {
                while self.closed.distinct().len() == before {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            if tokio::time::timeout(Duration::from_secs(1), progress).await.is_err() {
                let closed = self.closed.distinct();
                let open: Vec<Event> = (0..SAGAS).filter(|n| !closed.contains(n)).map(|n| started(n).into()).collect();
                self.order.publish_all(&open).await.unwrap();
            }
        }
    }

    async fn stop(self) {
        for consumer in self.consumers {
            assert!(!consumer.is_finished());
            consumer.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_stream_is_survived() {
    let server = Server::start();
    let choreography = Choreography::start(&server, &Limits::default()).await;
    let admin = server.admin().await;
    choreography
        .run(|| async {
            admin.get_stream(CHECKOUT).await.unwrap().purge().await.unwrap();
        })
        .await;
    choreography.reconcile().await;
    choreography.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_is_made_again() {
    let server = Server::start();
    let choreography = Choreography::start(&server, &Limits::default()).await;
    let admin = server.admin().await;
    choreography.run(|| async { drop(admin.delete_stream(CHECKOUT).await) }).await;
    choreography.reconcile().await;
    choreography.stop().await;
    assert!(count(&admin, CHECKOUT).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_durable_is_made_again() {
    let server = Server::start();
    let choreography = Choreography::start(&server, &Limits::default()).await;
    let admin = server.admin().await;
    choreography
        .run(|| async {
            for durable in Durable::ALL {
                drop(admin.delete_consumer_from_stream(durable.name(), CHECKOUT).await);
            }
        })
        .await;
    // A new durable starts over, so nothing is lost and nobody has to reconcile.
    eventually("every saga is closed", || async { choreography.closed.distinct().len() == SAGAS }).await;
    choreography.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_waited_for_and_nothing_stored_is_lost() {
    let server = Server::start();
    // What was delivered when the server died comes again after this.
    let limits = Limits { ack_wait: Duration::from_secs(2), ..Limits::default() };
    let choreography = Choreography::start(&server, &limits).await;
    let server = tokio::sync::Mutex::new(server);
    choreography
        .run(|| async {
            let mut server = server.lock().await;
            server.kill();
            server.start_again();
        })
        .await;
    eventually("every saga is closed", || async { choreography.closed.distinct().len() == SAGAS }).await;
    choreography.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_is_not_acknowledged_before_its_outcome_is_stored() {
    let server = Server::start();
    let limits = Limits { ack_wait: Duration::from_secs(2), ..Limits::default() };
    let broker = server.ready_hasty_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    server.broker("order-1").await.publish(&started(1).into(), None).await.unwrap();

    // From now on the stream refuses everything, while acknowledgements would pass.
    let open = admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.clone();
    admin.update_stream(&Config { max_message_size: 1, ..open.clone() }).await.unwrap();
    let mut attempts = admin.client().subscribe("payment.debited").await.unwrap();
    admin.client().flush().await.unwrap();
    let first = run(&broker, Durable::Payment, &limits, answer_with(Kind::PaymentDebited));
    for _ in 0..3 {
        tokio::time::timeout(PATIENCE, attempts.next())
            .await
            .expect("the outcome is published again and again")
            .unwrap();
    }
    assert_eq!(count(&admin, CHECKOUT).await, 1);
    assert_eq!(durable_info(&admin, Durable::Payment).await.num_ack_pending, 1, "acknowledged without an outcome");

    // The process dies; another one meets the input again and tells what came of it.
    first.abort();
    admin.update_stream(&open).await.unwrap();
    let second = server.hasty_broker("payment-2").await;
    let second = run(&second, Durable::Payment, &limits, answer_with(Kind::PaymentDebited));
    // Twice, where the first one had just sent it when it died.
    eventually("the outcome is stored", || async { count(&admin, CHECKOUT).await >= 2 }).await;
    settled(&admin, Durable::Payment).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_waits_for_the_server_until_a_deadline() {
    let mut server = Server::start();
    let broker = server.ready_hasty_broker("order-1", &Limits::default()).await;
    server.kill();
    eventually("the loss is noticed", || async { !broker.is_connected() }).await;
    let deadline = Instant::now() + Duration::from_millis(200);
    let first = started(1).into();
    let published = tokio::time::timeout(PATIENCE, broker.publish(&first, Some(deadline))).await;
    let error = published.expect("it ends at its deadline").unwrap_err();
    assert!(matches!(error, nats::BrokerError::GaveUp { missing: 1 }), "{error}");

    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { broker.publish(&started(2).into(), None).await }
    });
    server.start_again();
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    let admin = server.admin().await;
    let stream = admin.get_stream(CHECKOUT).await.unwrap();
    let last = stream.get_last_raw_message_by_subject("checkout.started").await.unwrap();
    assert!(last.payload.starts_with(b"{\"version\":1,\"saga_id\":\"2.k.0\""), "{:?}", last.payload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_never_hangs() {
    let mut server = Server::start();
    let limits = Limits::default();
    let (gone, open) = (server.ready_hasty_broker("order-1", &limits).await, server.hasty_broker("order-2").await);
    tokio::time::timeout(PATIENCE, open.close(PATIENCE)).await.unwrap();
    eventually("closed", || async { !open.is_connected() || open.publish(&started(9).into(), None).await.is_err() })
        .await;

    let consumer = run(&gone, Durable::Order, &limits, each(|_| Verdict::Publish(vec![])));
    eventually("bound", || async { consumer.ready.is_ready() }).await;
    server.kill();
    eventually("the loss is noticed", || async { !gone.is_connected() && !consumer.ready.is_ready() }).await;
    let publishing = tokio::spawn({
        let gone = gone.clone();
        async move { gone.publish_all(&[started(1).into()]).await }
    });
    consumer.stop().await;
    gone.notify("_INBOX.somebody", "x".into()).await;
    tokio::time::timeout(PATIENCE, gone.close(Duration::from_millis(200))).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, publishing).await.unwrap().unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_although_the_server_stands_still() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_hasty_broker("payment-1", &limits).await;
    let (begun, begin) = tokio::sync::mpsc::unbounded_channel();
    let begun = move |event: &Event| {
        let _ = begun.send(());
        Verdict::Publish(vec![saga(event).then(Kind::PaymentDebited, None, 2).into()])
    };
    // Before anybody takes it: afterwards there is nobody who would confirm it.
    broker.publish(&started(1).into(), None).await.unwrap();
    let paused = std::sync::Arc::new(server);
    let pause = paused.clone();
    let consumer = run(
        &broker,
        Durable::Payment,
        &limits,
        each(move |event| {
            // From here on nothing is answered: what comes of the event cannot be stored.
            pause.pause();
            begun(event)
        }),
    );
    let mut begin = begin;
    begin.recv().await.unwrap();
    consumer.stop().await;
    let hour = Duration::from_secs(3_600);
    tokio::time::timeout(PATIENCE, broker.close(hour)).await.expect("it does not wait for ever");
}
