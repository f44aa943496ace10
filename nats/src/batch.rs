//! One batch on its way: decode → react → publish what came of it → acknowledge. Nothing is acknowledged before everything
//! that came of the whole batch is stored.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::AckKind;
use bytes::Bytes;
use common::crash;
use common::event::Event;
use common::limits::SUSPICIOUS_DELIVERIES;
use common::service::wall_clock_ms;
use futures::future::join_all;
use metrics::{Counter, Histogram};

use crate::broker::{ANSWER_PATIENCE, Broker, BrokerError, bounded};
use crate::consume::{React, Verdict};
use crate::dead_letter::{REASON, dead_letter};
use crate::message::{Outgoing, decode};
use crate::publish::{Letter, Patience};
use crate::pull::{delivery, position};
use crate::refusals::Refusals;
use crate::topology::Durable;

/// Delay of the first redelivery that a reaction asks for. Doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest delay between redeliveries.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Longest delay between two tries to bury a message whose dead letter is refused. It lasts until a person makes room, and there may be thousands.
const LONGEST_BURIAL_RETRY: Duration = Duration::from_secs(30);

/// A message that is delivered suspiciously often is mentioned again after so many more deliveries.
const SAID_AGAIN_EVERY: i64 = 100;

/// What all batches of one consumer share.
pub(crate) struct Shared<R> {
    pub broker: Broker,
    pub durable: Durable,
    pub reactor: Arc<R>,
    pub patience: Patience,
    /// How often a message in hand gives a sign of life.
    pub keep_alive: Duration,
    /// How old an event may get that is left to instances of a newer build.
    pub newer_patience: Duration,
    pub metrics: Metrics,
    pub refusals: Refusals,
}

/// Bound once per consumer, because every message passes them.
pub(crate) struct Metrics {
    batch_size: Histogram,
    published: Counter,
    done: Counter,
    dead: Counter,
    retry: Counter,
    suspicious: Counter,
    newer: Counter,
    dead_letters: Counter,
    refused: Counter,
}

impl Metrics {
    pub(crate) fn new(durable: Durable) -> Self {
        let durable = durable.name();
        let consumed = |verdict: &'static str| metrics::counter!("events_consumed_total", "durable" => durable, "verdict" => verdict);
        Self {
            batch_size: metrics::histogram!("consumer_batch_size", "durable" => durable),
            published: consumed("published"),
            done: consumed("done"),
            dead: consumed("dead"),
            retry: consumed("retry"),
            suspicious: metrics::counter!("suspicious_deliveries_total", "durable" => durable),
            newer: metrics::counter!("events_left_to_newer_total", "durable" => durable),
            dead_letters: metrics::counter!("dead_letters_total", "durable" => durable),
            refused: metrics::counter!("dead_letters_refused_total", "durable" => durable),
        }
    }
}

/// The crash points of one durable, as constants so that passing them costs nothing.
struct Points {
    received: &'static str,
    effect: &'static str,
    published: &'static str,
    acked: &'static str,
}

macro_rules! points {
    ($name:literal) => {
        Points {
            received: concat!($name, ".received"),
            effect: concat!($name, ".effect"),
            published: concat!($name, ".published"),
            acked: concat!($name, ".acked"),
        }
    };
}

const fn points(durable: Durable) -> Points {
    match durable {
        Durable::Order => points!("order"),
        Durable::Payment => points!("payment"),
        Durable::Stock => points!("stock"),
    }
}

/// What is to become of one message.
enum Fate {
    /// These events came of it; acknowledge it when they are stored.
    Publish(Vec<Event>),
    /// Dead-letter it.
    Dead(Outgoing),
    /// Deliver it again later.
    Retry,
    /// It should be a dead letter and cannot be one now: deliver it again when there may be room.
    Unburied,
}

