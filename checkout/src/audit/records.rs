//! The databases' keys as `effect.rs` of each service describes them, read as what the rules know.

use std::collections::BTreeMap;

use ::audit::books::{Order, Undo};
use ::audit::sums::Totals;

/// Fields of an order, in the order in which [`order`] takes them.
pub const ORDER: &[&str] = &["user", "items", "total", "paid", "incarnation", "attempt", "saga"];
/// Fields of an undo entry, likewise.
pub const UNDO: &[&str] = &["state", "user", "amount", "items", "reason", "started_ms"];

fn text(fields: &[Option<String>], at: usize) -> String {
    fields.get(at).cloned().flatten().unwrap_or_default()
}

/// Counters. What is no number is none: the sums then tell.
pub fn numbers(fields: &BTreeMap<String, String>) -> Totals {
    fields.iter().filter_map(|(name, value)| Some((name.clone(), value.parse().ok()?))).collect()
}

/// An order; nothing where there is none.
pub fn order(id: &str, fields: &[Option<String>]) -> Option<Order> {
    fields.first()?.as_ref()?;
    Some(Order {
        user: text(fields, 0),
        items: text(fields, 1),
        total: text(fields, 2).parse().unwrap_or(-1),
        paid: text(fields, 3) == "1",
        current_saga: format!("{id}.{}.{}", text(fields, 4), text(fields, 5)),
        in_flight: !text(fields, 6).is_empty(),
    })
}

/// An undo entry and when its saga started; nothing where there is none.
pub fn undo(fields: &[Option<String>]) -> Option<(Undo, u64)> {
    fields.iter().flatten().next()?;
    let undo = Undo {
        state: text(fields, 0),
        user: text(fields, 1),
        amount: text(fields, 2).parse().unwrap_or(-1),
        items: text(fields, 3),
        reason: text(fields, 4),
    };
    Some((undo, text(fields, 5).parse().unwrap_or(0)))
}
