//! Running a durable: messages in, batches through, until shutdown.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::AckKind;
use common::event::Event;
use common::limits::{MAX_BATCHES_IN_FLIGHT, MAX_CONSUMER_BATCH};
use common::redis::{Database, Position};
use common::shutdown::Tasks;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::{Metrics, Shared, answer_message, keep_alive};
use crate::broker::{Broker, BrokerError};
use crate::outage::{Outage, pause};
use crate::publish::Patience;
use crate::pull::{EXPIRES, Puller, Sign};
use crate::refusals::Refusals;
use crate::topology::{Durable, Limits};

/// Signs of life within one `ack_wait` for a message in hand: enough that one may be late.
const KEEP_ALIVES_PER_ACK_WAIT: u32 = 4;

/// How long batches in flight go on trying to publish after a shutdown has begun and NATS is away.
const AWAY_PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait at the end for the server to have read the acknowledgements.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// What a reaction says about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The effect is durable; these events came of it. None: done, and nothing to tell.
    Publish(Vec<Event>),
    /// It can never be handled: to the dead letters, with this reason.
    Dead(String),
    /// Not now: deliver it again, a little later.
    Retry(String),
}

/// What a service does with the events of its durable.
pub trait React: Send + Sync + 'static {
    /// Handles a batch: one verdict per event, in order. The effects must be durable when it returns. It may take as long as
    /// it needs (an outage of its database is waited for here, not answered with [`Verdict::Retry`]): meanwhile the
    /// messages are kept from being delivered again, and no further ones are pulled.
    fn react(&self, batch: Vec<Event>) -> impl Future<Output = Vec<Verdict>> + Send;

    /// Inputs up to this position are taken, and are about to be handled.
    fn reached(&self, _position: Position) {}

    /// Changes whenever effects that were carried out before may have been lost, because another database has taken over. Verdicts from
    /// before are not published then, but asked for again.
    fn era(&self) -> u64 {
        0
    }

    /// Makes effects true again that were told in these events, which were published while another database took over.
    fn redo(&self, _published: &[&Event]) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Whether a consumer is bound to its durable and pulls. For readiness checks.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// Whether it is.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}

