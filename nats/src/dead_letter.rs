//! Dead letters: what could not be understood, kept with the reason for a person to look at.

use async_nats::header::{HeaderMap, HeaderName};

use crate::message::{Outgoing, header_text, headers_wire_len, rfc3339_now};
use crate::pull::{Delivery, delivery};
use crate::topology::Durable;

static REASON: HeaderName = HeaderName::from_static("dead-reason");
static SUBJECT: HeaderName = HeaderName::from_static("dead-subject");
static STREAM: HeaderName = HeaderName::from_static("dead-stream");
static SEQUENCE: HeaderName = HeaderName::from_static("dead-sequence");
static CONSUMER: HeaderName = HeaderName::from_static("dead-consumer");
static DELIVERED: HeaderName = HeaderName::from_static("dead-delivered");
static TIME: HeaderName = HeaderName::from_static("dead-time");
static TRUNCATED: HeaderName = HeaderName::from_static("dead-truncated-from-bytes");
static HEADERS_DROPPED: HeaderName = HeaderName::from_static("dead-headers-dropped-bytes");

/// Longest reason. It names what is wrong; the payload beside it has the rest.
const MAX_REASON_CHARS: usize = 1_000;

/// Original headers beyond this are not copied: no event has as many, and the payload is worth more.
const MAX_COPIED_HEADER_BYTES: usize = 16 * 1024;

/// The dead letter of a message. It always fits: `max_payload` of the server limits headers and payload together, so a
/// payload that leaves no room for our headers is cut, and the letter says so.
pub(crate) fn dead_letter(
    message: &async_nats::Message,
    durable: Durable,
    reason: &str,
    max_payload: usize,
) -> Outgoing {
    let mut headers = copied_headers(message);
    let Delivery { stream, delivered, sequence } = delivery(message).unwrap_or_default();
    headers.insert(REASON.clone(), header_text(&reason.chars().take(MAX_REASON_CHARS).collect::<String>()));
    headers.insert(SUBJECT.clone(), header_text(&message.subject));
    headers.insert(STREAM.clone(), header_text(stream));
    headers.insert(SEQUENCE.clone(), sequence.to_string());
    headers.insert(CONSUMER.clone(), durable.name());
    headers.insert(DELIVERED.clone(), delivered.to_string());
    headers.insert(TIME.clone(), rfc3339_now());
    let mut letter = Outgoing { subject: durable.dead_letter_subject(), headers, payload: message.payload.clone() };
    if letter.wire_len() > max_payload {
        letter.headers.insert(TRUNCATED.clone(), letter.payload.len().to_string());
        let room = max_payload.saturating_sub(headers_wire_len(&letter.headers));
        letter.payload.truncate(room);
    }
    letter
}

/// The original headers, so that the letter can be published again as it was. `Nats-…` headers are orders to the server
/// (expected sequences, roll-ups, expiry): obeyed for the letter, they could keep it from ever being stored, so they are
/// renamed.
fn copied_headers(message: &async_nats::Message) -> HeaderMap {
    let mut copy = HeaderMap::new();
    let Some(original) = &message.headers else { return copy };
    let bytes = headers_wire_len(original);
    if bytes > MAX_COPIED_HEADER_BYTES {
        copy.insert(HEADERS_DROPPED.clone(), bytes.to_string());
        return copy;
    }
    for (name, values) in original.iter() {
        let text: &str = name.as_ref();
        let name = if text.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("nats-")) {
            format!("dead-{text}").parse().unwrap_or_else(|_| name.clone())
        } else {
            name.clone()
        };
        for value in values {
            copy.append(name.clone(), value.clone());
        }
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(payload: Bytes, headers: Option<HeaderMap>) -> async_nats::Message {
        async_nats::Message {
            subject: "checkout.started".into(),
            reply: Some("$JS.ACK.CHECKOUT.payment.3.17.20.1790230470084404000.5".into()),
            payload,
            headers,
            status: None,
            description: None,
            length: 0,
        }
    }

    fn header<'a>(letter: &'a Outgoing, name: &str) -> Option<&'a str> {
        letter.headers.get(name).map(|value| value.as_str())
    }

    #[test]
    fn a_letter_says_what_it_was_and_why_it_is_dead() {
        let letter = dead_letter(&message("{".into(), None), Durable::Payment, "not\r\nJSON", 1_000);
        assert_eq!((letter.subject, letter.payload.as_ref()), ("dead.payment", b"{".as_slice()));
        assert_eq!(header(&letter, "dead-reason"), Some("not  JSON"));
        assert_eq!(header(&letter, "dead-subject"), Some("checkout.started"));
        assert_eq!(header(&letter, "dead-stream"), Some("CHECKOUT"));
        assert_eq!(header(&letter, "dead-sequence"), Some("17"));
        assert_eq!(header(&letter, "dead-consumer"), Some("payment"));
        assert_eq!(header(&letter, "dead-delivered"), Some("3"));
        assert_eq!(header(&letter, "dead-truncated-from-bytes"), None);
    }

    #[test]
    fn a_letter_always_fits() {
        let full = Bytes::from(vec![b'x'; 5_000]);
        let letter = dead_letter(&message(full, None), Durable::Stock, &"why ".repeat(100), 5_000);
        assert_eq!(letter.wire_len(), 5_000);
        assert_eq!(header(&letter, "dead-truncated-from-bytes"), Some("5000"));
        let mut many = HeaderMap::new();
        many.insert("long", "y".repeat(MAX_COPIED_HEADER_BYTES));
        let letter = dead_letter(&message("z".into(), Some(many)), Durable::Stock, "why", 5_000);
        assert!(letter.wire_len() < 1_000);
        assert!(header(&letter, "dead-headers-dropped-bytes").is_some());
    }

    #[test]
    fn orders_to_the_server_are_not_given_again() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", "999");
        headers.insert("ce-id", "5.k3.0/checkout.started/0");
        let letter = dead_letter(&message("z".into(), Some(headers)), Durable::Order, "why", 5_000);
        assert_eq!(header(&letter, "Nats-Expected-Last-Sequence"), None);
        assert_eq!(header(&letter, "dead-Nats-Expected-Last-Sequence"), Some("999"));
        assert_eq!(header(&letter, "ce-id"), Some("5.k3.0/checkout.started/0"));
    }
}
