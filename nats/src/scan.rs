//! Reading a stream from either end, for people who look into it: a bounded piece at a time, and never a consumer left behind
//! for longer than a moment.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Info, Stream};
use bytes::Bytes;
use futures::StreamExt;
use time::OffsetDateTime;

use crate::broker::{Broker, BrokerError, bounded, request_error};

/// Messages asked for at once.
const FETCH: usize = 500;

/// Sequences of the first piece that is read from the new end. Each further piece is four times as long, so that a short list
/// costs little and a rare match is still found soon.
const FIRST_PIECE: u64 = 512;

/// A consumer of ours that was not deleted, because this process died, goes away after this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// Which end of a stream comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    Newest,
    /// Oldest first.
    Oldest,
}

/// A message as it lies in a stream.
pub(crate) struct Found {
    pub sequence: u64,
    pub subject: String,
    pub time: OffsetDateTime,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

impl From<StreamMessage> for Found {
    fn from(message: StreamMessage) -> Self {
        Self {
            sequence: message.sequence,
            subject: message.subject.to_string(),
            time: message.time,
            headers: message.headers,
            payload: message.payload,
        }
    }
}

/// What of a stream is read.
pub(crate) struct Scan<'a> {
    pub stream: &'a str,
    /// Only messages of this subject.
    pub subject: Option<&'a str>,
    /// Payloads are left where they are.
    pub headers_only: bool,
}

impl Scan<'_> {
    /// The first `limit` messages, in this order, of which `keep` makes something. What is stored after the call began is not
    /// looked at, so this ends also when what it is read for makes the stream grow.
    pub(crate) async fn read<T>(
        &self,
        broker: &Broker,
        order: Order,
        limit: usize,
        keep: impl Fn(Found) -> Option<T>,
    ) -> Result<Vec<T>, BrokerError> {
        let stream = broker.inner.jetstream.get_stream(self.stream).await.map_err(request_error("the stream"))?;
        let Info { state, .. } = stream.cached_info();
        let (first, mut last) = (state.first_sequence, state.last_sequence);
        let mut kept = Vec::new();
        if state.messages == 0 || limit == 0 {
            return Ok(kept);
        }
        if order == Order::Oldest {
            self.piece(broker, &stream, first, last, |found| {
                kept.extend(keep(found));
                kept.len() < limit
            })
            .await?;
            return Ok(kept);
        }
        let mut length = FIRST_PIECE;
        loop {
            let from = (last + 1).saturating_sub(length).max(first);
            let mut piece = Vec::new();
            self.piece(broker, &stream, from, last, |found| {
                piece.extend(keep(found));
                true
            })
            .await?;
            kept.extend(piece.into_iter().rev().take(limit - kept.len()));
            if kept.len() >= limit || from <= first {
                return Ok(kept);
            }
            last = from - 1;
            length = length.saturating_mul(4);
        }
    }

    /// The newest `most` messages, oldest of them first, without those that are stored after the call began.
    pub(crate) async fn newest(
        &self,
        broker: &Broker,
        most: u64,
        mut take: impl FnMut(Found),
    ) -> Result<(), BrokerError> {
        let stream = broker.inner.jetstream.get_stream(self.stream).await.map_err(request_error("the stream"))?;
        let Info { state, .. } = stream.cached_info();
        if state.messages == 0 || most == 0 {
            return Ok(());
        }
        let from = (state.last_sequence + 1).saturating_sub(most).max(state.first_sequence);
        self.piece(broker, &stream, from, state.last_sequence, |found| {
            take(found);
            true
        })
        .await
    }

    /// Gives the messages from `from` to `to` to `take`, in their order, until it has enough.
    async fn piece(
        &self,
        broker: &Broker,
        stream: &Stream,
        from: u64,
        to: u64,
        take: impl FnMut(Found) -> bool,
    ) -> Result<(), BrokerError> {
        let config = pull::Config {
            description: Some("somebody looks into the stream".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            filter_subject: self.subject.unwrap_or_default().to_owned(),
            headers_only: self.headers_only,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: FORGOTTEN_AFTER,
            ..pull::Config::default()
        };
        let mut consumer = stream.create_consumer(config).await.map_err(request_error("the stream cannot be read"))?;
        let result = self.drain(broker, &mut consumer, to, take).await;
        let _ = stream.delete_consumer(&consumer.cached_info().name).await;
        result
    }

    async fn drain(
        &self,
        broker: &Broker,
        consumer: &mut Consumer<pull::Config>,
        to: u64,
        mut take: impl FnMut(Found) -> bool,
    ) -> Result<(), BrokerError> {
        let mut pending = consumer.cached_info().num_pending;
        while pending > 0 {
            let fetch = consumer.fetch().max_messages(FETCH).messages();
            let mut batch = fetch.await.map_err(request_error("the stream cannot be read"))?;
            let mut nothing = true;
            while let Some(message) = bounded(broker.inner.waits.answer, batch.next())
                .await
                .ok_or_else(|| BrokerError::Request(format!("stream {}: no answer", self.stream)))?
            {
                let message = message.map_err(request_error("the stream cannot be read"))?;
                let info = message.info().map_err(request_error("the stream cannot be read"))?;
                let (sequence, time) = (info.stream_sequence, info.published);
                if sequence > to {
                    return Ok(());
                }
                pending = info.pending;
                nothing = false;
                let (message, _) = message.split();
                let found = Found {
                    sequence,
                    subject: message.subject.to_string(),
                    time,
                    headers: message.headers.unwrap_or_default(),
                    payload: message.payload,
                };
                if !take(found) || sequence == to {
                    return Ok(());
                }
            }
            if nothing {
                // Others may have deleted what was still to come. If not, the answer is not complete and must not look so.
                pending = consumer.info().await.map_err(request_error("the stream cannot be read"))?.num_pending;
                if pending > 0 {
                    return Err(BrokerError::Request(format!(
                        "stream {}: {pending} messages do not come",
                        self.stream
                    )));
                }
            }
        }
        Ok(())
    }
}
