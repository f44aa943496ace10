//! Stock's database (`stock/src/stock.lua`).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use common::id::ItemId;
use common::reason::FailureReason;
use common::saga::{Items, Saga};
use stock::decision::{Effect, Outcome};

use super::{Changed, Outcomes, Trimmed, add, hash_reason, signed, take};
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

    /// Whether all pieces are accounted for, and none are owed.
    pub fn audit(&self) -> Result<(), String> {
        let StockTotals { initial, added, subtracted, reserved } = self.totals;
        let (pieces, books) = (self.pieces.values().sum::<i64>(), initial + added - subtracted - reserved);
        if pieces != books {
            return Err(format!("stock: the pieces sum up to {pieces}, the books to {books}"));
        }
        let negative = self.pieces.iter().find(|(_, pieces)| **pieces < 0);
        negative.map_or(Ok(()), |(item, pieces)| Err(format!("stock: item {item} has {pieces}")))
    }
}
