//! Reading the stream of events without a consumer, which nobody but the keeper of the topology may create: batched direct gets (ADR-31).
//!
//! Any replica of the stream answers those, also one that lags behind. So whoever reads asks the leader how far there is something to
//! read, and reads on until that was met.

use std::time::Duration;

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::broker::{ANSWER_PATIENCE, Broker, BrokerError, bounded, request_error};
use crate::topology::CHECKOUT;

/// Messages that are read at once.
const PAGE: usize = 256;
/// Before a replica of the stream that lags is asked again.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// The server's error for a stream that is not there: what is deleted tells nothing any more.
const NO_STREAM: u16 = 10059;
/// The server's error for a message that is not there.
const NO_MESSAGE: u16 = 10037;

/// The next messages from the sequence `from` on of which the subject matches; none, where whoever answers has none.
pub(crate) async fn page(broker: &Broker, from: u64, subjects: &str) -> Result<Vec<Message>, BrokerError> {
    let client = &broker.inner.client;
    let inbox = client.new_inbox();
    let mut subscriber = client.subscribe(inbox.clone()).await.map_err(request_error("subscribe"))?;
    let question = serde_json::json!({ "seq": from, "batch": PAGE, "next_by_subj": subjects });
    client
        .publish_with_reply(format!("$JS.API.DIRECT.GET.{CHECKOUT}"), inbox, Bytes::from(question.to_string()))
        .await
        .map_err(request_error("the stream cannot be read"))?;
    let mut page = Vec::with_capacity(PAGE);
    loop {
        let message = bounded(ANSWER_PATIENCE, subscriber.next()).await.flatten();
        let message = message.ok_or_else(|| BrokerError::Request("the stream cannot be read: no answer".into()))?;
        match message.status.filter(|status| *status != StatusCode::OK) {
            None => page.push(message),
            // The end of the batch, or nothing there.
            Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => return Ok(page),
            Some(status) => {
                let why = message.description.as_deref().unwrap_or("no description");
                return Err(BrokerError::Request(format!("the stream cannot be read: {status}: {why}")));
            }
        }
    }
}

/// The text of a header.
pub(crate) fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}

/// The place in the stream of a message that was read.
pub(crate) fn sequence(message: &Message) -> Option<u64> {
    header(message, "Nats-Sequence")?.parse().ok()
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
    err_code: u16,
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
