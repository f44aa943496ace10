//! Dead letters: what could not be understood, kept with the reason for a person to look at.

use async_nats::header::{HeaderMap, HeaderName};

use crate::message::{Outgoing, header_text, headers_wire_len, rfc3339_now};
use crate::pull::{Delivery, delivery};
use crate::topology::Durable;

pub(crate) static REASON: HeaderName = HeaderName::from_static("dead-reason");
pub(crate) static SUBJECT: HeaderName = HeaderName::from_static("dead-subject");
pub(crate) static STREAM: HeaderName = HeaderName::from_static("dead-stream");
pub(crate) static SEQUENCE: HeaderName = HeaderName::from_static("dead-sequence");
pub(crate) static CONSUMER: HeaderName = HeaderName::from_static("dead-consumer");
pub(crate) static DELIVERED: HeaderName = HeaderName::from_static("dead-delivered");
pub(crate) static TIME: HeaderName = HeaderName::from_static("dead-time");
pub(crate) static TRUNCATED: HeaderName = HeaderName::from_static("dead-truncated-from-bytes");
pub(crate) static HEADERS_DROPPED: HeaderName = HeaderName::from_static("dead-headers-dropped-bytes");

/// Longest reason. It names what is wrong; the payload beside it has the rest.
const MAX_REASON_CHARS: usize = 1_000;

/// Original headers beyond this are not copied: no event has as many, and the payload is worth more.
const MAX_COPIED_HEADER_BYTES: usize = 16 * 1024;

/// Room that a letter leaves for what the log adds to it when somebody drops it (see [`crate::graveyard`]).
pub(crate) const LOG_ROOM_BYTES: usize = 2 * 1024;

/// The dead letter of a message. It always fits: `max_payload` of the server limits headers and payload together, so a
/// payload that leaves no room for our headers, and later for those of the log, is cut, and the letter says so.
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
    let limit = max_payload.saturating_sub(LOG_ROOM_BYTES);
    if letter.wire_len() > limit {
        letter.headers.insert(TRUNCATED.clone(), letter.payload.len().to_string());
        let room = limit.saturating_sub(headers_wire_len(&letter.headers));
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
    without_orders(original)
}

/// A copy of the headers in which `Nats-…` ones are renamed to `dead-Nats-…`.
pub(crate) fn without_orders(original: &HeaderMap) -> HeaderMap {
    let mut copy = HeaderMap::new();
    for (name, values) in original.iter() {
        let text: &str = name.as_ref();
        let name =
            if is_order(text) { format!("dead-{text}").parse().unwrap_or_else(|_| name.clone()) } else { name.clone() };
        for value in values {
            copy.append(name.clone(), value.clone());
        }
    }
    copy
}

/// Whether a header of this name is an order to the server.
pub(crate) fn is_order(name: &str) -> bool {
    has_prefix(name, "nats-")
}

/// Whether a header of this name is ours, said about a dead letter.
pub(crate) fn is_ours(name: &str) -> bool {
    has_prefix(name, "dead-")
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
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
        let letter = dead_letter(&message("{".into(), None), Durable::Payment, "not\r\nJSON", 5_000);
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
        assert_eq!(letter.wire_len(), 5_000 - LOG_ROOM_BYTES);
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
