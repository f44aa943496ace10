//! A database that loses its tail: a failover promotes a replica that lags behind. What was published since is redone from the stream
//! before anything else is done; what was not is as if it had never been.
//!
//! Where writes wait for the replica (`WAIT`), nothing is published or told before the replica has it: then redo must find nothing.

use std::collections::BTreeSet;

use common::event::{Event, Kind, SagaEvent};
use common::saga::SagaId;
use nats::topology::Durable;

use super::World;
use super::stream::place;
use crate::database::Redone;
use crate::glue::Databases;
use crate::ledger::Violation;
use crate::planted::Bug;

/// What a replica has.
#[derive(Debug, Clone)]
pub struct Replica {
    databases: Databases,
    /// Messages that had been stored in the stream when it was copied.
    stored: usize,
}

/// Decisions, by what they are about.
type Decisions = BTreeSet<(&'static str, SagaId)>;

/// The service that has published an event and would redo it; nothing for what no service redoes.
fn redone_by(kind: Kind) -> Option<Durable> {
    match kind {
        Kind::CheckoutStarted | Kind::CheckoutCompleted | Kind::CheckoutFailed => Some(Durable::Order),
        Kind::PaymentDebited | Kind::PaymentDeclined | Kind::PaymentRefunded => Some(Durable::Payment),
        Kind::StockReserved | Kind::StockFailed => Some(Durable::Stock),
        Kind::CheckoutAbandoned => None,
    }
}

impl World {
    /// The replicas of the three databases as they are now.
    pub fn new_replicas(databases: &Databases) -> [Replica; 3] {
        std::array::from_fn(|_| Replica { databases: databases.clone(), stored: 0 })
    }

    /// The replica of a service's database catches up.
    pub fn replicate(&mut self, durable: Durable) {
        let stored = self.stream.history().len();
        self.replicas[place(durable)] = Replica { databases: self.databases.clone(), stored };
    }

    /// What a writer that waits for its replica does before anybody is told.
    pub fn wait_for_replica(&mut self, durable: Durable) {
        if self.scenario.waits && !self.planted.is(Bug::WaitUnchecked) {
            self.replicate(durable);
        }
    }

    /// The same, of the service that publishes an event.
    pub fn wait_before_publishing(&mut self, event: &Event) {
        if let Event::Saga(event) = event
            && let Some(durable) = redone_by(event.kind)
        {
            self.wait_for_replica(durable);
        }
    }

    /// A replica takes over.
    pub fn lose_database_tail(&mut self) -> Result<(), Violation> {
        let durable = self.dice.one_of(Durable::ALL);
        if durable == Durable::Order {
            // Who stands still through all of it and publishes then is beyond this (see ARCHITECTURE, known gaps).
            for instance in 0..self.instances.len() {
                if self.instances[instance].durable == durable {
                    self.crash(instance, "with its database");
                }
            }
        }
        let published = self.published_since(self.replicas[place(durable)].stored, durable);
        let is_beyond =
            durable == Durable::Order && (self.closed_behind_the_watermark() || self.abandoned_before_told());
        if !self.is_told(&published) || is_beyond {
            return Ok(());
        }
        self.say(|_| format!("the database of {durable} loses its tail"));
        self.count("database tails lost");
        let before = self.databases.clone();
        let replica = self.replicas[place(durable)].databases.clone();
        match durable {
            Durable::Order => self.databases.order = replica.order,
            Durable::Payment => self.databases.payment = replica.payment,
            Durable::Stock => self.databases.stock = replica.stock,
        }
        self.forget_untold_decisions(durable);
        if !self.skips_redo(durable) {
            self.redo(durable)?;
        }
        let all = self.published_since(0, durable);
        let was_published = |kind: Kind, saga: &SagaId| all.contains(&(kind.subject(), saga.clone()));
        if !self.scenario.waits {
            self.ledger.money = self.databases.payment.brought();
            self.ledger.pieces = self.databases.stock.brought();
        }
        self.ledger.restate(durable, &before, &self.databases, was_published)?;
        self.replicate(durable);
        self.check_books()
    }

    fn skips_redo(&self, durable: Durable) -> bool {
        match durable {
            Durable::Order => self.planted.is(Bug::OrderRedoSkipped),
            Durable::Payment => self.planted.is(Bug::PaymentRedoSkipped),
            Durable::Stock => self.planted.is(Bug::StockRedoSkipped),
        }
    }

    /// What a service has published since so many messages were stored.
    fn published_since(&self, stored: usize, durable: Durable) -> Decisions {
        let events =
            self.stream.history()[stored..].iter().filter_map(|message| decision(message.event().ok()?, durable));
        events.map(|event| (event.kind.subject(), event.saga.saga_id)).collect()
    }

    /// Whether the stream still tells all of it: what both witnesses have lost is lost.
    fn is_told(&self, published: &Decisions) -> bool {
        let told = self.stream.messages().filter_map(|message| match message.event() {
            Ok(Event::Saga(event)) => Some((event.kind.subject(), event.saga.saga_id)),
            _ => None,
        });
        let told: Decisions = told.collect();
        published.is_subset(&told)
    }

    /// Whether the end of a saga was not published although the watermark that was told has passed it: opened again, it would be refused as
    /// too old for ever. It takes a tail that is longer than the watermark's margin.
    fn closed_behind_the_watermark(&self) -> bool {
        let watermark_ms = self.databases.order.watermark_ms();
        let mut untold = self.ledger.accounts().filter(|account| account.closed.is_some() && !account.told);
        untold.any(|account| account.saga.started_at_ms < watermark_ms)
    }

    /// Whether there is a saga of which the abandonment was published and the start was not. Without its undo entry it is closed all the same, as
    /// one that was recovered, but the ledger has never heard of it.
    fn abandoned_before_told(&self) -> bool {
        let events = self.stream.history().iter().filter_map(|message| match message.event() {
            Ok(Event::Saga(event)) => Some((event.kind.subject(), event.saga.saga_id)),
            _ => None,
        });
        let told: Decisions = events.collect();
        let mut abandoned = told.iter().filter(|(kind, _)| *kind == Kind::CheckoutAbandoned.subject());
        abandoned.any(|(_, saga)| !told.contains(&(Kind::CheckoutStarted.subject(), saga.clone())))
    }

    /// Effects whose database was replaced before they were told are carried out anew.
    fn forget_untold_decisions(&mut self, durable: Durable) {
        for instance in self.instances.iter_mut().filter(|instance| instance.durable == durable) {
            instance.batches.iter_mut().for_each(super::instance::Batch::begin_again);
        }
    }

    fn redo(&mut self, durable: Durable) -> Result<(), Violation> {
        let events: Vec<SagaEvent> =
            self.stream.messages().filter_map(|message| decision(message.event().ok()?, durable)).collect();
        for event in events {
            let (now_ms, retention_s) = (self.order_clock_ms(), self.scenario.retention_s);
            let Some(redone) = self.databases.redo(&event, now_ms, retention_s) else { continue };
            self.say(|_| format!("redo of {}: {redone:?}", event.id()));
            match &redone {
                Redone::Redone | Redone::Short(_) if self.scenario.waits => {
                    return Err(Violation(format!("published before the replica had it: {}", event.id())));
                }
                Redone::Redone | Redone::Short(_) => self.count("decisions redone"),
                Redone::Known | Redone::TooOld(_) => {}
                Redone::Contradiction(_) | Redone::Conflict(_) => {
                    return Err(Violation(format!("redo of {}: {redone:?}", event.id())));
                }
            }
        }
        Ok(())
    }
}

fn decision(event: Event, durable: Durable) -> Option<SagaEvent> {
    match event {
        Event::Saga(event) if redone_by(event.kind) == Some(durable) => Some(event),
        _ => None,
    }
}
