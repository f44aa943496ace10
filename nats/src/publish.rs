//! Publishing: sent together, confirmed together, and sent again until the stream has it.

use async_nats::header::HeaderValue;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use common::event::Event;
use metrics::Counter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, BrokerError};
use crate::fast_ingest::Refusal;
use crate::message::{Outgoing, Template, rfc3339_now};
use crate::outage::pause;
use crate::topology::CHANNELS;

/// Counters of what is published, bound once because every event passes them.
pub(crate) struct Counters {
    published: Vec<(&'static str, Counter)>,
    retries: Counter,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let counter =
            |subject: &'static str| (subject, metrics::counter!("events_published_total", "subject" => subject));
        Self {
            published: CHANNELS.iter().map(|channel| counter(channel.subject)).collect(),
            retries: metrics::counter!("publish_retries_total"),
        }
    }

    fn published(&self, subject: &'static str) {
        // Ten entries: comparing them is cheaper than hashing, and dead letters, which are not among them, count elsewhere.
        if let Some((_, counter)) = self.published.iter().find(|(known, _)| *known == subject) {
            counter.increment(1);
        }
    }
}

/// Something to publish. Events become messages anew for each try: the rare second try pays for it, not each first.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Letter<'a> {
    Event(&'a Event),
    Dead(&'a Outgoing),
}

impl Letter<'_> {
    fn subject(&self) -> &'static str {
        match self {
            Self::Event(event) => event.subject(),
            Self::Dead(dead) => dead.subject,
        }
    }

    fn is_dead(&self) -> bool {
        matches!(self, Self::Dead(_))
    }

    fn message(&self, template: &Template, time: &HeaderValue) -> Result<Outgoing, serde_json::Error> {
        match self {
            Self::Event(event) => template.message(event, time),
            Self::Dead(dead) => Ok((*dead).clone()),
        }
    }
}

/// When to stop trying.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    pub give_up: CancellationToken,
    pub deadline: Option<Instant>,
}

impl Patience {
    async fn ends(&self) {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.give_up.cancelled() => {}
            () = deadline => {}
        }
    }
}

/// How one try ended.
enum Round {
    /// What is left, and the worst reason.
    Left {
        missing_stream: bool,
        why: String,
    },
    Unfit {
        index: usize,
        why: String,
    },
    /// The stream answers that it does not take this dead letter.
    Refused {
        index: usize,
        why: String,
    },
}

impl Broker {
    /// Publishes all events and waits until the stream has stored them all. Whatever is not confirmed is sent again, with
    /// pauses, until it is: an event can so be stored twice, which its effects tolerate.
    ///
    /// # Errors
    /// An event does not fit into a message, or the broker was closed before all were confirmed.
    pub async fn publish_all(&self, events: &[Event]) -> Result<(), BrokerError> {
        let letters: Vec<_> = events.iter().map(Letter::Event).collect();
        self.store(&letters, &Patience { give_up: self.inner.closing.clone(), deadline: None }).await
    }

    /// Publishes one event and waits until the stream has stored it, but not beyond `deadline`.
    ///
    /// # Errors
    /// As [`Broker::publish_all`], or the deadline passed. The event may be stored nevertheless.
    pub async fn publish(&self, event: &Event, deadline: Option<Instant>) -> Result<(), BrokerError> {
        self.store(&[Letter::Event(event)], &Patience { give_up: self.inner.closing.clone(), deadline }).await
    }

    /// Stores a dead letter. While nobody answers it is sent again, as everything is; but where the stream itself refuses it, because it is full,
    /// that is the answer: only a person can make room, and whoever waited for that would keep from its work what has nothing to do with it.
    ///
    /// # Errors
    /// As [`Broker::publish_all`], or the stream refuses.
    pub(crate) async fn bury(&self, letter: &Outgoing, patience: &Patience) -> Result<(), BrokerError> {
        self.store(&[Letter::Dead(letter)], patience).await
    }

    /// Stores all letters.
    pub(crate) async fn store(&self, letters: &[Letter<'_>], patience: &Patience) -> Result<(), BrokerError> {
        let mut left: Vec<usize> = (0..letters.len()).collect();
        let mut failures = 0;
        let ends = patience.ends();
        tokio::pin!(ends);
        loop {
            let round = tokio::select! {
                biased;
                round = self.store_round(letters, &mut left, failures == 0) => round,
                () = &mut ends => return Err(BrokerError::GaveUp { missing: left.len() }),
            };
            match round {
                None => {
                    self.inner.publishing.over();
                    return Ok(());
                }
                Some(Round::Unfit { index, why }) => {
                    return Err(BrokerError::Unfit { index, subject: letters[index].subject(), why });
                }
                Some(Round::Refused { index, why }) => {
                    return Err(BrokerError::Refused { subject: letters[index].subject(), why });
                }
                Some(Round::Left { missing_stream, why }) => {
                    self.inner.counters.retries.increment(left.len() as u64);
                    self.inner.publishing.failed(&why);
                    failures += 1;
                    if missing_stream {
                        // Not waited for: mostly the stream is only without a leader, and nobody answers questions about it either.
                        tokio::spawn(self.clone().recreate_topology());
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause(failures)) => {}
                        () = &mut ends => return Err(BrokerError::GaveUp { missing: left.len() }),
                    }
                }
            }
        }
    }

