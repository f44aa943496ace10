//! What is told in the log: once, and nothing when nothing is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use nats::Verdict;
use nats::topology::{Durable, Limits};
use support::{Server, each, eventually, run, started};
use tracing::subscriber::DefaultGuard;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Listens on this thread, on which all tasks of the tests here run.
    fn listen() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Our own lines of this level.
    fn lines(&self, level: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(level) && line.contains(" nats::")).map(str::to_owned).collect()
    }

    /// How often the beginning of such an outage is told. None is told to begin before the one before is told to be over.
    fn outages(&self, begins: &str, is_over: &str) -> usize {
        let mut lasts = false;
        let mut told = 0;
        for line in self.lines("") {
            if line.contains(" WARN ") && line.contains(begins) {
                assert!(!std::mem::replace(&mut lasts, true), "told again while it lasts: {line}");
                told += 1;
            } else if line.contains(is_over) {
                lasts = false;
            }
        }
        told
    }

    /// The outages of the connection, of publishing, and of the consumer.
    fn all_outages(&self) -> [usize; 3] {
        let works_again = |what: &str| format!("{what}: works again");
        [
            self.outages("connection to NATS lost", "connected to NATS again"),
            self.outages("publishing to NATS: ", &works_again("publishing to NATS")),
            self.outages("consumer payment: ", &works_again("consumer payment")),
        ]
    }
}

#[tokio::test]
async fn a_topology_as_it_should_be_is_not_worth_a_line() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("order-1", &limits).await;
    let (log, _listening) = Log::listen();
    broker.ensure_topology(&limits).await.unwrap();
    assert_eq!(log.lines(""), [""; 0]);
    broker.ensure_topology(&Limits { max_bytes: 1 << 25, ..limits }).await.unwrap();
    let told = log.lines("WARN");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("stream CHECKOUT: max_bytes is 1073741824 and should be 33554432"), "{told:?}");
}

#[tokio::test]
async fn an_outage_is_told_once() {
    let mut server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_hasty_broker("payment-1", &limits).await;
    let consumer = run(&broker, Durable::Payment, &limits, each(|_| Verdict::Publish(vec![])));
    eventually("bound", || async { consumer.ready.is_ready() }).await;
    let (log, _listening) = Log::listen();
    // In flight when the server goes, and met again and again while it is away.
    let mut publishing = tokio::task::JoinSet::new();
    for n in 0..200 {
        let broker = broker.clone();
        publishing.spawn(async move { broker.publish(&started(n).into(), None).await });
    }
    server.kill();
    eventually("the loss is noticed", || async { !broker.is_connected() && !consumer.ready.is_ready() }).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let [connection, publishing_fails, consumer_fails] = log.all_outages();
    assert!(connection == 1 && publishing_fails <= 1 && consumer_fails == 1, "{:?}", log.lines("WARN"));
    server.start_again();
    while let Some(published) = publishing.join_next().await {
        published.unwrap().unwrap();
    }
    eventually("bound again", || async { consumer.ready.is_ready() }).await;
    consumer.stop().await;
    // A machine that stands still afterwards has another outage, which is told as well.
    let [connection, ..] = log.all_outages();
    assert_eq!(log.lines("connected to NATS again").len(), connection);
    assert!(log.lines("ERROR").is_empty());
}
