//! Redo before new work: a service's own decisions, as it has published them, are made true again in a database that has lost its tail.
//!
//! The decisions are read from the stream from the position on that the database's last surviving mark names ([`common::redis::Recovery`]),
//! in their order, and go through the same outcome records as before: what survived is known, what was lost is applied *as it was decided*.
//! Nothing is decided a second time.
//!
//! Services may not create consumers, so the stream is read directly ([`crate::direct`]), until the last of the service's messages was met.

use async_nats::jetstream::message::StreamMessage;
use common::event::{Event, SagaEvent};
use common::redis::{Call, Database, Position, Recovery, Reply, Unrecovered};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::broker::{Broker, BrokerError};
use crate::direct::{PAUSE, ask_leader, header, page};
use crate::topology::{CHANNELS, CHECKOUT, Service};

/// A service that can make its published decisions true again.
pub trait Redo: Send + Sync + 'static {
    /// Who publishes the decisions.
    const SERVICE: Service;
    /// The call that makes a decision of this service true again; nothing for an event that stands for no effect. The reply's codes:
    /// `redone` or `closed`; `short` where it was applied and there was less than it takes; `known` or `repeat`; `too_old` for
    /// what lies behind the watermark, and is forgotten; anything else contradicts what the database has recorded.
    fn redo(&self, event: &SagaEvent) -> Option<Call>;
}

/// Recovers the database of a service.
pub struct Redoer<R> {
    broker: Broker,
    service: R,
}

impl<R: Redo> Redoer<R> {
    /// Redoes what `service` has published on this broker.
    pub fn new(broker: Broker, service: R) -> Self {
        Self { broker, service }
    }

    async fn run(&self, primary: &mut Unrecovered) -> Result<(), String> {
        let began = Instant::now();
        let mark = primary.mark().await.map_err(|error| error.to_string())?;
        let mut published =
            Published::since(&self.broker, R::SERVICE, mark).await.map_err(|error| error.to_string())?;
        let from = published.next;
        let mut tally = Tally::default();
        while let Some(page) = published.page().await.map_err(|error| error.to_string())? {
            let events =
                page.iter().filter_map(|message| decode(message).transpose()).collect::<Result<Vec<_>, _>>()?;
            let calls: Vec<(&SagaEvent, Call)> =
                events.iter().filter_map(|event| Some((event, self.service.redo(event)?))).collect();
            let (events, calls): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
            let replies = primary.call_all(calls).await.map_err(|error| error.to_string())?;
            for (event, reply) in events.into_iter().zip(&replies) {
                tally.add(event, reply);
            }
        }
        let Tally { redone, known, forgotten, contradicted } = tally;
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mark = mark.map(|mark| mark.to_string());
        tracing::info!(
            redone,
            known,
            forgotten,
            contradicted,
            mark,
            from,
            to = published.last,
            elapsed_ms,
            "the primary is recovered: published decisions are redone"
        );
        Ok(())
    }
}

impl<R: Redo> Recovery for Redoer<R> {
    fn recover<'a>(&'a self, primary: &'a mut Unrecovered) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.run(primary))
    }
}

/// Redoes decisions that were published when the primary that they were made at had been replaced already, so that its successor may have
/// been recovered without them.
pub async fn redo_late<R: Redo>(service: &R, database: &Database, published: &[&Event]) {
    let events = published.iter().filter_map(|event| match event {
        Event::Saga(event) => Some((event, service.redo(event)?)),
        Event::Watermark(_) => None,
    });
    let (events, calls): (Vec<_>, Vec<_>) = events.unzip();
    let mut tally = Tally::default();
    match database.call_all(calls, None).await {
        Ok(replies) => {
            for (event, reply) in events.into_iter().zip(replies) {
                match reply {
                    Ok(reply) => tally.add(event, &reply),
                    Err(error) => tracing::error!(event = event.id(), %error, "not redone"),
                }
            }
        }
        // At the end of the process. Nothing is acknowledged yet, so the inputs come again.
        Err(error) => tracing::warn!(%error, "decisions that were published late are not redone"),
    }
    tracing::info!(?tally, "decisions that were published late are redone");
}