    /// Sends what is left and removes from it what is confirmed. Nothing when all is. The first try is a batch; whatever is wrong with it is
    /// found out message by message.
    async fn store_round(&self, letters: &[Letter<'_>], left: &mut Vec<usize>, first: bool) -> Option<Round> {
        // Sent while away, messages would only queue up in the client, and again with each retry.
        self.connected().await;
        let lost = self.times_lost();
        if first && let Some(round) = self.store_batch(letters, lost).await {
            return round;
        }
        let time = HeaderValue::from(rfc3339_now());
        let mut sent = Vec::with_capacity(left.len());
        let mut confirmed = Vec::with_capacity(left.len());
        let mut trouble = Trouble::default();
        let round = async {
            for &index in left.iter() {
                match self.send(&letters[index], &time).await {
                    Ok(ack) => sent.push((index, ack)),
                    Err(Fault::Unfit(why)) => return Some(Round::Unfit { index, why }),
                    Err(Fault::NotSent(why)) => trouble.add(false, why),
                }
            }
            // Confirmations come in order, so waiting for one after the other waits for the last; and when one does not
            // come in time, the later ones are not waited for.
            for (index, ack) in sent.drain(..) {
                match ack.await {
                    Ok(_) => {
                        self.inner.counters.published(letters[index].subject());
                        confirmed.push(index);
                    }
                    Err(error) if letters[index].is_dead() && is_refusal(&error) => {
                        return Some(Round::Refused { index, why: describe(&error) });
                    }
                    Err(error) => {
                        trouble.add(error.kind() == PublishErrorKind::StreamNotFound, describe(&error));
                        if error.kind() == PublishErrorKind::TimedOut {
                            break;
                        }
                    }
                }
            }
            None
        };
        let ended = tokio::select! {
            biased;
            ended = round => ended,
            () = self.disconnected(lost) => None,
        };
        if confirmed.len() == left.len() {
            return None;
        }
        // Both lists ascend, so one pass over both is enough.
        let mut done = confirmed.into_iter().peekable();
        left.retain(|index| done.next_if_eq(index).is_none());
        Some(ended.unwrap_or_else(|| trouble.into_round("the connection was lost")))
    }

    /// The same with all letters as one batch. Nothing where this must be done one by one.
    async fn store_batch(&self, letters: &[Letter<'_>], lost: u64) -> Option<Option<Round>> {
        // A batch is of one stream, and dead letters have another.
        let events = letters.iter().all(|letter| matches!(letter, Letter::Event(_)));
        if !events || !self.inner.batches.works() {
            return None;
        }
        let time = HeaderValue::from(rfc3339_now());
        let mut messages = Vec::with_capacity(letters.len());
        for letter in letters {
            // What is wrong is told where they are sent one by one.
            messages.push(letter.message(&self.inner.template, &time).ok()?);
        }
        let stored = tokio::select! {
            biased;
            stored = self.inner.batches.store(messages) => stored,
            () = self.disconnected(lost) => Err(Refusal::failed("the connection was lost")),
        };
        match stored {
            Ok(()) => {
                for letter in letters {
                    self.inner.counters.published(letter.subject());
                }
                Some(None)
            }
            Err(Refusal::Unsupported) => None,
            Err(Refusal::Failed { missing_stream, why }) => Some(Some(Round::Left { missing_stream, why })),
        }
    }

    async fn send(&self, letter: &Letter<'_>, time: &HeaderValue) -> Result<PublishAckFuture, Fault> {
        let message = letter.message(&self.inner.template, time).map_err(|error| Fault::Unfit(error.to_string()))?;
        let publish = PublishMessage::build().payload(message.payload).headers(message.headers);
        self.inner.jetstream.send_publish(message.subject, publish).await.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Fault::Unfit(describe(&error)),
            _ => Fault::NotSent(describe(&error)),
        })
    }
}

enum Fault {
    Unfit(String),
    NotSent(String),
}

/// What went wrong in a round. One reason is enough to say.
#[derive(Default)]
struct Trouble {
    missing_stream: bool,
    why: Option<String>,
}

impl Trouble {
    fn add(&mut self, missing_stream: bool, why: String) {
        self.missing_stream |= missing_stream;
        self.why.get_or_insert(why);
    }

    fn into_round(self, otherwise: &str) -> Round {
        Round::Left { missing_stream: self.missing_stream, why: self.why.unwrap_or_else(|| otherwise.to_owned()) }
    }
}

/// Whether the stream has answered, and said no. (One that is not there, or has no leader, does not answer.)
fn is_refusal(error: &PublishError) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<async_nats::jetstream::Error>())
}

/// An error with its cause, which the client's own text leaves out.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
