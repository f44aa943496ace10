//! What the tests share: a nats-server of their own, events, and reactions made of closures.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer::pull};
use common::event::{Event, Kind, SagaEvent};
use common::saga::{Items, Saga, parse_entries};
use common::trace::TraceParent;
use futures::StreamExt;
use nats::topology::{CHECKOUT, DEAD_LETTERS, Durable, Limits};
use nats::{Broker, React, Ready, Verdict, consume};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take. Only a failing test waits as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `condition` holds.
pub async fn eventually<F, Fut>(what: &str, condition: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A nats-server with JetStream, in a folder of its own.
pub struct Server {
    child: Child,
    dir: PathBuf,
    port: u16,
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        return path.into();
    }
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join(".tools/bin"));
    let mut candidates = on_path.chain(tools).map(|dir| dir.join("nats-server"));
    candidates
        .find(|path| path.is_file())
        .expect("nats-server: set NATS_SERVER, or put it on the PATH or in .tools/bin")
}

impl Server {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A server with this text as its configuration file.
    pub fn start_with(config: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("nats-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("nats.conf"), config).unwrap();
        let mut server = Self { child: Self::spawn(&dir, -1), dir, port: 0 };
        server.port = server.read_port();
        server
    }

    fn spawn(dir: &Path, port: i32) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        Command::new(binary())
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(dir.join("js"))
            .arg("--ports_file_dir")
            .arg(dir)
            .arg("-c")
            .arg(dir.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server starts")
    }

    /// The server chooses a free port itself and writes it into a file.
    fn read_port(&self) -> u16 {
        let file = self.dir.join(format!("nats-server_{}.ports", self.child.id()));
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let port = serde_json::from_str::<serde_json::Value>(&text)
                .ok()
                .and_then(|ports| ports["nats"][0].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()));
            if let Some(port) = port {
                return port;
            }
            assert!(std::time::Instant::now() < deadline, "nats-server wrote no port into {}", file.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    pub fn pause(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = Self::spawn(&self.dir, i32::from(self.port));
    }

    /// A broker of this instance, such as `payment-1`, of a service.
    pub async fn broker(&self, instance: &str) -> Broker {
        let service = instance.split('-').next().unwrap();
        Broker::connect(&self.url(), service, instance, PATIENCE).await.unwrap()
    }

    /// A broker with the topology in place.
    pub async fn ready_broker(&self, name: &str, limits: &Limits) -> Broker {
        let broker = self.broker(name).await;
        broker.ensure_topology(limits).await.unwrap();
        broker
    }

    /// The test's own view, beside the code under test.
    pub async fn admin(&self) -> jetstream::Context {
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(self.url()).await.unwrap();
        jetstream::new(client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The `checkout.started` of the saga number `n`.
pub fn started(n: usize) -> SagaEvent {
    let saga = Saga {
        saga_id: format!("{n}.k.0").parse().unwrap(),
        order_id: n.to_string().parse().unwrap(),
        started_at_ms: 1,
        user_id: "7".parse().unwrap(),
        amount: "20".parse().unwrap(),
        items: parse_entries("1:1,2:1").and_then(Items::sum).unwrap(),
    };
    SagaEvent::first(Kind::CheckoutStarted, saga, 0, TraceParent::random())
}

/// The saga event inside, which all tests here expect.
pub fn saga(event: &Event) -> &SagaEvent {
    let Event::Saga(event) = event else { panic!("not about a saga: {event:?}") };
    event
}

/// The saga's number, as given to [`started`].
pub fn number(event: &Event) -> usize {
    saga(event).saga.order_id.as_str().parse().unwrap()
}

type Reaction = Pin<Box<dyn Future<Output = Vec<Verdict>> + Send>>;

/// A reaction made of a closure.
pub struct Closure<F>(pub F);

impl<F: Fn(Vec<Event>) -> Reaction + Send + Sync + 'static> React for Closure<F> {
    async fn react(&self, batch: Vec<Event>) -> Vec<Verdict> {
        (self.0)(batch).await
    }
}

/// One verdict per event, without waiting for anything.
pub fn each(verdict: impl Fn(&Event) -> Verdict + Send + Sync + 'static) -> impl React {
    Closure(move |batch: Vec<Event>| -> Reaction {
        let verdicts = batch.iter().map(&verdict).collect();
        Box::pin(async move { verdicts })
    })
}

/// One closure for whole batches.
pub fn whole<Fut: Future<Output = Vec<Verdict>> + Send + 'static>(
    react: impl Fn(Vec<Event>) -> Fut + Send + Sync + 'static,
) -> impl React {
    Closure(move |batch: Vec<Event>| -> Reaction { Box::pin(react(batch)) })
}

/// Answers each event with the next one of a saga that succeeds, and what is about no saga with nothing.
pub fn answer_with(kind: Kind) -> impl React {
    each(move |event| match event {
        Event::Saga(event) => Verdict::Publish(vec![event.then(kind, None, 2).into()]),
        Event::Watermark(_) => Verdict::Publish(Vec::new()),
    })
}

/// The numbers of the sagas seen.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<usize>>>);

impl Seen {
    pub fn add(&self, event: &Event) {
        self.0.lock().unwrap().push(number(event));
    }

    /// Adds each event, and answers it with nothing.
    pub fn taking(&self) -> impl React {
        let seen = self.clone();
        each(move |event| {
            seen.add(event);
            Verdict::Publish(vec![])
        })
    }

    pub fn all(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }

    pub fn distinct(&self) -> BTreeSet<usize> {
        self.all().into_iter().collect()
    }
}

/// A running consumer.
pub struct Running {
    pub ready: Ready,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Asks it to stop and waits until it has.
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the consumer stops").unwrap();
    }

    /// Ends it without farewell, as a crash would.
    pub fn abort(&self) {
        self.task.abort();
    }

    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

pub fn run(broker: &Broker, durable: Durable, limits: &Limits, reactor: impl React) -> Running {
    let (ready, shutdown) = (Ready::default(), CancellationToken::new());
    let task = tokio::spawn(consume(
        broker.clone(),
        durable,
        limits.clone(),
        Arc::new(reactor),
        ready.clone(),
        shutdown.clone(),
    ));
    Running { ready, shutdown, task }
}

/// A durable as the server sees it.
pub async fn durable_info(admin: &jetstream::Context, durable: Durable) -> jetstream::consumer::Info {
    let consumer = admin.get_consumer_from_stream::<pull::Config, _, _>(durable.name(), CHECKOUT).await.unwrap();
    consumer.cached_info().clone()
}

/// Waits until the durable has nothing to deliver and nothing unacknowledged.
pub async fn settled(admin: &jetstream::Context, durable: Durable) {
    eventually(&format!("{durable} has acknowledged everything"), || async {
        let info = durable_info(admin, durable).await;
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
}

/// How many messages a stream holds.
pub async fn count(admin: &jetstream::Context, stream: &str) -> u64 {
    admin.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// The dead letters: headers and payload.
pub async fn dead_letters(admin: &jetstream::Context, expected: usize) -> Vec<(HeaderMap, Vec<u8>)> {
    eventually(&format!("{expected} dead letters"), || async { count(admin, DEAD_LETTERS).await >= expected as u64 })
        .await;
    let stream = admin.get_stream(DEAD_LETTERS).await.unwrap();
    let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
    let messages = consumer.fetch().max_messages(1_000).messages().await.unwrap();
    messages
        .map(|message| {
            let message = message.unwrap();
            (message.headers.clone().unwrap_or_default(), message.payload.to_vec())
        })
        .collect()
        .await
}

/// A header's text, or nothing.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.as_str())
}