/// What became of the decisions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    redone: u64,
    known: u64,
    forgotten: u64,
    contradicted: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, event: &SagaEvent, reply: &Reply) {
        let (count, result) = match reply.code() {
            "redone" | "closed" => (&mut self.redone, "redone"),
            "short" => {
                tracing::error!(
                    event = event.id(),
                    missing = reply.text(1),
                    "redone, but there was less than it takes"
                );
                (&mut self.redone, "short")
            }
            "known" | "repeat" => (&mut self.known, "known"),
            "too_old" => (&mut self.forgotten, "forgotten"),
            code => {
                let recorded = reply.text(1);
                tracing::error!(event = event.id(), code, recorded, "published, but the database says otherwise");
                (&mut self.contradicted, "contradicted")
            }
        };
        *count += 1;
        metrics::counter!("decisions_redone_total", "result" => result).increment(1);
    }
}

/// The event of a message that was read from the stream; nothing for what is about no saga, or cannot be understood by anybody.
///
/// # Errors
/// It is a decision of a newer build of this service, and only that can redo it. The primary is not used until it has: instances of that
/// build are tried in turn with this one.
fn decode(message: &StreamMessage) -> Result<Option<SagaEvent>, String> {
    let sequence = message.sequence;
    match Event::decode(&message.subject, &message.payload, header(message, "traceparent")) {
        Ok(Event::Saga(event)) => Ok(Some(event)),
        Ok(Event::Watermark(_)) => Ok(None),
        Err(poison) if poison.is_newer() => Err(format!(
            "message {sequence} of {CHECKOUT} was published by a newer build ({poison}), and only an instance of that can redo what it tells; \
             where it is rubbish, delete it from the stream"
        )),
        Err(poison) => {
            tracing::error!(%poison, sequence, "a decision that cannot be read is not redone");
            Ok(None)
        }
    }
}

/// The messages that a service has published, page by page.
struct Published<'a> {
    broker: &'a Broker,
    service: Service,
    /// The sequence that is read next.
    next: u64,
    /// The sequence of the last one; 0 where there is none.
    last: u64,
}

impl<'a> Published<'a> {
    /// Those that are stored now and lie behind `mark`, if the message there is still the one that was meant; if not, all.
    async fn since(broker: &'a Broker, service: Service, mark: Option<Position>) -> Result<Self, BrokerError> {
        let last = last_published(broker, service).await?;
        let mut next = 1;
        if let Some(mark) = mark {
            let question = serde_json::json!({ "seq": mark.sequence });
            let found = ask_leader(broker, &question).await?;
            if found.is_some_and(|found| found.stored_at_ns == Some(mark.stored_at_ns)) {
                next = mark.sequence + 1;
            }
        }
        Ok(Self { broker, service, next, last })
    }

    /// The next messages; nothing after the last.
    async fn page(&mut self) -> Result<Option<Vec<StreamMessage>>, BrokerError> {
        while self.next <= self.last {
            if let Some(page) = page(self.broker, self.next, subject_prefix(self.service)).await? {
                self.next = page.next;
                return Ok(Some(page.messages));
            }
            // Another leader has not caught up yet, or somebody has purged the stream meanwhile.
            tokio::time::sleep(PAUSE).await;
            self.last = self.last.min(last_published(self.broker, self.service).await?);
        }
        Ok(None)
    }
}

/// What all subjects of a service begin with.
fn subject_prefix(service: Service) -> &'static str {
    match service {
        Service::Order => "checkout.",
        Service::Payment => "payment.",
        Service::Stock => "stock.",
    }
}

/// The sequence of the last message that the service has published; 0 where there is none.
async fn last_published(broker: &Broker, service: Service) -> Result<u64, BrokerError> {
    let mut last = 0;
    for channel in CHANNELS.iter().filter(|channel| channel.published_by == service) {
        let found = ask_leader(broker, &serde_json::json!({ "last_by_subj": channel.subject })).await?;
        last = last.max(found.map_or(0, |found| found.sequence));
    }
    Ok(last)
}
