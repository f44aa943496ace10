//! Stock's database (`stock/src/stock.lua`).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use common::event::{Kind, SagaEvent};
use common::id::ItemId;
use common::reason::FailureReason;
use common::saga::{Items, Saga};
use stock::decision::{Effect, Outcome};

use super::{Changed, Outcomes, Redone, Trimmed, add, hash_reason, signed, take};
use crate::planted::{Bug, Planted};

/// What is recorded about a saga: how it came out, and the content that a repeat must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockRecord {
    /// How it came out: never a conflict, never too old.
    pub outcome: Outcome,
    /// What was taken or should have been.
    pub items: Items,
}

/// The record as Redis has it.
impl fmt::Display for StockRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reason) = match &self.outcome {
            Outcome::Reserved => ("reserved", None),
            Outcome::Failed(reason) => ("failed", Some(reason)),
            Outcome::Conflict(_) => ("conflict", None),
            Outcome::TooOld(_) => ("too_old", None),
        };
        if self.items.iter().len() == 0 {
            write!(f, "{name} -")?;
        } else {
            write!(f, "{name} {}", self.items)?;
        }
        reason.map_or(Ok(()), |reason| write!(f, " {reason}"))
    }
}

impl Hash for StockRecord {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(&self.outcome).hash(state);
        if let Outcome::Failed(reason) = &self.outcome {
            hash_reason(reason, state);
        }
        self.items.iter().for_each(|entry| entry.hash(state));
    }
}

/// Sums over all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StockTotals {
    /// Pieces that items were created with.
    pub initial: i64,
    /// Pieces that were added.
    pub added: i64,
    /// Pieces that were taken outside of any saga.
    pub subtracted: i64,
    /// Pieces that sagas took.
    pub reserved: i64,
    /// Pieces that sagas took once more than there were, because what was added before is lost.
    pub uncovered: i64,
}

/// Stock's database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stock {
    /// Item → pieces.
    pub pieces: BTreeMap<ItemId, i64>,
    /// What is recorded about sagas.
    pub outcomes: Outcomes<StockRecord>,
    /// Sums over all time.
    pub totals: StockTotals,
    planted: Planted,
}

impl Stock {
    /// An empty one.
    pub fn new(planted: Planted) -> Self {
        let outcomes = Outcomes::new(planted);
        Self { pieces: BTreeMap::new(), outcomes, totals: StockTotals::default(), planted }
    }

    /// Adds an item with so many pieces.
    pub fn put_item(&mut self, item: ItemId, pieces: u64) {
        self.totals.initial += signed(pieces);
        self.pieces.insert(item, signed(pieces));
    }

    /// Carries out a saga's effect, once: `stock_reserve` and `stock_abandon`.
    pub fn apply(&mut self, saga: &Saga, effect: &Effect) -> Outcome {
        if let Some(record) = self.outcomes.get(saga).cloned() {
            if record.items != saga.items {
                return Outcome::Conflict(record.to_string());
            }
            self.outcomes.keep(saga);
            if !(self.planted.is(Bug::AbandonOverridesReserved) && *effect == Effect::Abandon) {
                return record.outcome;
            }
        } else if let Some(watermark_ms) = self.outcomes.is_forgotten(saga) {
            return Outcome::TooOld(watermark_ms);
        }
        let outcome = match effect {
            Effect::Abandon => Outcome::Failed(FailureReason::Abandoned),
            Effect::Reserve => self.reserve(saga).map_or(Outcome::Reserved, Outcome::Failed),
        };
        self.outcomes.record(saga, StockRecord { outcome: outcome.clone(), items: saga.items.clone() });
        outcome
    }

    /// Takes all items; or none, and says what is in the way.
    fn reserve(&mut self, saga: &Saga) -> Option<FailureReason> {
        if self.planted.is(Bug::ReservationNotAtomic) {
            return saga.items.iter().find_map(|(item, quantity)| {
                let obstacle = self.obstacle(item, quantity.get());
                if obstacle.is_none() {
                    self.take(item, quantity.get());
                }
                obstacle
            });
        }
        let obstacle = saga.items.iter().find_map(|(item, quantity)| self.obstacle(item, quantity.get()));
        if obstacle.is_none() {
            saga.items.iter().for_each(|(item, quantity)| self.take(item, quantity.get()));
        }
        obstacle
    }

    fn obstacle(&self, item: &ItemId, quantity: u64) -> Option<FailureReason> {
        match self.pieces.get(item) {
            None => Some(FailureReason::UnknownItem(item.clone())),
            Some(pieces) => (*pieces < signed(quantity)).then(|| FailureReason::OutOfStock(item.clone())),
        }
    }

