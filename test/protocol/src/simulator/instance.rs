//! One instance of a service: it takes batches from its durable and runs them as `nats/src/batch.rs` does. Each step can be
//! its last.

use common::event::{Event, SagaEvent};
use common::undo::State;
use nats::topology::Durable;

use super::World;
use super::reconciler::Reconciling;
use super::stream::{Delivery, Message};
use crate::glue::{Clocks, Outcome, Reaction};
use crate::ledger::Violation;
use crate::planted::Bug;

/// Batches that an instance has in flight.
const MAX_BATCHES: usize = 3;

/// One instance of a service.
#[derive(Debug)]
pub struct Instance {
    /// The service's durable.
    pub durable: Durable,
    /// Its name, which is also its inbox.
    pub name: String,
    /// Until when it is down or stands still.
    pub away_until_ms: u64,
    /// What it has in flight.
    pub batches: Vec<Batch>,
    /// What its reconciler is about; only of the order service.
    pub reconciling: Reconciling,
    /// When its reconciler looks again, and tells the watermark again.
    pub next_tick_ms: u64,
    /// See `next_tick_ms`.
    pub next_watermark_ms: u64,
}

/// Messages that run together.
#[derive(Debug)]
pub struct Batch {
    stage: Stage,
    deliveries: Vec<Delivery>,
    /// What is to be published, and of which message it came.
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Delivered; nothing is done yet.
    Received,
    /// The effects are durable.
    Decided,
    /// What came of them is stored.
    Published,
}

impl Batch {
    /// What was decided and not told is to be decided again.
    pub fn begin_again(&mut self) {
        if self.stage == Stage::Decided {
            self.stage = Stage::Received;
            self.events.clear();
        }
    }
}

impl World {
    /// Whether an instance is there and its durable can be reached.
    pub fn is_up(&self, instance: usize) -> bool {
        self.instances[instance].away_until_ms <= self.now_ms
    }

    /// An instance takes a batch, where it can and there is one. Says whether it did.
    pub fn fetch(&mut self, instance: usize) -> bool {
        let of = &self.instances[instance];
        if of.batches.len() >= MAX_BATCHES || self.stream_away_until_ms > self.now_ms {
            return false;
        }
        let (durable, most) = (of.durable, 1 + self.dice.index(6));
        let mut deliveries = self.stream.fetch(durable, most, self.now_ms, self.scenario.ack_wait_ms);
        let sent = deliveries.len();
        let lost = self.scenario.odds.delivery_lost;
        deliveries.retain(|_| !self.dice.chance(lost));
        self.count_by("deliveries lost", sent - deliveries.len());
        if deliveries.is_empty() {
            return sent > 0;
        }
        self.say(|world| {
            let ids: Vec<_> = deliveries.iter().map(|delivery| &*delivery.message.id).collect();
            format!("{} receives {}", world.instances[instance].name, ids.join(", "))
        });
        self.instances[instance].batches.push(Batch { stage: Stage::Received, deliveries, events: Vec::new() });
        true
    }

    /// Tells the broker that an instance still works on what it has.
    pub fn keep_alive(&mut self, instance: usize) {
        let due_ms = self.now_ms + self.scenario.ack_wait_ms;
        let of = &self.instances[instance];
        for delivery in of.batches.iter().flat_map(|batch| &batch.deliveries) {
            self.stream.keep_alive(of.durable, delivery.sequence, due_ms);
        }
    }

    /// Moves one of the instance's batches one step on. Says whether it could.
    pub fn step_batch(&mut self, instance: usize) -> Result<bool, Violation> {
        let of = &mut self.instances[instance];
        if of.batches.is_empty() {
            return Ok(false);
        }
        let batch = of.batches.swap_remove(self.dice.index(of.batches.len()));
        let stage = batch.stage;
        let next = match stage {
            Stage::Received => self.react_all(instance, batch)?,
            Stage::Decided => self.publish_batch(instance, batch)?,
            Stage::Published => self.acknowledge(instance, &batch),
        };
        let moved = next.as_ref().is_none_or(|batch| batch.stage != stage);
        self.instances[instance].batches.extend(next);
        Ok(moved)
    }

    /// Where a group of steps is cut off by a crash, if it is.
    fn cut(&mut self, steps: usize) -> Option<usize> {
        let odds = self.scenario.odds.crash_within;
        (steps > 0 && self.dice.chance(odds)).then(|| self.dice.index(steps + 1))
    }

    /// Decide and apply.
    fn react_all(&mut self, instance: usize, mut batch: Batch) -> Result<Option<Batch>, Violation> {
        let durable = self.instances[instance].durable;
        if self.is_database_away(durable) {
            return Ok(Some(batch));
        }
        let cut = self.cut(batch.deliveries.len());
        for delivery in batch.deliveries.iter().take(cut.unwrap_or(usize::MAX)) {
            let event = delivery.message.event();
            let event = event.map_err(|poison| Violation(format!("{}: {poison}", delivery.message.id)))?;
            let reaction = self.react(instance, &event)?;
            let reply_is_lost = self.dice.chance(self.scenario.odds.reply_lost);
            // The writer repeats the call, and only the second reply is seen.
            let reaction = if reply_is_lost { self.react(instance, &event)? } else { reaction };
            batch.events.extend(reaction.answer.unwrap_or_default());
        }
        self.databases.payment.write_records(cut.is_some() && durable == Durable::Payment);
        if cut.is_some() {
            self.crash(instance, "among its effects");
            return Ok(None);
        }
        if self.planted.is(Bug::AckBeforePublish) {
            for delivery in &batch.deliveries {
                self.stream.ack(durable, delivery.sequence);
            }
        }
        batch.stage = Stage::Decided;
        Ok(Some(batch))
    }

