//! Pulling: asks the server for messages ahead of need, and reads what it says about them.
//!
//! The client library has a stream for this (`consumer.stream()`), which is not used for three reasons: it asks for more
//! whenever it is polled, so what the server is still sending at a shutdown cannot be collected and handed back; after a
//! reconnect beside other instances it can believe that a request is pending which died with the connection, and stalls
//! until that would have expired; and it copies the whole client into each message.

use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::{Message, StatusCode, Subject, Subscriber};
use common::limits::MAX_CONSUMER_BATCH;
use common::redis::Position;
use futures::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::broker::{ANSWER_PATIENCE, Broker, BrokerError, bounded, request_error};
use crate::topology::CHECKOUT;

/// How long a request stays open at the server. At a shutdown no further one is sent and the end of the open ones is
/// awaited, so that nothing which the server has sent is left lying here until its `ack_wait` is over. One short message
/// per second and idle instance is the price.
pub(crate) const EXPIRES: Duration = Duration::from_secs(1);

/// Silence after the expiry of a request that means it is lost: the server answers each one, if only to say that it is over.
const GRACE: Duration = Duration::from_secs(3);

/// Messages asked for ahead: one batch arrives while the one before is taken.
const AHEAD: usize = 2 * MAX_CONSUMER_BATCH;

/// What the server said.
pub(crate) enum Sign {
    /// A message of the stream.
    Message(Message),
    /// Something about a request.
    Note,
    /// This subscription will bring nothing any more.
    Lost(String),
}

/// An open subscription to a durable.
pub(crate) struct Puller {
    /// As it was when this began.
    pub(crate) consumer: Consumer<pull::Config>,
    subscriber: Subscriber,
    inbox: Subject,
    /// Messages asked for that have neither come nor been called off.
    outstanding: usize,
    last_sign: Instant,
}

impl Puller {
    /// Subscribes. The durable must exist.
    pub(crate) async fn bind(broker: &Broker, durable: &str) -> Result<Self, BrokerError> {
        let jetstream = &broker.inner.jetstream;
        let consumer = jetstream
            .get_consumer_from_stream::<pull::Config, _, _>(durable, CHECKOUT)
            .await
            .map_err(request_error("the durable cannot be read"))?;
        let client = &broker.inner.client;
        let inbox = Subject::from(client.new_inbox());
        let subscriber = client.subscribe(inbox.clone()).await.map_err(request_error("subscribe"))?;
        Ok(Self { consumer, subscriber, inbox, outstanding: 0, last_sign: Instant::now() })
    }

    /// Asks for as much as there is room for beside `held` messages that wait here already.
    pub(crate) async fn top_up(&mut self, held: usize) -> Result<(), BrokerError> {
        let room = AHEAD.saturating_sub(self.outstanding + held);
        // Small requests cost the server as much as large ones.
        if room < MAX_CONSUMER_BATCH {
            return Ok(());
        }
        let request = pull::BatchConfig { batch: room, expires: Some(EXPIRES), ..pull::BatchConfig::default() };
        bounded(ANSWER_PATIENCE, self.consumer.request_batch(request, self.inbox.clone()))
            .await
            .ok_or_else(|| BrokerError::Request("pull: the connection takes no more".to_owned()))?
            .map_err(request_error("pull"))?;
        if self.outstanding == 0 {
            self.last_sign = Instant::now();
        }
        self.outstanding += room;
        Ok(())
    }

    /// The next sign of the server.
    pub(crate) async fn next(&mut self) -> Sign {
        match self.subscriber.next().await {
            Some(message) => self.read(message),
            None => Sign::Lost("the connection is closed".to_owned()),
        }
    }

    /// The next sign, if there is one already.
    pub(crate) fn next_ready(&mut self) -> Option<Sign> {
        let message = self.subscriber.next().now_or_never()??;
        Some(self.read(message))
    }

    /// Whether the server still owes an answer.
    pub(crate) fn expects_more(&self) -> bool {
        self.outstanding > 0
    }

    /// Whether the answer is overdue.
    pub(crate) fn is_overdue(&self) -> bool {
        self.outstanding > 0 && self.last_sign.elapsed() > EXPIRES + GRACE
    }

    fn read(&mut self, message: Message) -> Sign {
        self.last_sign = Instant::now();
        let Some(status) = message.status.filter(|status| *status != StatusCode::OK) else {
            self.outstanding = self.outstanding.saturating_sub(1);
            return Sign::Message(message);
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            return Sign::Note;
        }
        // The end of one request says how much of it was left.
        let called_off = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
        match called_off.and_then(|count| count.as_str().parse::<usize>().ok()) {
            Some(count) if status == StatusCode::TIMEOUT || status == StatusCode::NOT_FOUND => {
                self.outstanding = self.outstanding.saturating_sub(count);
                Sign::Note
            }
            // Deleted, moved, stopped, or a request that the server does not accept: begin anew, after a pause.
            _ => Sign::Lost(format!("{status}: {}", message.description.as_deref().unwrap_or("no description"))),
        }
    }
}

/// What the subject for acknowledgements tells about a delivery.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery<'a> {
    pub stream: &'a str,
    /// 1 for the first time.
    pub delivered: i64,
    /// In the stream.
    pub sequence: u64,
}

/// The parts of `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<sequence>.<of the consumer>.<time>.<waiting>` (ADR-15)
/// from the stream on.
fn parts(message: &Message) -> Option<impl Iterator<Item = &str>> {
    let rest = message.reply.as_ref()?.strip_prefix("$JS.ACK.")?;
    let before_stream = if rest.bytes().filter(|b| *b == b'.').count() > 6 { 2 } else { 0 };
    Some(rest.split('.').skip(before_stream))
}

/// Reads the subject for acknowledgements.
pub(crate) fn delivery(message: &Message) -> Option<Delivery<'_>> {
    let mut parts = parts(message)?;
    let (stream, _consumer) = (parts.next()?, parts.next()?);
    Some(Delivery { stream, delivered: parts.next()?.parse().ok()?, sequence: parts.next()?.parse().ok()? })
}

/// The place in the stream of a message that was delivered, and when it was stored there.
pub(crate) fn position(message: &Message) -> Option<Position> {
    let sequence = delivery(message)?.sequence;
    Some(Position { sequence, stored_at_ns: parts(message)?.nth(5)?.parse().ok()? })
}

/// How many messages wait for the durable behind this one.
pub(crate) fn waiting(message: &Message) -> Option<u64> {
    parts(message)?.nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_acknowledgement_subjects_are_read() {
        let of = |reply: &str| {
            let message = Message {
                subject: "s".into(),
                reply: Some(reply.into()),
                payload: bytes::Bytes::new(),
                headers: None,
                status: None,
                description: None,
                length: 0,
            };
            let place = (position(&message), waiting(&message));
            delivery(&message).map(|d| (d.stream.to_owned(), d.delivered, d.sequence, place))
        };
        let place = Position { sequence: 100, stored_at_ns: 1_790_230_470_084_404_000 };
        let expected = Some(("CHECKOUT".to_owned(), 3, 100, (Some(place), Some(42))));
        assert_eq!(of("$JS.ACK.CHECKOUT.stock.3.100.7.1790230470084404000.42"), expected);
        assert_eq!(of("$JS.ACK._.hash.CHECKOUT.stock.3.100.7.1790230470084404000.42"), expected);
        assert_eq!(of("$JS.ACK.hub.hash.CHECKOUT.stock.3.100.7.1790230470084404000.42.token"), expected);
        assert_eq!(of("_INBOX.x"), None);
    }
}