    fn take(&mut self, item: &ItemId, quantity: u64) {
        self.totals.reserved += signed(quantity);
        *self.pieces.entry(item.clone()).or_default() -= signed(quantity);
    }

    /// Makes a decision true again that was published: `stock_redo`. Nothing for an event of another service.
    pub fn redo(&mut self, event: &SagaEvent) -> Option<Redone> {
        let saga = &event.saga;
        let told = match (event.kind, &event.reason) {
            (Kind::StockReserved, _) => Outcome::Reserved,
            (Kind::StockFailed, Some(reason)) => Outcome::Failed(reason.clone()),
            _ => return None,
        };
        if let Some(record) = self.outcomes.get(saga) {
            if record.items != saga.items {
                return Some(Redone::Conflict(record.to_string()));
            } else if std::mem::discriminant(&record.outcome) != std::mem::discriminant(&told) {
                return Some(Redone::Contradiction(record.to_string()));
            }
            self.outcomes.keep(saga);
            return Some(Redone::Known);
        } else if let Some(watermark_ms) = self.outcomes.is_forgotten(saga) {
            return Some(Redone::TooOld(watermark_ms));
        }
        let mut missing = 0;
        for (item, quantity) in saga.items.iter().filter(|_| told == Outcome::Reserved) {
            let quantity = signed(quantity.get());
            let pieces = self.pieces.get_mut(item);
            let there = pieces.as_ref().map_or(0, |pieces| quantity.min(**pieces));
            pieces.into_iter().for_each(|pieces| *pieces -= there);
            self.totals.reserved += quantity;
            missing += quantity - there;
        }
        self.totals.uncovered += missing;
        self.outcomes.record(saga, StockRecord { outcome: told, items: saga.items.clone() });
        Some(if missing > 0 { Redone::Short(missing) } else { Redone::Redone })
    }

    /// Forgets records behind the watermark: `stock_trim`.
    pub fn trim(&mut self, closed_before_ms: u64, most: u64) -> Trimmed {
        self.outcomes.trim(closed_before_ms, most)
    }

    /// Adds pieces: `stock_add`.
    pub fn add(&mut self, item: &ItemId, pieces: u64) -> Changed {
        let changed = add(self.pieces.get_mut(item), pieces);
        if let Changed::Ok(_) = changed {
            self.totals.added += signed(pieces);
        }
        changed
    }

    /// Takes pieces outside of any saga: `stock_subtract`.
    pub fn subtract(&mut self, item: &ItemId, pieces: u64) -> Changed {
        let changed = take(self.pieces.get_mut(item), pieces);
        if let Changed::Ok(_) = changed {
            self.totals.subtracted += signed(pieces);
        }
        changed
    }

    /// What was decided about a saga.
    pub fn last_decision(&self, saga: &Saga) -> Option<Kind> {
        match self.outcomes.get(saga)?.outcome {
            Outcome::Reserved => Some(Kind::StockReserved),
            Outcome::Failed(_) => Some(Kind::StockFailed),
            Outcome::Conflict(_) | Outcome::TooOld(_) => None,
        }
    }

    /// Loses what was decided about a saga, as a failover may that promotes a replica which lacks the tail.
    pub fn lose_decision(&mut self, saga: &Saga) {
        if self.outcomes.remove(saga).is_some_and(|record| record.outcome == Outcome::Reserved) {
            for (item, quantity) in saga.items.iter() {
                self.totals.reserved -= signed(quantity.get());
                *self.pieces.entry(item.clone()).or_default() += signed(quantity.get());
            }
        }
    }

    /// The pieces that there would be, had there been no saga.
    pub fn brought(&self) -> i64 {
        self.totals.initial + self.totals.added - self.totals.subtracted
    }

    /// Whether all pieces are accounted for, and none are owed.
    pub fn audit(&self) -> Result<(), String> {
        let StockTotals { initial, added, subtracted, reserved, uncovered } = self.totals;
        let (pieces, books) = (self.pieces.values().sum::<i64>(), initial + added - subtracted - reserved + uncovered);
        if pieces != books {
            return Err(format!("stock: the pieces sum up to {pieces}, the books to {books}"));
        }
        let negative = self.pieces.iter().find(|(_, pieces)| **pieces < 0);
        negative.map_or(Ok(()), |(item, pieces)| Err(format!("stock: item {item} has {pieces}")))
    }
}