/// What a service needs to be ready, each with whether it has it.
pub fn needs(
    database: Database,
    broker: Broker,
    consumer: Ready,
    tasks: Tasks,
) -> impl Fn() -> Vec<(&'static str, bool)> + Send + Sync + 'static {
    move || {
        vec![
            ("the database", database.is_connected()),
            ("NATS", broker.is_connected()),
            ("the consumer", consumer.is_ready()),
            ("its restart", !tasks.is_leaving()),
        ]
    }
}

/// Runs a durable until `shutdown`. It ends by nothing else: while NATS is away, or when the stream or the durable is
/// deleted, it makes sure of the topology and goes on. After `shutdown` it takes nothing new, hands back what has not been
/// begun, and finishes what has.
pub async fn consume<R: React>(
    broker: Broker,
    durable: Durable,
    limits: Limits,
    reactor: Arc<R>,
    ready: Ready,
    shutdown: CancellationToken,
) {
    let keep_alive = (limits.ack_wait / KEEP_ALIVES_PER_ACK_WAIT).max(Duration::from_millis(1));
    let give_up = broker.inner.closing.child_token();
    let shared = Shared {
        broker: broker.clone(),
        durable,
        reactor,
        patience: Patience { give_up: give_up.clone(), deadline: None },
        keep_alive,
        newer_patience: limits.newer_patience,
        metrics: Metrics::new(durable),
        refusals: Refusals::default(),
    };
    let mut intake = Intake {
        broker,
        durable,
        limits,
        shared: Arc::new(shared),
        keep_alive,
        held: VecDeque::with_capacity(2 * MAX_CONSUMER_BATCH),
        batches: JoinSet::new(),
        shutdown,
        give_up,
    };
    let outage = Outage::new(match durable {
        Durable::Order => "consumer order",
        Durable::Payment => "consumer payment",
        Durable::Stock => "consumer stock",
    });
    let mut failures = 0;
    let puller = loop {
        let trouble = match intake.bind().await {
            None => break None,
            Some(Ok(mut puller)) => {
                ready.set(true);
                let works = || {
                    failures = 0;
                    outage.over();
                };
                let end = intake.pull(&mut puller, works).await;
                ready.set(false);
                match end {
                    End::Shutdown => break Some(puller),
                    End::Lost(why) => {
                        intake.hold_ready(&mut puller);
                        why
                    }
                }
            }
            Some(Err(error)) => error.to_string(),
        };
        failures += 1;
        outage.failed(&trouble);
        let _ = tokio::time::timeout(pause(failures), intake.shutdown.cancelled()).await;
    };
    intake.drain(puller).await;
}

/// Why pulling ended.
enum End {
    Shutdown,
    Lost(String),
}

/// A message that waits for a batch.
struct Held {
    message: Message,
    /// When the server last heard of it.
    last_sign: Instant,
}

struct Intake<R> {
    broker: Broker,
    durable: Durable,
    limits: Limits,
    shared: Arc<Shared<R>>,
    keep_alive: Duration,
    held: VecDeque<Held>,
    batches: JoinSet<()>,
    shutdown: CancellationToken,
    /// Ends the retries of batches in flight.
    give_up: CancellationToken,
}

impl<R: React> Intake<R> {
    /// Subscribes to the durable, and makes it if it is missing. Nothing at a shutdown.
    async fn bind(&self) -> Option<Result<Puller, BrokerError>> {
        let bind = async {
            self.broker.connected().await;
            match Puller::bind(&self.broker, self.durable.name()).await {
                Ok(puller) => Ok(puller),
                Err(error) => {
                    tracing::debug!(durable = self.durable.name(), %error, "not bound; checking the topology");
                    self.broker.recreate_topology_as(&self.limits).await?;
                    Puller::bind(&self.broker, self.durable.name()).await
                }
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            bound = bind => Some(bound),
        }
    }

    /// Takes what comes and starts batches, until shutdown or trouble. Calls `works` whenever the server says something.
    async fn pull(&mut self, puller: &mut Puller, mut works: impl FnMut()) -> End {
        let lost = self.broker.times_lost();
        let broker = self.broker.clone();
        let disconnected = broker.disconnected(lost);
        tokio::pin!(disconnected);
        let shutdown = self.shutdown.clone();
        let mut tick = tokio::time::interval((self.keep_alive / 2).min(Duration::from_secs(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_batches();
            if let Err(error) = puller.top_up(self.held.len()).await {
                return End::Lost(error.to_string());
            }
            let sign = tokio::select! {
                sign = puller.next() => sign,
                Some(ended) = self.batches.join_next() => {
                    self.reap(ended);
                    continue;
                }
                _ = tick.tick() => {
                    if puller.is_overdue() {
                        return End::Lost("the server has stopped to answer".to_owned());
                    }
                    self.keep_held_alive().await;
                    continue;
                }
                () = &mut disconnected => return End::Lost("the connection was lost".to_owned()),
                () = shutdown.cancelled() => return End::Shutdown,
            };
            // Everything that is there already belongs into the same batch.
            let mut next = Some(sign);
            while let Some(sign) = next {
                match sign {
                    Sign::Message(message) => self.hold(message),
                    Sign::Note => {}
                    Sign::Lost(why) => return End::Lost(why),
                }
                works();
                next = puller.next_ready();
            }
        }
    }

    /// Takes what has come already on a subscription that is given up: these messages are as good as any, and would
    /// otherwise come again only when their time is over.
    fn hold_ready(&mut self, puller: &mut Puller) {
        while let Some(sign) = puller.next_ready() {
            if let Sign::Message(message) = sign {
                self.hold(message);
            }
        }
    }

    fn hold(&mut self, message: Message) {
        self.held.push_back(Held { message, last_sign: Instant::now() });
    }

    fn start_batches(&mut self) {
        while !self.held.is_empty() && self.batches.len() < MAX_BATCHES_IN_FLIGHT {
            let size = self.held.len().min(MAX_CONSUMER_BATCH);
            let messages = self.held.drain(..size).map(|held| held.message).collect();
            let shared = Arc::clone(&self.shared);
            self.batches.spawn(async move { shared.run(messages).await });
        }
    }

    fn reap(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            // Not acknowledged, so its messages come again when their time is over.
            tracing::error!(durable = self.durable.name(), %error, "a batch broke off");
        }
    }

    async fn keep_held_alive(&mut self) {
        let now = Instant::now();
        let keep_alive_after = self.keep_alive;
        let due = self.held.iter_mut().filter(|held| now - held.last_sign >= keep_alive_after);
        let due = due.map(|held| {
            held.last_sign = now;
            &held.message
        });
        keep_alive(&self.broker, due).await;
    }

    /// Hands back what has not been begun, and waits for what has.
    async fn drain(mut self, puller: Option<Puller>) {
        if let Some(puller) = puller {
            self.collect(puller).await;
        }
        if self.broker.is_connected() {
            // Handed back only now: before the last request was over, the server might have sent it here again.
            let answer = bytes::Bytes::from(AckKind::Nak(None));
            for held in &self.held {
                if !answer_message(&self.broker, &held.message, answer.clone()).await {
                    break;
                }
            }
        }
        let handed_back = self.held.len();
        let finishing = self.batches.len();
        let mut away_since = None;
        loop {
            match tokio::time::timeout(Duration::from_millis(100), self.batches.join_next()).await {
                Ok(None) => break,
                Ok(Some(ended)) => self.reap(ended),
                Err(_elapsed) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    // A server that stands still keeps its connections, so it is asked for a sign of life.
                    if self.broker.is_connected() && self.broker.settled(AWAY_PATIENCE).await {
                        away_since = None;
                    } else if since.elapsed() > AWAY_PATIENCE {
                        self.give_up.cancel();
                    }
                }
            }
        }
        let settled = self.broker.is_connected() && self.broker.settled(SETTLE_PATIENCE).await;
        tracing::info!(durable = self.durable.name(), handed_back, finishing, settled, "consumer stopped");
    }

    /// Takes what the server is still sending: no new request goes out, and the open ones end by themselves.
    async fn collect(&mut self, mut puller: Puller) {
        let deadline = Instant::now() + 2 * EXPIRES;
        while puller.expects_more() {
            match tokio::time::timeout_at(deadline, puller.next()).await {
                Ok(Sign::Message(message)) => self.hold(message),
                Ok(Sign::Note) => {}
                Ok(Sign::Lost(_)) => return,
                Err(_elapsed) => {
                    // Where this process stood still, more may be on its way here than the clock allows for. A round trip brings it.
                    if self.broker.is_connected() && self.broker.settled(SETTLE_PATIENCE).await {
                        self.hold_ready(&mut puller);
                    }
                    return;
                }
            }
        }
    }
}
