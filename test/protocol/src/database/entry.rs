//! What the order service's database is made of.

use std::hash::{Hash, Hasher};

use common::amount::{Amount, Quantity};
use common::id::{ItemId, UserId};
use common::saga::{Saga, SagaId};
use common::trace::TraceParent;
use common::undo::State;

use super::hash_reason;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderRecord {
    /// Who pays.
    pub user: UserId,
    /// Its entries, as they were added.
    pub entries: Vec<(ItemId, Quantity)>,
    /// What it costs.
    pub total: Amount,
    /// Whether it is paid.
    pub paid: bool,
    /// A random token of this record of the order.
    pub incarnation: String,
    /// Checkouts that failed.
    pub attempt: u64,
    /// The open saga.
    pub saga: Option<SagaId>,
}

impl OrderRecord {
    /// A new one.
    pub fn new(user: UserId, entries: Vec<(ItemId, Quantity)>, total: Amount, incarnation: &str) -> Self {
        Self { user, entries, total, paid: false, incarnation: incarnation.to_owned(), attempt: 0, saga: None }
    }
}

/// What is kept of an order that was replaced, or lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replaced {
    /// Whether it is paid.
    pub paid: bool,
    /// Checkouts that failed.
    pub attempt: u64,
    /// None of its sagas started later (ms).
    pub started_until_ms: u64,
}

/// An undo entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoEntry {
    /// Where the saga stands.
    pub state: State,
    /// Its facts.
    pub saga: Saga,
    /// How often it was replayed.
    pub round: u32,
    /// Who waits for it.
    pub inboxes: Vec<String>,
    /// Operation keys that are bound to it.
    pub operations: Vec<String>,
    /// The trace that it belongs to; none for an entry that was lost and recovered.
    pub trace: Option<TraceParent>,
    /// When a closed entry is forgotten.
    pub expires_ms: Option<u64>,
}

impl Hash for UndoEntry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.state.name().hash(state);
        if let State::Failed(reason) = &self.state {
            hash_reason(reason, state);
        }
        (&self.saga.saga_id, self.saga.started_at_ms, self.saga.amount, self.round).hash(state);
        (&self.inboxes, &self.operations, self.expires_ms).hash(state);
    }
}

/// Sums over all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OrderTotals {
    /// Sagas that were opened.
    pub started: i64,
    /// Sagas that were closed without an undo entry.
    pub recovered: i64,
    /// Sagas that were closed as completed, and what they cost.
    pub completed: i64,
    /// See `completed`.
    pub completed_amount: i64,
    /// Sagas that were closed as failed, and what they would have cost.
    pub failed: i64,
    /// See `failed`.
    pub failed_amount: i64,
}

/// What `order_add_item` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddItem {
    /// The order's new total.
    Ok(Amount),
    /// There is no such order.
    NoOrder,
    /// It is paid.
    Paid,
    /// Its checkout is under way.
    InFlight(SagaId),
    /// A sum would be too large.
    Overflow,
    /// It has too many entries.
    TooMany,
}
