//! The three databases without Redis: pure models that do exactly what the Lua functions of the services do.
//!
//! No I/O, no clock (time is an argument) and no chance (jitter is one, too). The property tests of the services hold Lua to
//! this code, the simulator and the exploration run it: so all of them speak of the same databases.

mod entry;
mod order;
mod outcomes;
mod payment;
mod reconcile;
mod stock;

pub use entry::{AddItem, OrderRecord, OrderTotals, Replaced, UndoEntry};
pub use order::Order;
pub use outcomes::{Outcomes, Trimmed};
pub use payment::{Payment, PaymentRecord, PaymentTotals};
pub use reconcile::{ClaimLimits, Raised};
pub use stock::{Stock, StockRecord, StockTotals};

use std::hash::{Hash, Hasher};

use common::reason::FailureReason;

/// What a command of the REST interface answers that changes one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The number after the change.
    Ok(i64),
    /// There is no such user or item.
    Unknown,
    /// The number, which is too small for what should be taken.
    Short(i64),
    /// The number, to which no more can be added.
    Overflow(i64),
}

/// What a redo did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redone {
    /// It was lost, and is true again.
    Redone,
    /// The same, but so much of what it takes was not there.
    Short(i64),
    /// It is there, or over.
    Known,
    /// The record, which says that it was decided otherwise.
    Contradiction(String),
    /// The record, which has other content.
    Conflict(String),
    /// The watermark, behind which it lies.
    TooOld(u64),
}

/// As Redis has it.
impl Redone {
    /// The reply.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Redone => vec!["redone".into()],
            Self::Short(missing) => vec!["short".into(), missing.to_string()],
            Self::Known => vec!["known".into()],
            Self::Contradiction(record) => vec!["contradiction".into(), record.clone()],
            Self::Conflict(record) => vec!["conflict".into(), record.clone()],
            Self::TooOld(watermark_ms) => vec!["too_old".into(), watermark_ms.to_string()],
        }
    }
}

/// Adds to one number.
fn add(number: Option<&mut i64>, by: u64) -> Changed {
    let Some(number) = number else { return Changed::Unknown };
    let (max, by) = (signed(common::amount::MAX), signed(by));
    if number.saturating_add(by) > max {
        return Changed::Overflow(*number);
    }
    *number += by;
    Changed::Ok(*number)
}

/// Takes from one number.
fn take(number: Option<&mut i64>, by: u64) -> Changed {
    let Some(number) = number else { return Changed::Unknown };
    if *number < signed(by) {
        return Changed::Short(*number);
    }
    *number -= signed(by);
    Changed::Ok(*number)
}

/// An amount as Redis' own 64-bit integers hold it.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// The types of `common` have no `Hash`, because nothing but the exploration needs it.
fn hash_reason<H: Hasher>(reason: &FailureReason, state: &mut H) {
    std::mem::discriminant(reason).hash(state);
    match reason {
        FailureReason::InsufficientCredit(user) | FailureReason::UnknownUser(user) => user.hash(state),
        FailureReason::OutOfStock(item) | FailureReason::UnknownItem(item) => item.hash(state),
        FailureReason::Abandoned => {}
    }
}
