//! What stands between an event and a database in each service, without its I/O: the consumers' side and the reconciler's.
//!
//! The decisions are the services' own code. This file does with them what each `consumer.rs` and `reconcile.rs` does, over
//! the databases of [`crate::database`].

use std::time::Duration;

use common::event::{Event, Kind, SagaEvent, Watermark};
use common::limits::MAX_BUCKETS_PER_TRIM;
use common::undo::State;
use nats::topology::Durable;
use order::effect::Claimed;
use order::reconcile::plan;

use crate::database::{Order, Payment, Redone, Stock};
use crate::planted::{Bug, Planted};

/// The three databases.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Databases {
    /// Of the order service.
    pub order: Order,
    /// Of the payment service.
    pub payment: Payment,
    /// Of the stock service.
    pub stock: Stock,
}

/// The clocks at the moment of a reaction.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// Of the order database.
    pub order_ms: u64,
    /// Of the instance that reacts.
    pub instance_ms: u64,
}

/// What a database answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Payment's.
    Payment(payment::decision::Outcome),
    /// Stock's.
    Stock(stock::decision::Outcome),
    /// The undo log's, to a close with this state.
    Order(State, order::decision::Outcome),
    /// Records were forgotten.
    Trimmed(usize),
    /// It was not asked.
    Nothing,
}

/// What comes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaction {
    /// What the database answered.
    pub outcome: Outcome,
    /// What is published before the event is acknowledged; or why it is a dead letter.
    pub answer: Result<Vec<Event>, String>,
    /// How the saga ended and who is told directly.
    pub told: Option<(State, Vec<String>)>,
}

impl Reaction {
    fn new(outcome: Outcome, answer: Result<Vec<Event>, String>) -> Self {
        Self { outcome, answer, told: None }
    }

    fn rejected(why: String) -> Self {
        Self::new(Outcome::Nothing, Err(why))
    }
}

impl Databases {
    /// Three empty ones.
    pub fn new(planted: Planted) -> Self {
        Self { order: Order::new(planted), payment: Payment::new(planted), stock: Stock::new(planted) }
    }

    /// What a service does with an event of its durable: decide, apply, follow.
    pub fn react(&mut self, durable: Durable, event: &Event, clocks: Clocks, retention_s: u64) -> Reaction {
        match durable {
            Durable::Payment => self.react_payment(event, clocks),
            Durable::Stock => self.react_stock(event, clocks),
            Durable::Order => self.react_order(event, clocks, retention_s),
        }
    }

    /// Makes a decision true again that its service has published; nothing for what none redoes.
    pub fn redo(&mut self, event: &SagaEvent, now_ms: u64, retention_s: u64) -> Option<Redone> {
        use order::decision::Outcome as Closed;
        let state = match (event.kind, &event.reason) {
            (Kind::CheckoutStarted, _) => return Some(self.order.redo_start(event)),
            (Kind::CheckoutCompleted, _) => State::Completed,
            (Kind::CheckoutFailed, Some(reason)) => State::Failed(reason.clone()),
            _ => return self.payment.redo(event).or_else(|| self.stock.redo(event)),
        };
        Some(match self.order.close(now_ms, &event.saga, &state, retention_s) {
            Closed::Closed(_) => Redone::Redone,
            Closed::Repeat(_) => Redone::Known,
            Closed::EndedTwice(state) => Redone::Contradiction(state),
            Closed::Conflict(record) => Redone::Conflict(record),
            Closed::TooOld(watermark_ms) => Redone::TooOld(watermark_ms),
        })
    }

    fn react_payment(&mut self, event: &Event, clocks: Clocks) -> Reaction {
        use payment::decision::{Decision, decide, follow};
        match (decide(event), event) {
            (Decision::Apply(effect), Event::Saga(event)) => {
                let outcome = self.payment.apply(&event.saga, &effect);
                let next = follow(event, outcome.clone(), clocks.instance_ms);
                Reaction::new(Outcome::Payment(outcome), next.map(|next| vec![next.into()]))
            }
            (Decision::Trim(watermark), _) => {
                let trimmed = self.payment.trim(watermark.closed_before_ms, MAX_BUCKETS_PER_TRIM);
                Reaction::new(Outcome::Trimmed(trimmed.forgotten), Ok(Vec::new()))
            }
            (Decision::Reject(why), _) => Reaction::rejected(why),
            (Decision::Apply(_), Event::Watermark(_)) => Reaction::rejected("not a saga event".to_owned()),
        }
    }

    fn react_stock(&mut self, event: &Event, clocks: Clocks) -> Reaction {
        use stock::decision::{Decision, decide, follow};
        match (decide(event), event) {
            (Decision::Apply(effect), Event::Saga(event)) => {
                let outcome = self.stock.apply(&event.saga, &effect);
                let next = follow(event, outcome.clone(), clocks.instance_ms);
                Reaction::new(Outcome::Stock(outcome), next.map(|next| vec![next.into()]))
            }
            (Decision::Trim(watermark), _) => {
                let trimmed = self.stock.trim(watermark.closed_before_ms, MAX_BUCKETS_PER_TRIM);
                Reaction::new(Outcome::Trimmed(trimmed.forgotten), Ok(Vec::new()))
            }
            (Decision::Reject(why), _) => Reaction::rejected(why),
            (Decision::Apply(_), Event::Watermark(_)) => Reaction::rejected("not a saga event".to_owned()),
        }
    }

    fn react_order(&mut self, event: &Event, clocks: Clocks, retention_s: u64) -> Reaction {
        use order::decision::{Decision, decide, follow};
        match (decide(event), event) {
            (Decision::Close(state), Event::Saga(event)) => {
                let outcome = self.order.close(clocks.order_ms, &event.saga, &state, retention_s);
                let recorded = Outcome::Order(state.clone(), outcome.clone());
                match follow(event, state, outcome, clocks.instance_ms) {
                    Ok(followup) => Reaction {
                        outcome: recorded,
                        answer: Ok(vec![followup.event.into()]),
                        told: Some((followup.state, followup.inboxes)),
                    },
                    Err(why) => Reaction::new(recorded, Err(why)),
                }
            }
            (Decision::Reject(why), _) => Reaction::rejected(why),
            (Decision::Close(_), Event::Watermark(_)) => Reaction::rejected("not a saga event".to_owned()),
        }
    }
}

/// What the reconciler publishes about a claimed saga, and why.
pub fn reconcile(claimed: Claimed, saga_limit: Duration, at_ms: u64, planted: Planted) -> (Event, String) {
    let mut plan = plan(&claimed, saga_limit);
    let mut saga = claimed.saga;
    if planted.is(Bug::NeverAbandons) {
        plan.publish = Kind::CheckoutStarted;
    }
    if planted.is(Bug::ReplayStartsAnew) {
        saga.started_at_ms = saga.started_at_ms.max(at_ms);
    }
    (SagaEvent::first(plan.publish, saga, claimed.round, claimed.traceparent).at(at_ms).into(), plan.reason)
}

/// The event that tells a watermark.
pub fn watermark(closed_before_ms: u64) -> Event {
    Event::Watermark(Watermark { closed_before_ms })
}
