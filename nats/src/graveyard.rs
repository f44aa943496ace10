//! What a person does with dead letters: look, publish again, drop; and what is remembered of it.
//!
//! The order of steps is what makes it safe to stop anywhere. Redriving: published and stored → recorded → deleted. Dropping:
//! recorded, with the whole letter → deleted. A crash between two steps leaves the letter where it is, to be redriven or dropped
//! again; a second publication does no harm, since effects are idempotent.

use async_nats::HeaderMap;
use async_nats::header::HeaderName;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;

use crate::broker::{Broker, BrokerError, request_error};
use crate::dead_letter::without_orders;
pub use crate::letter::{Filter, Letter};
use crate::letter::{number, text};
use crate::message::{Outgoing, header_text, rfc3339_now};
pub use crate::scan::Order;
use crate::scan::{Found, Scan};
use crate::topology::{ADVISORIES, CHECKOUT, DEAD_LETTERS, DEAD_LETTERS_LOG, DROPPED_SUBJECT, REDRIVEN_SUBJECT};

static LOG_WHO: HeaderName = HeaderName::from_static("dead-log-who");
static LOG_WHEN: HeaderName = HeaderName::from_static("dead-log-when");
static LOG_WHY: HeaderName = HeaderName::from_static("dead-log-why");
static LOG_SEQUENCE: HeaderName = HeaderName::from_static("dead-log-sequence");
static LOG_STORED: HeaderName = HeaderName::from_static("dead-log-stored-sequence");

/// Longest reason for a redrive or a drop. With the rest of the record it stays below the room that each dead letter leaves.
pub const MAX_WHY_BYTES: usize = 1_000;

/// Longest name of a person in the log; what is longer is cut.
const MAX_WHO_BYTES: usize = 200;

/// From here on a person is warned that dead letters will be refused.
const NEARLY_FULL_PERCENT: u64 = 80;

/// Why something could not be done with a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum GraveyardError {
    /// There is no such letter, or not any more.
    #[error("there is no dead letter {0}")]
    NoLetter(u64),
    /// This letter is never published again, or cannot be recorded.
    #[error("{0}")]
    Refused(String),
    /// NATS.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Who does something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Such as `ada@host`.
    pub who: String,
    /// Such as `fixed in 1.2`.
    pub why: String,
}

/// How full the stream of dead letters is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Dead letters.
    pub letters: u64,
    /// What they take.
    pub bytes: u64,
    /// What they may take; 0 where nothing is set.
    pub max_bytes: u64,
}

impl Room {
    /// A warning where there is little room or none: how full it is, and what to do. A letter that does not fit is refused, and its event stays with
    /// the durable that gave up on it.
    pub fn warning(self) -> Option<String> {
        let percent = (self.bytes * 100).checked_div(self.max_bytes)?;
        (percent >= NEARLY_FULL_PERCENT).then(|| {
            format!(
                "{DEAD_LETTERS} is {percent}% full ({} letters); what does not fit stays unacknowledged and comes again: redrive letters, or \
                 drop them",
                self.letters
            )
        })
    }
}

/// What was done with a dead letter.
#[derive(Debug, Clone, Serialize)]
pub struct LogEntry {
    /// Its number in the log.
    pub sequence: u64,
    /// When.
    pub time: String,
    /// `redriven` or `dropped`.
    pub action: String,
    /// By whom.
    pub who: String,
    /// Why; empty when nobody said.
    pub why: String,
    /// Where it was stored again, when it was redriven.
    pub stored_sequence: Option<u64>,
    /// The letter. Its sequence was its number among the dead letters.
    pub letter: Letter,
}

/// What the server says about a message that a durable gave up on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advisory {
    /// Its number among the advisories.
    pub sequence: u64,
    /// When.
    pub time: String,
    /// `terminated` or `max_deliveries`.
    pub kind: String,
    /// The durable.
    pub consumer: String,
    /// The message's number in the stream of events.
    pub stream_sequence: u64,
    /// How often it had been delivered.
    pub deliveries: u64,
    /// What whoever terminated it said. Our own services say it in the dead letter instead.
    pub reason: Option<String>,
}

/// The dead letters, and what has been done with them.
#[derive(Debug, Clone)]
pub struct Graveyard {
    broker: Broker,
}

impl Graveyard {
    /// The dead letters of the platform at the other end of `broker`. Creates nothing: the services do, with the limits of
    /// their deployment, which are not known here.
    pub fn new(broker: Broker) -> Self {
        Self { broker }
    }