impl<R: React> Shared<R> {
    /// Runs one batch to its end. While it lasts, its messages are kept from being delivered again.
    pub(crate) async fn run(&self, messages: Vec<Message>) {
        self.metrics.batch_size.record(messages.len() as f64);
        let work = self.work(&messages);
        tokio::pin!(work);
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + self.keep_alive, self.keep_alive);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return,
                _ = tick.tick() => keep_alive(&self.broker, messages.iter()).await,
            }
        }
    }

    async fn work(&self, messages: &[Message]) {
        let points = points(self.durable);
        crash::point(points.received);
        // The last one is enough: a mark that points at less than was taken is as good.
        if let Some(position) = messages.last().and_then(position) {
            self.reactor.reached(position);
        }
        let (mut fates, mut era) = self.decide(messages).await;
        while era != self.reactor.era() {
            // What was decided may be lost with the database that it was decided at. Nobody has heard of it yet.
            (fates, era) = self.decide(messages).await;
        }
        crash::point(points.effect);
        if let Err(error) = self.publish(messages, &mut fates).await {
            // Only at the end of the process. Nothing is acknowledged, so all of it comes again elsewhere.
            tracing::warn!(durable = self.durable.name(), messages = messages.len(), %error, "batch left to others");
            return;
        }
        crash::point(points.published);
        if era != self.reactor.era() {
            // Others may have recovered the database before these were stored. What is published stands.
            let published = fates.iter().filter_map(|fate| match fate {
                Some(Fate::Publish(events)) => Some(events),
                _ => None,
            });
            self.reactor.redo(&published.flatten().collect::<Vec<_>>()).await;
        }
        self.acknowledge(messages, &fates).await;
        crash::point(points.acked);
    }

    /// The fates of the messages, and the era in which they were decided.
    async fn decide(&self, messages: &[Message]) -> (Vec<Option<Fate>>, u64) {
        let era = self.reactor.era();
        let (mut fates, events) = self.decode(messages);
        if !events.is_empty() {
            self.react(messages, &mut fates, events).await;
        }
        (fates, era)
    }

    /// The fates of the messages, decided for those that cannot be read; and the events of the others, in order.
    fn decode(&self, messages: &[Message]) -> (Vec<Option<Fate>>, Vec<Event>) {
        let mut fates = Vec::with_capacity(messages.len());
        let mut events = Vec::with_capacity(messages.len());
        let explained = self.refusals.is_recent();
        for message in messages {
            if let Some(delivery) = delivery(message).filter(|delivery| delivery.delivered > SUSPICIOUS_DELIVERIES) {
                self.metrics.suspicious.increment(1);
                let is_due =
                    delivery.delivered == SUSPICIOUS_DELIVERIES + 1 || delivery.delivered % SAID_AGAIN_EVERY == 0;
                if is_due && !explained {
                    tracing::warn!(
                        durable = self.durable.name(),
                        subject = message.subject.as_str(),
                        sequence = delivery.sequence,
                        delivered = delivery.delivered,
                        "delivered suspiciously often"
                    );
                }
            }
            match decode(message) {
                Ok(_) if !self.durable.subjects().any(|subject| subject == message.subject.as_str()) => {
                    fates.push(Some(self.leave_to_newer(message, "this build does not react to it")));
                }
                Ok(event) => {
                    events.push(event);
                    fates.push(None);
                }
                Err(poison) if poison.is_newer() => {
                    fates.push(Some(self.leave_to_newer(message, &poison.to_string())));
                }
                Err(poison) => fates.push(Some(self.dead(message, &poison.to_string()))),
            }
        }
        (fates, events)
    }

    /// What only a newer build could handle: while services are upgraded there may be an instance of one, and the message is delivered again
    /// until it meets it. Where there is none for long enough, it is a dead letter as anything else that is not understood.
    fn leave_to_newer(&self, message: &Message, why: &str) -> Fate {
        let now_ns = u128::from(wall_clock_ms()) * 1_000_000;
        let stored_at_ns = position(message).map_or(0, |position| u128::from(position.stored_at_ns));
        if now_ns.saturating_sub(stored_at_ns) >= self.newer_patience.as_nanos() {
            return self.dead(message, &format!("{why}; no instance of a newer build has taken it"));
        }
        if delivery(message).is_some_and(|delivery| delivery.delivered == 1) {
            tracing::warn!(
                durable = self.durable.name(),
                subject = message.subject.as_str(),
                why,
                "left to newer instances"
            );
        }
        self.metrics.newer.increment(1);
        Fate::Retry
    }

    async fn react(&self, messages: &[Message], fates: &mut [Option<Fate>], events: Vec<Event>) {
        let asked = events.len();
        let verdicts = self.reactor.react(events).await;
        if verdicts.len() != asked {
            // A bug of the reaction: which verdict belongs to which event cannot be known, so none is believed.
            tracing::error!(durable = self.durable.name(), asked, answered = verdicts.len(), "verdicts do not match");
            return;
        }
        let open = fates.iter_mut().zip(messages).filter(|(fate, _)| fate.is_none());
        for ((fate, message), verdict) in open.zip(verdicts) {
            *fate = Some(match verdict {
                Verdict::Publish(events) => Fate::Publish(events),
                Verdict::Dead(reason) => self.dead(message, &reason),
                Verdict::Retry(why) => {
                    tracing::debug!(durable = self.durable.name(), subject = message.subject.as_str(), why, "retry");
                    Fate::Retry
                }
            });
        }
    }

    fn dead(&self, message: &Message, reason: &str) -> Fate {
        Fate::Dead(dead_letter(message, self.durable, reason, self.broker.inner.client.max_payload()))
    }

    /// Stores everything that came of the batch. What cannot be stored because it does not fit makes its cause a dead
    /// letter: its effect is done but cannot be told, and a person must know.
    async fn publish(&self, messages: &[Message], fates: &mut [Option<Fate>]) -> Result<(), BrokerError> {
        loop {
            let mut letters = Vec::with_capacity(fates.len());
            let mut causes = Vec::with_capacity(fates.len());
            for (cause, fate) in fates.iter().enumerate() {
                if let Some(Fate::Publish(events)) = fate {
                    letters.extend(events.iter().map(Letter::Event));
                    causes.resize(letters.len(), cause);
                }
            }
            if letters.is_empty() {
                break;
            }
            let (index, why) = match self.broker.store(&letters, &self.patience).await {
                Err(BrokerError::Unfit { index, why, .. }) => (causes[index], why),
                Err(error) => return Err(error),
                Ok(()) => break,
            };
            fates[index] = Some(self.dead(&messages[index], &format!("its outcome cannot be published: {why}")));
        }
        self.bury(fates).await
    }

    /// Stores the dead letters, each for itself: of those that are refused the messages are not acknowledged, and nobody else has to wait for them.
    async fn bury(&self, fates: &mut [Option<Fate>]) -> Result<(), BrokerError> {
        let letters = fates.iter().enumerate().filter_map(|(index, fate)| match fate {
            Some(Fate::Dead(letter)) => Some(async move { (index, self.broker.bury(letter, &self.patience).await) }),
            _ => None,
        });
        let (mut refused, mut last) = (0, None);
        for (index, buried) in join_all(letters).await {
            match buried {
                Ok(()) => {}
                Err(BrokerError::Refused { why, .. }) => {
                    fates[index] = Some(Fate::Unburied);
                    (refused, last) = (refused + 1, Some(why));
                }
                // It is made to fit; should a server change its limit meanwhile, the next one is made for that.
                Err(BrokerError::Unfit { .. }) => fates[index] = Some(Fate::Retry),
                Err(error) => return Err(error),
            }
        }
        if let Some(why) = last {
            self.refusals.tell(self.durable, refused, &why);
        }
        Ok(())
    }

    async fn acknowledge(&self, messages: &[Message], fates: &[Option<Fate>]) {
        for (message, fate) in messages.iter().zip(fates) {
            let (counter, answer) = match fate {
                Some(Fate::Publish(events)) if events.is_empty() => (&self.metrics.done, AckKind::Ack.into()),
                Some(Fate::Publish(_)) => (&self.metrics.published, AckKind::Ack.into()),
                Some(Fate::Dead(letter)) => {
                    self.tell_death(message, letter);
                    (&self.metrics.dead, AckKind::Term.into())
                }
                Some(Fate::Unburied) => {
                    self.metrics.refused.increment(1);
                    let delay = delay(message, LONGEST_BURIAL_RETRY);
                    (&self.metrics.retry, AckKind::Nak(Some(delay)).into())
                }
                Some(Fate::Retry) | None => {
                    (&self.metrics.retry, AckKind::Nak(Some(delay(message, LONGEST_RETRY))).into())
                }
            };
            counter.increment(1);
            if !answer_message(&self.broker, message, answer).await {
                return;
            }
        }
    }

    fn tell_death(&self, message: &Message, letter: &Outgoing) {
        self.metrics.dead_letters.increment(1);
        tracing::error!(
            durable = self.durable.name(),
            subject = message.subject.as_str(),
            sequence = delivery(message).unwrap_or_default().sequence,
            reason = letter.headers.get(REASON.clone()).map(|reason| reason.as_str()).unwrap_or_default(),
            "dead letter"
        );
    }
}

/// How long to wait before the message comes again, `longest` at most. A plain negative acknowledgement would bring it back at once.
fn delay(message: &Message, longest: Duration) -> Duration {
    let before = delivery(message).unwrap_or_default().delivered.saturating_sub(1);
    FIRST_RETRY.saturating_mul(1 << before.clamp(0, 10)).min(longest)
}

/// Tells the server that these messages are still being worked on.
pub(crate) async fn keep_alive(broker: &Broker, messages: impl Iterator<Item = &Message>) {
    if !broker.is_connected() {
        return;
    }
    for message in messages {
        if !answer_message(broker, message, AckKind::Progress.into()).await {
            return;
        }
    }
}

/// Sends an acknowledgement of some kind: into the connection's queue, without waiting for the server. One that is lost
/// means another delivery. Says whether a further one has a chance: while NATS is away the queue can be full, and must not
/// hold up a shutdown.
pub(crate) async fn answer_message(broker: &Broker, message: &Message, answer: Bytes) -> bool {
    let Some(reply) = message.reply.clone() else { return true };
    match bounded(ANSWER_PATIENCE, broker.inner.client.publish(reply, answer)).await {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::debug!(%error, "not acknowledged");
            false
        }
        None => false,
    }
}
