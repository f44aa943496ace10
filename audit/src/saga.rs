//! What must be true of one saga, and of one order, whatever else goes on meanwhile.
//!
//! While sagas run, a record may not be written yet, and behind the watermark it may be forgotten; both are allowed. What remains are
//! contradictions that no further step of the protocol takes away, so they stay when they are read again.

use std::collections::BTreeMap;

use crate::books::{Order, Undo};
use crate::finding::{Finding, Rule};

/// What an order record says of a saga of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one that paid the order.
    Completed,
    /// A later attempt is due.
    Failed,
    /// It is open or has not begun.
    Open,
    /// The order was replaced or is gone.
    Unknown,
}

/// Splits `<order>.<incarnation>.<attempt>`.
pub fn parts(saga: &str) -> Option<(&str, &str, u64)> {
    let (rest, attempt) = saga.rsplit_once('.')?;
    let (order, incarnation) = rest.rsplit_once('.')?;
    Some((order, incarnation, attempt.parse().ok()?))
}

/// What the order record says of a saga.
pub fn verdict(saga: &str, order: Option<&Order>) -> Verdict {
    let current = order.and_then(|order| Some((order, parts(&order.current_saga)?)));
    let (Some((order, (_, current, next))), Some((_, incarnation, attempt))) = (current, parts(saga)) else {
        return Verdict::Unknown;
    };
    if incarnation != current {
        Verdict::Unknown
    } else if next > attempt {
        Verdict::Failed
    } else if order.paid {
        Verdict::Completed
    } else {
        Verdict::Open
    }
}

/// Sums of quantities by item, `id:quantity,…`, sorted: the form in which stock records them. Nothing where it is no such list.
pub fn quantities(items: &str) -> Option<BTreeMap<&str, i128>> {
    let mut sums = BTreeMap::new();
    for entry in items.split(',').filter(|entry| !entry.is_empty() && *entry != "-") {
        let (id, quantity) = entry.split_once(':')?;
        *sums.entry(id).or_default() += quantity.parse::<i128>().ok()?;
    }
    Some(sums)
}

/// The words of a record that this version knows. What a later one has to add is written behind them as `name=value`, and left alone.
fn own_words(record: &str) -> Vec<&str> {
    record.split(' ').filter(|word| !word.contains('=')).collect()
}

/// Payment's record: `<outcome> <amount> <user>[ <reason>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment<'a> {
    /// `debited`, `declined`, `refunded` or `voided`.
    pub outcome: &'a str,
    /// How much.
    pub amount: i128,
    /// Of whom.
    pub user: &'a str,
}

impl<'a> Payment<'a> {
    /// Reads a record; nothing where no service writes such a one.
    pub fn read(record: &'a str) -> Option<Self> {
        let words = own_words(record);
        let (&[outcome, amount, user] | &[outcome, amount, user, _]) = words.as_slice() else { return None };
        let known = matches!((outcome, words.len()), ("debited", 3) | ("declined" | "refunded" | "voided", 4));
        Some(Self { outcome, amount: amount.parse().ok()?, user }).filter(|_| known)
    }
}

/// Stock's record: `<outcome> <items>[ <reason>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation<'a> {
    /// `reserved` or `failed`.
    pub outcome: &'a str,
    /// What was asked for.
    pub items: BTreeMap<&'a str, i128>,
}

impl<'a> Reservation<'a> {
    /// Reads a record; nothing where no service writes such a one.
    pub fn read(record: &'a str) -> Option<Self> {
        let words = own_words(record);
        let (outcome, items) = match words.as_slice() {
            ["reserved", items] => ("reserved", *items),
            ["failed", items, _] => ("failed", *items),
            _ => return None,
        };
        Some(Self { outcome, items: quantities(items)? })
    }

    /// How many pieces were taken.
    pub fn taken(&self) -> i128 {
        if self.outcome == "reserved" { self.items.values().sum() } else { 0 }
    }
}

/// What the three databases hold about one saga.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// Its id.
    pub saga: &'a str,
    /// Its undo entry, unless that has expired.
    pub undo: Option<&'a Undo>,
    /// What its order says of it.
    pub verdict: Verdict,
    /// Payment's record.
    pub payment: Option<&'a str>,
    /// Whether payment's record, if it is not there, may have been forgotten behind the watermark.
    pub payment_may_be_forgotten: bool,
    /// Stock's record.
    pub stock: Option<&'a str>,
    /// Likewise.
    pub stock_may_be_forgotten: bool,
}