    fn publish_batch(&mut self, instance: usize, mut batch: Batch) -> Result<Option<Batch>, Violation> {
        if self.stream_away_until_ms > self.now_ms {
            return Ok(Some(batch));
        }
        let cut = self.cut(batch.events.len());
        let events = std::mem::take(&mut batch.events);
        for (n, event) in events.into_iter().enumerate() {
            if cut == Some(n) {
                break;
            }
            if !self.publish(&event)? {
                batch.events.push(event);
            }
        }
        if cut.is_some() {
            self.crash(instance, "among its publications");
            return Ok(None);
        }
        if batch.events.is_empty() {
            batch.stage = Stage::Published;
        }
        Ok(Some(batch))
    }

    fn acknowledge(&mut self, instance: usize, batch: &Batch) -> Option<Batch> {
        let cut = self.cut(batch.deliveries.len());
        for delivery in batch.deliveries.iter().take(cut.unwrap_or(usize::MAX)) {
            if self.dice.chance(self.scenario.odds.ack_lost) {
                self.count("acks lost");
            } else {
                self.stream.ack(self.instances[instance].durable, delivery.sequence);
            }
        }
        if cut.is_some() {
            self.crash(instance, "among its acknowledgements");
        }
        None
    }

    /// Stores an event. Says whether its publisher hears of it.
    pub fn publish(&mut self, event: &Event) -> Result<bool, Violation> {
        if let Event::Saga(SagaEvent { kind, saga, reason, .. }) = event {
            let fact = match (kind.subject(), reason) {
                ("checkout.completed", _) => Some(State::Completed),
                ("checkout.failed", Some(reason)) => Some(State::Failed(reason.clone())),
                _ => None,
            };
            if let Some(fact) = fact {
                self.ledger.told(saga, &fact, true)?;
            }
        }
        self.wait_before_publishing(event);
        self.say(|_| format!("stored: {}", event.id()));
        self.count("messages");
        self.stream.store(Message::of(event).map_err(Violation)?.into());
        let heard = !self.dice.chance(self.scenario.odds.confirmation_lost);
        self.count_by("confirmations lost", usize::from(!heard));
        Ok(heard)
    }

    /// One event, through the service's own decision, over its database, before the eyes of the observer.
    pub fn react(&mut self, instance: usize, event: &Event) -> Result<Reaction, Violation> {
        let durable = self.instances[instance].durable;
        let clocks = Clocks { order_ms: self.order_clock_ms(), instance_ms: self.now_ms };
        let (databases, retention_s) = (&mut self.databases, self.scenario.retention_s);
        let (reaction, seen) = self.ledger.react(databases, durable, event, clocks, retention_s);
        self.say(|world| format!("{}: {} -> {:?}", world.instances[instance].name, event.id(), reaction.outcome));
        seen?;
        self.count(what(&reaction.outcome));
        self.count_by("dead letters", usize::from(reaction.answer.is_err()));
        self.check_books()?;
        if let Some((state, inboxes)) = &reaction.told {
            self.wait_for_replica(durable);
            self.notify(event, state, inboxes)?;
        }
        Ok(reaction)
    }

    /// Ends an instance: what it held is held by nobody, and its clients hear nothing more.
    pub fn crash(&mut self, instance: usize, point: &'static str) {
        self.say(|world| format!("{} CRASHES {point}", world.instances[instance].name));
        self.count("crashes");
        self.forget_requests(instance);
        let back_ms = self.now_ms + self.dice.between(1, 3_000);
        let of = &mut self.instances[instance];
        of.batches.clear();
        of.reconciling = Reconciling::Idle;
        of.away_until_ms = back_ms;
    }
}

/// What an outcome is counted as.
fn what(outcome: &Outcome) -> &'static str {
    use order::decision::Outcome as Closed;
    use payment::decision::Outcome as Paid;
    use stock::decision::Outcome as Taken;
    match outcome {
        Outcome::Payment(Paid::Debited) => "debited",
        Outcome::Payment(Paid::Declined(_)) => "declined",
        Outcome::Payment(Paid::Refunded(_)) => "refunded",
        Outcome::Payment(Paid::Voided(_)) => "voided",
        Outcome::Stock(Taken::Reserved) => "reserved",
        Outcome::Stock(Taken::Failed(_)) => "not reserved",
        Outcome::Order(told, Closed::Closed(_)) => told.name(),
        Outcome::Order(_, Closed::Repeat(_)) => "closed before",
        Outcome::Payment(Paid::TooOld(_)) | Outcome::Stock(Taken::TooOld(_)) | Outcome::Order(_, Closed::TooOld(_)) => {
            "too old"
        }
        Outcome::Trimmed(0) => "nothing to forget",
        Outcome::Trimmed(_) => "records forgotten",
        _ => "other outcomes",
    }
}
