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

use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{self, consumer::pull};
use async_nats::{Client, ConnectOptions, HeaderMap};
use common::event::{Event, Kind, SagaEvent};
use common::saga::{Items, Saga, parse_entries};
use common::trace::TraceParent;
use futures::StreamExt;
use nats::topology::{CHECKOUT, DEAD_LETTERS, Durable, Limits};
use nats::{Broker, React, Ready, Verdict, Waits, consume};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take. Only a failing test waits as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An `ack_wait` that no test lives to see the end of: what is delivered again was handed back.
pub const HOUR: Duration = Duration::from_secs(3_600);

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
        // A process that had this number before may have been killed, and have left its own.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("nats.conf"), config).unwrap();
        let mut server = Self { child: Self::spawn(&dir, -1), dir, port: 0 };
        server.port = server.read_port().expect("nats-server runs on");
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

    /// The server chooses a free port itself and writes it into a file, as soon as it listens. Nothing where it has ended.
    fn read_port(&mut self) -> Option<u16> {
        let file = self.dir.join(format!("nats-server_{}.ports", self.child.id()));
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let port = serde_json::from_str::<serde_json::Value>(&text)
                .ok()
                .and_then(|ports| ports["nats"][0].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()));
            if port.is_some() || self.child.try_wait().unwrap().is_some() {
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

    /// On the port it had. The kernel may have given that to a connection for a moment, such as one that tries to find the server again.
    pub fn start_again(&mut self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            self.child = Self::spawn(&self.dir, i32::from(self.port));
            if self.read_port().is_some() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "nats-server does not start on port {} again", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A broker of this instance, such as `payment-1`, of a service. It waits for answers for as long as anything may take: what it publishes
    /// is in the stream once, also where the machine stands still for a while.
    pub async fn broker(&self, instance: &str) -> Broker {
        self.broker_waiting(instance, Waits { answer: PATIENCE, question: PATIENCE }).await
    }

    /// A broker that waits for answers as the services do. For tests in which there may be none, because server or stream go away.
    pub async fn hasty_broker(&self, instance: &str) -> Broker {
        self.broker_waiting(instance, Waits::default()).await
    }

    async fn broker_waiting(&self, instance: &str, waits: Waits) -> Broker {
        let service = instance.split('-').next().unwrap();
        Broker::connect_waiting(&self.url(), service, instance, PATIENCE, waits).await.unwrap()
    }

    /// A broker with the topology in place.
    pub async fn ready_broker(&self, name: &str, limits: &Limits) -> Broker {
        let broker = self.broker(name).await;
        broker.ensure_topology(limits).await.unwrap();
        broker
    }

    /// A hasty one with the topology in place.
    pub async fn ready_hasty_broker(&self, name: &str, limits: &Limits) -> Broker {
        let broker = self.hasty_broker(name).await;
        broker.ensure_topology(limits).await.unwrap();
        broker
    }

    /// A connection of the test's own.
    pub async fn client(&self) -> Client {
        connect(&self.url(), ConnectOptions::new()).await
    }

    /// The test's own view, beside the code under test.
    pub async fn admin(&self) -> jetstream::Context {
        patient(self.client().await)
    }
}

/// Connects, however long the server takes to answer; it must let us in.
pub async fn connect(url: &str, options: ConnectOptions) -> Client {
    let options = options.retry_on_initial_connect().connection_timeout(PATIENCE).request_timeout(Some(PATIENCE));
    let client = options.connect(url).await.unwrap();
    eventually("connected", || async { client.connection_state() == async_nats::connection::State::Connected }).await;
    client
}

/// JetStream for somebody who waits for its answers.
pub fn patient(client: Client) -> jetstream::Context {
    ContextBuilder::new().timeout(PATIENCE).ack_timeout(PATIENCE).build(client)
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

/// Waits until the durable has delivered everything that is in the stream now, and nothing is unacknowledged.
pub async fn settled(admin: &jetstream::Context, durable: Durable) {
    // The server confirms a message before its consumers hear of it, so for a moment their own numbers do not tell of it.
    let stream = admin.get_stream(CHECKOUT).await.unwrap();
    let mut last = 0;
    for subject in durable.subjects() {
        last = last.max(stream.get_last_raw_message_by_subject(subject).await.map_or(0, |message| message.sequence));
    }
    eventually(&format!("{durable} has acknowledged everything"), || async {
        let info = durable_info(admin, durable).await;
        info.delivered.stream_sequence >= last && info.num_pending == 0 && info.num_ack_pending == 0
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