    /// The first `limit` letters that match, without their payloads.
    ///
    /// # Errors
    /// NATS does not answer, or has no such stream.
    pub async fn letters(&self, filter: &Filter, order: Order, limit: usize) -> Result<Vec<Letter>, GraveyardError> {
        let subject = filter.consumer.map(|durable| durable.dead_letter_subject());
        let scan = Scan { stream: DEAD_LETTERS, subject, headers_only: true };
        let keep = |found| Some(Letter::read(found)).filter(|letter| filter.matches(letter));
        Ok(scan.read(&self.broker, order, limit, keep).await?)
    }

    /// How full the stream of dead letters is.
    ///
    /// # Errors
    /// NATS does not answer, or has no such stream.
    pub async fn room(&self) -> Result<Room, GraveyardError> {
        let stream = self.broker.inner.jetstream.get_stream(DEAD_LETTERS).await;
        let stream = stream.map_err(request_error("the dead letters"))?;
        let info = stream.cached_info();
        let max_bytes = u64::try_from(info.config.max_bytes).unwrap_or_default();
        Ok(Room { letters: info.state.messages, bytes: info.state.bytes, max_bytes })
    }

    /// One letter, whole.
    ///
    /// # Errors
    /// There is none of this number, or NATS does not answer.
    pub async fn letter(&self, sequence: u64) -> Result<Letter, GraveyardError> {
        let found = self.found(DEAD_LETTERS, sequence).await?;
        found.map(Letter::read).ok_or(GraveyardError::NoLetter(sequence))
    }

    /// Publishes a letter again as it was, records that, and deletes the letter, each only when the step before is stored.
    /// Returns where the stream of events has it.
    ///
    /// # Errors
    /// The letter must not be published again, is not there, or NATS refuses. It is still there then, unless the error says
    /// that it is not.
    pub async fn redrive(&self, sequence: u64, note: &Note) -> Result<u64, GraveyardError> {
        let letter = self.letter(sequence).await?;
        let message = letter.revived().map_err(GraveyardError::Refused)?;
        let stored = self.store(message, CHECKOUT).await?;
        let record = record(REDRIVEN_SUBJECT, &letter, note, Some(stored), Bytes::new());
        self.store(record, DEAD_LETTERS_LOG).await?;
        self.delete(sequence).await?;
        Ok(stored)
    }

    /// Records a whole letter in the log, then deletes it. (Not called `drop`, which means something else in Rust.)
    ///
    /// # Errors
    /// The letter is not there, or cannot be recorded, or NATS refuses. It is still there then, unless the error says that it
    /// is not.
    pub async fn discard(&self, sequence: u64, note: &Note) -> Result<(), GraveyardError> {
        let letter = self.letter(sequence).await?;
        let record = record(DROPPED_SUBJECT, &letter, note, None, letter.payload().clone());
        let limit = self.broker.inner.client.max_payload();
        if record.wire_len() > limit {
            return Err(GraveyardError::Refused(format!(
                "its record would have {} bytes, and the server takes {limit}: raise its max_payload",
                record.wire_len()
            )));
        }
        self.store(record, DEAD_LETTERS_LOG).await?;
        self.delete(sequence).await
    }

    /// The first `limit` entries of the log, without the payloads of dropped letters.
    ///
    /// # Errors
    /// NATS does not answer, or has no such stream.
    pub async fn log(&self, order: Order, limit: usize) -> Result<Vec<LogEntry>, GraveyardError> {
        let scan = Scan { stream: DEAD_LETTERS_LOG, subject: None, headers_only: true };
        Ok(scan.read(&self.broker, order, limit, |found| Some(LogEntry::read(found))).await?)
    }

    /// One entry of the log; of a dropped letter, the letter is whole. Nothing when there is none.
    ///
    /// # Errors
    /// NATS does not answer, or has no such stream.
    pub async fn log_entry(&self, sequence: u64) -> Result<Option<LogEntry>, GraveyardError> {
        Ok(self.found(DEAD_LETTERS_LOG, sequence).await?.map(LogEntry::read))
    }

    /// The first `limit` advisories.
    ///
    /// # Errors
    /// NATS does not answer, or has no such stream.
    pub async fn advisories(&self, order: Order, limit: usize) -> Result<Vec<Advisory>, GraveyardError> {
        let scan = Scan { stream: ADVISORIES, subject: None, headers_only: false };
        Ok(scan.read(&self.broker, order, limit, |found| Some(Advisory::read(&found))).await?)
    }