/// Everything about this saga that can never become right.
pub fn check(view: &View) -> Vec<Finding> {
    let about = format!("saga {}", view.saga);
    let mut found = Vec::new();
    let payment = view.payment.map(|record| (record, Payment::read(record)));
    let stock = view.stock.map(|record| (record, Reservation::read(record)));
    let mut wrong = |rule, expected: String, actual: String| found.push(Finding::new(rule, &*about, expected, actual));
    if let Some((record, None)) = &payment {
        wrong(Rule::Unreadable, "a record of payment".into(), format!("{record:?}"));
    }
    if let Some((record, None)) = &stock {
        wrong(Rule::Unreadable, "a record of stock".into(), format!("{record:?}"));
    }
    let shown = |record: Option<&str>| record.map_or_else(|| "no record".to_owned(), |it| format!("{it:?}"));
    let payment_outcome = payment.as_ref().map(|(_, it)| it.map_or("", |it| it.outcome));
    let stock_outcome = stock.as_ref().map(|(_, it)| it.as_ref().map_or("", |it| it.outcome));
    if let Some(undo) = view.undo {
        if let Some((record, Some(it))) = &payment
            && (it.amount != undo.amount || it.user != undo.user)
        {
            wrong(Rule::Payment, format!("{} of {}", undo.amount, undo.user), format!("{record:?}"));
        }
        if let Some((record, Some(it))) = &stock
            && Some(&it.items) != quantities(&undo.items).as_ref()
        {
            wrong(Rule::Stock, format!("{:?}", undo.items), format!("{record:?}"));
        }
    }
    let ended = match (view.undo.map(|undo| undo.state.as_str()), view.verdict) {
        (Some(state @ ("completed" | "failed")), verdict) => {
            let contradicts = match verdict {
                Verdict::Completed => state == "failed",
                Verdict::Failed => state == "completed",
                Verdict::Open => true,
                Verdict::Unknown => false,
            };
            if contradicts {
                wrong(Rule::Order, format!("an order that says {state}, as the undo entry"), format!("{verdict:?}"));
            }
            state
        }
        (Some("started"), Verdict::Completed | Verdict::Failed) => {
            wrong(Rule::Undo, format!("{:?}, as the order says", view.verdict), "started".into());
            "started"
        }
        (Some("started"), _) => "started",
        (Some(other), _) => {
            wrong(Rule::Undo, "started, completed or failed".into(), format!("{other:?}"));
            ""
        }
        (None, Verdict::Completed) => "completed",
        (None, Verdict::Failed) => "failed",
        (None, Verdict::Open) if payment.is_some() || stock.is_some() => {
            let records = format!("none; payment has {}, stock {}", shown(view.payment), shown(view.stock));
            wrong(Rule::Undo, "an undo entry".into(), records);
            ""
        }
        (None, _) => "",
    };
    // Of a record that may have been forgotten nothing can be said when it is not there.
    let is = |outcome: Option<&str>, forgettable: bool, allowed: &[&str]| match outcome {
        Some(outcome) => outcome.is_empty() || allowed.contains(&outcome),
        None => forgettable || allowed.contains(&"none"),
    };
    let (of_payment, of_stock): (&[&str], &[&str]) = match ended {
        "completed" => (&["debited"], &["reserved"]),
        "failed" => (&["declined", "refunded", "voided"], &["none", "failed"]),
        _ => (&["none", "debited", "declined", "refunded", "voided"], &["none", "reserved", "failed"]),
    };
    if !is(payment_outcome, view.payment_may_be_forgotten, of_payment) {
        wrong(Rule::Payment, format!("{}, because the saga is {ended}", of_payment.join(" or ")), shown(view.payment));
    }
    if !is(stock_outcome, view.stock_may_be_forgotten, of_stock) {
        wrong(Rule::Stock, format!("{}, because the saga is {ended}", of_stock.join(" or ")), shown(view.stock));
    }
    // Ended sagas were told above. For the others, and those of which only the records are left:
    if !matches!(ended, "completed" | "failed") {
        let contradiction = match (payment_outcome, stock_outcome) {
            (Some("declined" | "refunded" | "voided"), Some("reserved")) => true,
            (None, Some("reserved")) => !view.payment_may_be_forgotten,
            _ => false,
        };
        if contradiction {
            let actual = format!("stock {}, payment {}", shown(view.stock), shown(view.payment));
            wrong(Rule::Commit, "reserved only what is debited".into(), actual);
        }
    }
    // A refund is the answer to stock's failure, which is recorded first.
    if matches!(payment_outcome, Some("refunded" | "voided")) && stock_outcome.is_none() && !view.stock_may_be_forgotten
    {
        wrong(Rule::Commit, "a failure of stock behind a refund".into(), format!("payment {}", shown(view.payment)));
    }
    found
}

/// What must be true of an order, given the undo entry of its current saga. Where that may have expired, its absence says nothing.
pub fn check_order(id: &str, order: &Order, undo: Option<&Undo>, undo_may_have_expired: bool) -> Vec<Finding> {
    let about = format!("order {id} with saga {}", order.current_saga);
    let state = undo.map(|undo| undo.state.as_str());
    let actual = || {
        let paid = if order.paid { "paid" } else { "not paid" };
        let flight = if order.in_flight { ", in flight" } else { "" };
        format!("{paid}{flight}, saga {}", state.unwrap_or("without undo entry"))
    };
    let expected = match (order.in_flight, order.paid, state) {
        (true, false, Some("started")) | (false, true, Some("completed")) | (false, false, None) => return Vec::new(),
        (false, true, None) if undo_may_have_expired => return Vec::new(),
        (true, true, _) => "an order that is paid is not in flight",
        (true, false, _) => "an open saga of an order in flight",
        (false, true, _) => "a completed saga of a paid order",
        (false, false, Some("completed")) => "an order that is paid, because its saga is completed",
        (false, false, _) => "an order that names its open saga, or its next one",
    };
    vec![Finding::new(Rule::Order, about, expected, actual())]
}
