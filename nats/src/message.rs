//! Events as NATS messages: CloudEvents 1.0 in the binary mode of its NATS binding (attributes as `ce-` headers, data as the
//! payload), so that `nats stream view` shows plain JSON and any CloudEvents reader understands it.

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use common::event::{Event, Poison};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

static CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
static CE_ID: HeaderName = HeaderName::from_static("ce-id");
static CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
static CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
static CE_TIME: HeaderName = HeaderName::from_static("ce-time");
static CE_SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
static CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A message that is ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub subject: &'static str,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

impl Outgoing {
    /// Bytes on the wire besides the subject: what `max_payload` of the server limits.
    pub(crate) fn wire_len(&self) -> usize {
        headers_wire_len(&self.headers) + self.payload.len()
    }
}

/// The length of a header block: `NATS/1.0`, a `name: value` line each, and an empty line.
pub(crate) fn headers_wire_len(headers: &HeaderMap) -> usize {
    let line = |(name, values): (&HeaderName, &Vec<HeaderValue>)| -> usize {
        values.iter().map(|value| AsRef::<[u8]>::as_ref(name).len() + value.as_str().len() + 4).sum()
    };
    12 + headers.iter().map(line).sum::<usize>()
}

/// What all messages of one publication share, made once for all of them.
pub(crate) struct Stamp {
    source: HeaderValue,
    time: HeaderValue,
}

impl Stamp {
    pub(crate) fn now(source: &HeaderValue) -> Self {
        Self { source: source.clone(), time: HeaderValue::from(rfc3339_now()) }
    }

    /// The event as a message.
    pub(crate) fn message(&self, event: &Event) -> Result<Outgoing, serde_json::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CE_SPECVERSION.clone(), "1.0");
        headers.insert(CE_ID.clone(), event.id());
        headers.insert(CE_TYPE.clone(), event.subject());
        headers.insert(CE_SOURCE.clone(), self.source.clone());
        headers.insert(CE_TIME.clone(), self.time.clone());
        headers.insert(CONTENT_TYPE.clone(), "application/json");
        if let Some(about) = event.about() {
            headers.insert(CE_SUBJECT.clone(), about);
        }
        if let Some(traceparent) = event.traceparent() {
            headers.insert(TRACEPARENT.clone(), traceparent.as_str());
        }
        Ok(Outgoing { subject: event.subject(), headers, payload: event.encode()?.into() })
    }
}

/// The event that a message carries. Its type is the subject: the `ce-type` header is for other readers.
pub(crate) fn decode(message: &async_nats::Message) -> Result<Event, Poison> {
    let traceparent = message.headers.as_ref().and_then(|headers| headers.get(TRACEPARENT.clone()));
    Event::decode(&message.subject, &message.payload, traceparent.map(HeaderValue::as_str))
}

/// The time as CloudEvents wants it.
pub(crate) fn rfc3339_now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}