    /// Asks the leader, not any replica: one that lags behind might still show what has just been deleted.
    async fn found(&self, stream: &'static str, sequence: u64) -> Result<Option<Found>, BrokerError> {
        // The server takes 0 for a request without a number.
        if sequence == 0 {
            return Ok(None);
        }
        let jetstream = &self.broker.inner.jetstream;
        let stream = jetstream.get_stream_no_info(stream).await.map_err(request_error("the stream"))?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message.into())),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                    Ok(None)
                }
                kind => Err(BrokerError::Request(format!("reading message {sequence}: {kind}"))),
            },
        }
    }

    /// Publishes once and waits until `stream` has it. Not again and again, as services do: a person looks on, and can.
    /// Nor is a missing stream created, for which the limits of the deployment would be needed.
    async fn store(&self, message: Outgoing, stream: &'static str) -> Result<u64, BrokerError> {
        let subject = message.subject;
        let publish = PublishMessage::build().payload(message.payload).headers(message.headers);
        let told = |error: &(dyn std::error::Error + 'static)| {
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            BrokerError::Request(format!("{subject} is not known to be stored in {stream}: {error}{cause}"))
        };
        let sent = self.broker.inner.jetstream.send_publish(subject, publish).await.map_err(|error| told(&error))?;
        let stored = sent.await.map_err(|error| told(&error))?;
        // Compared here and not by the server: its header for that would become part of the event.
        if stored.stream != stream {
            return Err(BrokerError::Request(format!("{subject} is stored in {} instead of {stream}", stored.stream)));
        }
        Ok(stored.sequence)
    }

    async fn delete(&self, sequence: u64) -> Result<(), GraveyardError> {
        let jetstream = &self.broker.inner.jetstream;
        let stream = jetstream.get_stream_no_info(DEAD_LETTERS).await.map_err(request_error("the dead letters"))?;
        let why = match stream.delete_message(sequence).await {
            Ok(true) => return Ok(()),
            Ok(false) => "the server does not say why".to_owned(),
            Err(error) => error.to_string(),
        };
        // Somebody else may have done the same at the same time, or the answer alone was lost.
        if self.found(DEAD_LETTERS, sequence).await?.is_none() {
            return Ok(());
        }
        Err(BrokerError::Request(format!("dead letter {sequence} is done but is still there: {why}")).into())
    }
}

/// What the log says about a letter: all its headers, and who did what and why.
fn record(subject: &'static str, letter: &Letter, note: &Note, stored: Option<u64>, payload: Bytes) -> Outgoing {
    let mut headers: HeaderMap = without_orders(&letter.headers);
    headers.insert(LOG_WHO.clone(), header_text(cut(&note.who, MAX_WHO_BYTES)));
    headers.insert(LOG_WHEN.clone(), rfc3339_now());
    headers.insert(LOG_WHY.clone(), header_text(cut(&note.why, MAX_WHY_BYTES)));
    headers.insert(LOG_SEQUENCE.clone(), letter.sequence.to_string());
    if let Some(stored) = stored {
        headers.insert(LOG_STORED.clone(), stored.to_string());
    }
    Outgoing { subject, headers, payload }
}

/// At most `bytes` of the text, and no half character.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

impl LogEntry {
    fn read(found: Found) -> Self {
        let (sequence, time, subject) = (found.sequence, found.time, found.subject.clone());
        let mut letter = Letter::read(found);
        letter.sequence = number(&letter.headers, &LOG_SEQUENCE);
        let text = |name| text(&letter.headers, name);
        Self {
            sequence,
            time: text(&LOG_WHEN).unwrap_or_else(|| time.format(&Rfc3339).unwrap_or_default()),
            action: subject.rsplit('.').next().unwrap_or_default().to_owned(),
            who: text(&LOG_WHO).unwrap_or_default(),
            why: text(&LOG_WHY).unwrap_or_default(),
            stored_sequence: text(&LOG_STORED).and_then(|stored| stored.parse().ok()),
            letter,
        }
    }
}

/// The server's JSON, as far as it matters.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AdvisoryBody {
    timestamp: String,
    stream_seq: u64,
    deliveries: u64,
    reason: Option<String>,
}

impl Advisory {
    fn read(found: &Found) -> Self {
        // `$JS.EVENT.ADVISORY.CONSUMER.<kind>.<stream>.<consumer>`
        let mut tokens = found.subject.split('.').skip(4);
        let kind = match tokens.next() {
            Some("MSG_TERMINATED") => "terminated".to_owned(),
            other => other.unwrap_or_default().to_lowercase(),
        };
        let body: AdvisoryBody = serde_json::from_slice(&found.payload).unwrap_or_default();
        let stored = || found.time.format(&Rfc3339).unwrap_or_default();
        Self {
            sequence: found.sequence,
            time: Some(body.timestamp).filter(|time| !time.is_empty()).unwrap_or_else(stored),
            kind,
            consumer: tokens.nth(1).unwrap_or_default().to_owned(),
            stream_sequence: body.stream_seq,
            deliveries: body.deliveries,
            reason: body.reason,
        }
    }
}
