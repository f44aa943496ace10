//! Reading the stream of events without a consumer, which nobody but the keeper of the topology may create: message by message from the leader
//! (`STREAM.MSG.GET`), many at once.
//!
//! Not by direct gets (ADR-31), though they give whole batches: the server sends a message as it is to where the question wants its answer,
//! and with rights of its own. Who may ask so could have it say, in another's name, what they have stored in their own. What is
//! got this way is wrapped in an answer of the API, and means nothing to anybody else.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::broker::{Broker, BrokerError, request_error};
use crate::topology::CHECKOUT;

/// Messages that are asked for at once.
const PAGE: u64 = 256;
/// Before a leader that has not caught up with its predecessor is asked again.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// The server's error for a stream that is not there: what is deleted tells nothing any more.
const NO_STREAM: u64 = 10059;
/// The server's error for a message that is not there.
const NO_MESSAGE: u64 = 10037;

/// Messages of the stream, in their order.
pub(crate) struct Page {
    /// Those whose subjects matter.
    pub messages: Vec<StreamMessage>,
    /// Where the next page begins.
    pub next: u64,
}

/// The next messages from the sequence `from` on of which the subject begins with this; nothing, where there are none.
pub(crate) async fn page(broker: &Broker, from: u64, subjects: &str) -> Result<Option<Page>, BrokerError> {
    let stream = broker.inner.jetstream.get_stream_no_info(CHECKOUT).await.map_err(request_error("the stream"))?;
    let first = stream.get_first_raw_message_by_subject(format!("{subjects}>"), from).await;
    let Some(first) = found(first)? else { return Ok(None) };
    let rest = stream::iter(first.sequence + 1..first.sequence + PAGE);
    let rest = rest.map(|sequence| stream.get_raw_message(sequence)).buffered(PAGE as usize).map(found);
    let mut messages = vec![first];
    messages.extend(rest.try_collect::<Vec<_>>().await?.into_iter().flatten());
    // Not behind the last place that was asked about: a message may be stored there by now.
    let next = messages.last().map_or(from, |last| last.sequence + 1);
    messages.retain(|message| message.subject.starts_with(subjects));
    Ok(Some(Page { messages, next }))
}

/// The message, or nothing where there is none.
fn found(answer: Result<StreamMessage, RawMessageError>) -> Result<Option<StreamMessage>, BrokerError> {
    match answer.as_ref().map_err(RawMessageError::kind) {
        Ok(_) => Ok(answer.ok()),
        Err(LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(LastRawMessageErrorKind::JetStream(error)) if [NO_MESSAGE, NO_STREAM].contains(&error.error_code().0) => {
            Ok(None)
        }
        Err(kind) => Err(BrokerError::Request(format!("the stream cannot be read: {kind}"))),
    }
}

/// The text of a header.
pub(crate) fn header<'a>(message: &'a StreamMessage, name: &str) -> Option<&'a str> {
    message.headers.get(name).map(async_nats::HeaderValue::as_str)
}

/// Where a message lies, and since when.
pub(crate) struct Found {
    pub sequence: u64,
    pub stored_at_ns: Option<u64>,
}

#[derive(Deserialize)]
struct Answer {
    message: Option<Stored>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
    time: String,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// A message of the stream, as its leader knows it.
pub(crate) async fn ask_leader(broker: &Broker, question: &serde_json::Value) -> Result<Option<Found>, BrokerError> {
    let failed = request_error("the stream cannot be asked");
    let subject = format!("$JS.API.STREAM.MSG.GET.{CHECKOUT}");
    let request = broker.inner.client.request(subject, Bytes::from(question.to_string()));
    let reply = request.await.map_err(|error| failed(error.to_string()))?;
    let answer: Answer = serde_json::from_slice(&reply.payload).map_err(|error| failed(error.to_string()))?;
    match (answer.message, answer.error) {
        (Some(Stored { seq, time }), _) => {
            let time = OffsetDateTime::parse(&time, &Rfc3339).ok();
            let stored_at_ns = time.and_then(|time| u64::try_from(time.unix_timestamp_nanos()).ok());
            Ok(Some(Found { sequence: seq, stored_at_ns }))
        }
        (None, Some(Refusal { err_code: NO_STREAM | NO_MESSAGE, .. })) => Ok(None),
        (None, Some(refusal)) => Err(failed(refusal.description)),
        (None, None) => Err(failed("an answer without a message".to_owned())),
    }
}
