//! Hearing every event of the stream, in its order, also across the listener's death.
//!
//! The durable [`AUDITOR`] remembers the place: its acknowledgement floor is moved behind a message only after that was heard, and what came
//! of it was told. Whoever takes over is therefore given again what lies just *before* the floor (so that it knows what its predecessor knew),
//! then everything behind it, each once. Nothing is left waiting at the server but the messages in hand, however long a saga stays open.
//!
//! What the durable has handed out to somebody who died before saying so would come again only after `ack_wait`, behind newer messages. So
//! it is read from the stream first, and skipped when it comes.

use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::AckKind;
use bytes::Bytes;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::batch::answer_message;
use crate::broker::{Broker, BrokerError, request_error};
use crate::direct::{PAUSE, ask_leader, page};
use crate::message::decode;
use crate::outage::{Outage, pause};
use crate::pull::{Puller, Sign, position, waiting};
use crate::recall::Past;
use crate::scan::Found;
use crate::topology::{AUDITOR, CHECKOUT};

/// How often a listener that has heard everything is told so, because time passes for what it misses.
const CAUGHT_UP_EVERY: Duration = Duration::from_secs(1);

/// Hears the events of the stream.
pub trait Listen {
    /// A message from before the place that was reached: all that follows from it was told before.
    fn recall(&mut self, past: Past);
    /// The next message.
    fn hear(&mut self, past: Past);
    /// Everything that is there was heard. At least once a second while nothing happens.
    fn caught_up(&mut self);
    /// Nothing can be heard for now.
    fn deaf(&mut self);
}

/// How far the stream was heard, and which stream of this name it was.
#[derive(Debug, Clone, Copy)]
struct Reached {
    sequence: u64,
    born: OffsetDateTime,
}

impl Broker {
    /// Gives the stream to `listener` as the one who holds the durable [`AUDITOR`], until `stop`: at first up to `back` messages that were
    /// heard before, then what was not. While NATS is away, or somebody deletes stream or durable, it waits and tries again. Of two that do
    /// this at once each hears a part.
    pub async fn follow(&self, back: u64, listener: &mut impl Listen, stop: CancellationToken) {
        let outage = Outage::new("following the stream");
        let mut reached = None;
        let mut failures = 0;
        loop {
            let heard = async {
                self.connected().await;
                let puller = self.take_over(back, &mut reached, listener).await?;
                outage.over();
                failures = 0;
                Err::<(), _>(self.hear(puller, &mut reached, listener).await)
            };
            let end = tokio::select! {
                heard = heard => heard,
                () = stop.cancelled() => return,
            };
            if let Err(error) = end {
                listener.deaf();
                failures += 1;
                outage.failed(&error);
            }
            if tokio::time::timeout(pause(failures), stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Takes the durable, and hears what it has handed out already.
    async fn take_over(
        &self,
        back: u64,
        reached: &mut Option<Reached>,
        listener: &mut impl Listen,
    ) -> Result<Puller, BrokerError> {
        let stream = self.inner.jetstream.get_stream(CHECKOUT).await.map_err(request_error("the stream"))?;
        let born = stream.cached_info().created;
        let puller = Puller::bind(self, AUDITOR).await?;
        let durable = puller.consumer.cached_info();
        let (floor, delivered) = (durable.ack_floor.stream_sequence, durable.delivered.stream_sequence);
        let from = match *reached {
            Some(known) if known.born == born => known.sequence,
            Some(_) => 0,
            None => {
                self.read(floor.saturating_sub(back), floor, |past| listener.recall(past)).await?;
                floor
            }
        };
        *reached = Some(Reached { sequence: from, born });
        self.read(from, delivered, |past| {
            *reached = Some(Reached { sequence: past.sequence, born });
            listener.hear(past);
        })
        .await?;
        Ok(puller)
    }

    /// Gives the messages behind `from`, up to `to`, to `take`.
    async fn read(&self, from: u64, to: u64, mut take: impl FnMut(Past)) -> Result<(), BrokerError> {
        let mut next = from + 1;
        while next <= to {
            let Some(page) = page(self, next, "").await? else {
                // Another leader has not caught up yet, or there is no more.
                let question = serde_json::json!({ "seq": next, "next_by_subj": ">" });
                if ask_leader(self, &question).await?.is_none_or(|found| found.sequence > to) {
                    return Ok(());
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let pasts = page.messages.into_iter().map(|message| Past::from(Found::from(message)));
            pasts.filter(|past| past.sequence <= to).for_each(&mut take);
            next = page.next;
        }
        Ok(())
    }

    /// Hears what comes; returns why it came to an end.
    async fn hear(&self, mut puller: Puller, reached: &mut Option<Reached>, listener: &mut impl Listen) -> BrokerError {
        let lost = self.times_lost();
        let disconnected = self.disconnected(lost);
        tokio::pin!(disconnected);
        let mut behind = puller.consumer.cached_info().num_pending;
        let mut tick = tokio::time::interval(CAUGHT_UP_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ended = |why: String| BrokerError::Request(why);
        loop {
            if let Err(error) = puller.top_up(0).await {
                return error;
            }
            let sign = tokio::select! {
                sign = puller.next() => sign,
                _ = tick.tick() => {
                    if puller.is_overdue() {
                        return ended("the server has stopped to answer".to_owned());
                    }
                    if behind == 0 {
                        listener.caught_up();
                    }
                    continue;
                }
                () = &mut disconnected => return ended("the connection was lost".to_owned()),
            };
            let mut next = Some(sign);
            let mut heard = None;
            while let Some(sign) = next {
                match sign {
                    Sign::Message(message) => {
                        behind = waiting(&message).unwrap_or(behind);
                        if let Some((past, known)) = delivered(&message).zip(reached.as_mut())
                            && past.sequence > known.sequence
                        {
                            known.sequence = past.sequence;
                            listener.hear(past);
                        }
                        heard = Some(message);
                    }
                    Sign::Note => {}
                    Sign::Lost(why) => return ended(why),
                }
                next = puller.next_ready();
            }
            // All up to the last one at once, now that it is told what came of them.
            if let Some(message) = heard {
                answer_message(self, &message, Bytes::from(AckKind::Ack)).await;
            }
        }
    }
}

fn delivered(message: &Message) -> Option<Past> {
    let position = position(message)?;
    Some(Past { sequence: position.sequence, at_ms: position.stored_at_ns / 1_000_000, event: decode(message) })
}
