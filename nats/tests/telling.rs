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
    let broker = server.ready_broker("payment-1", &limits).await;
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
    server.start_again();
    while let Some(published) = publishing.join_next().await {
        published.unwrap().unwrap();
    }
    eventually("bound again", || async { consumer.ready.is_ready() }).await;
    consumer.stop().await;
    let told = log.lines("WARN");
    let of = |what: &str| told.iter().filter(|line| line.contains(what)).count();
    assert_eq!(of("connection to NATS lost"), 1, "{told:?}");
    assert!(of("publishing to NATS") <= 1 && of("consumer payment") == 1, "{told:?}");
    assert_eq!(log.lines("connected to NATS again").len(), 1);
    assert!(log.lines("ERROR").is_empty());
}
