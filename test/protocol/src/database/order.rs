//! The order service's database (`order/src/order.lua`): orders, the undo log and operation keys. What the reconciler asks
//! of it is in `reconcile.rs`.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use common::amount::{Amount, MAX, Quantity};
use common::event::SagaEvent;
use common::id::{ItemId, OrderId};
use common::limits::MAX_ENTRIES_PER_ORDER;
use common::reason::FailureReason;
use common::redis::Operation;
use common::saga::{Items, Saga, SagaId};
use common::trace::TraceParent;
use common::undo::State;
use order::decision::Outcome;
use order::effect::Begun;

use super::entry::{AddItem, OrderRecord, OrderTotals, Replaced, UndoEntry};
use super::{Redone, signed};
use crate::planted::{Bug, Planted};

/// What an operation key is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    fingerprint: String,
    outcome: Answer,
    expires_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    NoOrder,
    Running(SagaId),
    Ended(State),
}

/// What the order record says about a saga whose undo entry is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OrderVerdict {
    Replaced,
    Failed,
    Completed,
    Open,
}

/// The order service's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// All orders.
    pub orders: BTreeMap<OrderId, OrderRecord>,
    /// All undo entries.
    pub undo: BTreeMap<SagaId, UndoEntry>,
    /// Sums over all time.
    pub totals: OrderTotals,
    /// Open sagas that were never claimed → when they started (ms).
    pub(super) open: BTreeMap<SagaId, u64>,
    /// Open sagas that were claimed → when they are due again (ms).
    pub(super) retry: BTreeMap<SagaId, u64>,
    /// The same sagas → when they started (ms).
    pub(super) retry_started: BTreeMap<SagaId, u64>,
    /// What is kept of orders that were replaced or lost, by id and incarnation.
    pub(super) replaced: BTreeMap<(OrderId, String), Replaced>,
    pub(super) watermark_ms: u64,
    pub(super) planted: Planted,
    operations: BTreeMap<String, Bound>,
    /// Ids that the planted bug has drawn.
    drawn: u64,
}

impl Hash for Order {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.orders, &self.undo, &self.open, &self.retry, &self.totals, self.watermark_ms, self.drawn).hash(state);
        self.replaced.hash(state);
    }
}

impl Order {
    /// An empty one.
    pub fn new(planted: Planted) -> Self {
        Self {
            orders: BTreeMap::new(),
            undo: BTreeMap::new(),
            totals: OrderTotals::default(),
            open: BTreeMap::new(),
            retry: BTreeMap::new(),
            retry_started: BTreeMap::new(),
            replaced: BTreeMap::new(),
            watermark_ms: 0,
            planted,
            operations: BTreeMap::new(),
            drawn: 0,
        }
    }

    /// Creates an order, or another in its place: one of `order_batch_init`.
    pub fn put_order(&mut self, now_ms: u64, id: OrderId, record: OrderRecord) {
        let successor = record.incarnation.clone();
        let Some(old) = self.orders.insert(id.clone(), record) else { return };
        let had_sagas = old.paid || old.attempt != 0 || old.saga.is_some();
        if had_sagas && old.incarnation != successor && !self.planted.is(Bug::ReplacedOrderForgotten) {
            let started_ms = old.saga.and_then(|saga| Some(self.undo.get(&saga)?.saga.started_at_ms));
            let started_until_ms = now_ms.max(self.watermark_ms).max(started_ms.unwrap_or_default());
            let aside = Replaced { paid: old.paid, attempt: old.attempt, started_until_ms };
            self.replaced.insert((id, old.incarnation), aside);
        }
    }

    /// Adds an entry to an order: `order_add_item`.
    pub fn add_item(&mut self, order: &OrderId, item: ItemId, quantity: Quantity, cost: Amount) -> AddItem {
        let Some(record) = self.orders.get_mut(order) else { return AddItem::NoOrder };
        if record.paid {
            return AddItem::Paid;
        } else if let Some(saga) = &record.saga {
            return AddItem::InFlight(saga.clone());
        }
        let known = record.entries.iter().filter(|(known, _)| *known == item).map(|(_, quantity)| quantity.get());
        if record.entries.len() as u64 >= MAX_ENTRIES_PER_ORDER {
            return AddItem::TooMany;
        }
        let fits = known.sum::<u64>() + quantity.get() <= MAX;
        let Some(total) = record.total.checked_add(cost).filter(|_| fits) else { return AddItem::Overflow };
        record.entries.push((item, quantity));
        record.total = total;
        AddItem::Ok(total)
    }

    /// Opens a saga for an order, or joins the one that is open: `order_begin`.
    pub fn begin(
        &mut self,
        now_ms: u64,
        operation: Option<&Operation>,
        order: &OrderId,
        inbox: &str,
        trace: &TraceParent,
    ) -> Begun {
        if let Some((operation, bound)) = operation.and_then(|of| Some((of, self.operations.get(&of.key)?))) {
            return match &bound.outcome {
                _ if bound.fingerprint != operation.fingerprint => Begun::KeyMismatch,
                Answer::Running(saga) => Begun::Running(saga.clone()),
                Answer::Ended(state) => Begun::Ended(state.clone()),
                Answer::NoOrder => Begun::NoOrder,
            };
        }
        let begun = self.open(now_ms, operation, order, inbox, trace);
        let outcome = match &begun {
            Begun::Started(saga) => Answer::Running(saga.saga_id.clone()),
            Begun::Joined(saga) => Answer::Running(saga.clone()),
            Begun::Paid => Answer::Ended(State::Completed),
            _ => Answer::NoOrder,
        };
        if let Some(operation) = operation {
            let expires_ms = now_ms + operation.ttl_s * 1_000;
            let bound = Bound { fingerprint: operation.fingerprint.clone(), outcome, expires_ms };
            self.operations.insert(operation.key.clone(), bound);
        }
        begun
    }

    fn open(
        &mut self,
        now_ms: u64,
        operation: Option<&Operation>,
        order: &OrderId,
        inbox: &str,
        trace: &TraceParent,
    ) -> Begun {
        let Some(record) = self.orders.get_mut(order) else { return Begun::NoOrder };
        if record.paid {
            return Begun::Paid;
        }
        let key = operation.map(|operation| operation.key.clone());
        if let Some(saga) = &record.saga
            && let Some(entry) = self.undo.get_mut(saga)
        {
            append(&mut entry.inboxes, Some(inbox.to_owned()));
            append(&mut entry.operations, key);
            return Begun::Joined(saga.clone());
        }
        let mut attempt = record.attempt;
        if self.planted.is(Bug::DrawnSagaId) {
            self.drawn += 1;
            attempt += self.drawn;
        }
        let Ok(saga_id) = SagaId::derive(order, &record.incarnation, attempt) else { return Begun::NoOrder };
        let saga = Saga {
            saga_id: saga_id.clone(),
            order_id: order.clone(),
            // Never before the watermark, even if the clock is set back.
            started_at_ms: now_ms.max(self.watermark_ms),
            user_id: record.user.clone(),
            amount: record.total,
            items: Items::sum(record.entries.iter().cloned()).unwrap_or_default(),
        };
        record.saga = Some(saga_id.clone());
        self.open.insert(saga_id.clone(), saga.started_at_ms);
        self.totals.started += 1;
        let entry = UndoEntry {
            state: State::Started,
            saga: saga.clone(),
            round: 0,
            inboxes: vec![inbox.to_owned()],
            operations: key.into_iter().collect(),
            trace: Some(trace.clone()),
            expires_ms: None,
        };
        self.undo.insert(saga_id, entry);
        Begun::Started(Box::new(saga))
    }

    /// Closes an undo entry, once, and with it the order's open saga: `order_close`.
    pub fn close(&mut self, now_ms: u64, saga: &Saga, told: &State, retention_s: u64) -> Outcome {
        let verdict = self.verdict(saga);
        let recorded = match self.undo.get(&saga.saga_id) {
            Some(UndoEntry { saga: of, .. }) if (&of.user_id, of.amount) != (&saga.user_id, saga.amount) => {
                return Outcome::Conflict(format!("{} {}", of.user_id, of.amount));
            }
            Some(entry) => Some(entry.state.clone()),
            // The reason went with the entry: the one that is told now stands for it.
            None if verdict == OrderVerdict::Failed && told.name() == "failed" => Some(told.clone()),
            None if verdict == OrderVerdict::Failed => Some(State::Failed(FailureReason::Abandoned)),
            None if verdict == OrderVerdict::Completed => Some(State::Completed),
            None if saga.started_at_ms < self.watermark_ms => return Outcome::TooOld(self.watermark_ms),
            None => None,
        };
        if !self.planted.is(Bug::CloseNotIdempotent) {
            match &recorded {
                Some(state) if state.name() == told.name() => return Outcome::Repeat(state.clone()),
                Some(state) if *state != State::Started => return Outcome::EndedTwice(state.name().to_owned()),
                _ => {}
            }
        }
        let entry = self.undo.entry(saga.saga_id.clone()).or_insert_with(|| {
            // The entry was lost with the tail of a failover. The event carries all that it held.
            self.totals.recovered += 1;
            let (inboxes, operations) = (Vec::new(), Vec::new());
            UndoEntry {
                state: State::Started,
                saga: saga.clone(),
                round: 0,
                inboxes,
                operations,
                trace: None,
                expires_ms: None,
            }
        });
        entry.state = told.clone();
        entry.expires_ms = Some(now_ms + retention_s * 1_000);
        let (inboxes, operations) = (entry.inboxes.clone(), entry.operations.clone());
        for list in [&mut self.open, &mut self.retry, &mut self.retry_started] {
            list.remove(&saga.saga_id);
        }
        self.settle_order(now_ms, saga, told);
        for key in &operations {
            // A key that has lived its time may be bound to another saga by now.
            let bound = self.operations.get_mut(key);
            if let Some(bound) = bound.filter(|bound| bound.outcome == Answer::Running(saga.saga_id.clone())) {
                bound.outcome = Answer::Ended(told.clone());
            }
        }
        Outcome::Closed(inboxes)
    }

    /// Tells the order how its saga ended, and counts it.
    fn settle_order(&mut self, now_ms: u64, saga: &Saga, told: &State) {
        let amount = signed(saga.amount.get());
        if *told == State::Completed {
            self.totals.completed += 1;
            self.totals.completed_amount += amount;
        } else {
            self.totals.failed += 1;
            self.totals.failed_amount += amount;
        }
        let verdict = self.verdict(saga);
        let is_settled = matches!(verdict, OrderVerdict::Completed | OrderVerdict::Failed);
        if is_settled && !self.planted.is(Bug::CloseNotIdempotent) {
            return;
        }
        let (incarnation, attempt) = parts(&saga.saga_id);
        let record = self.orders.get_mut(&saga.order_id).filter(|record| record.incarnation == incarnation);
        let (paid, next_attempt) = if let Some(record) = record {
            record.saga = None;
            (&mut record.paid, &mut record.attempt)
        } else {
            let started_until_ms = now_ms.max(self.watermark_ms).max(saga.started_at_ms);
            let unknown = Replaced { paid: false, attempt, started_until_ms };
            let key = (saga.order_id.clone(), incarnation.to_owned());
            let record = self.replaced.entry(key).or_insert(unknown);
            (&mut record.paid, &mut record.attempt)
        };
        if *told == State::Completed {
            *paid = true;
        } else if !self.planted.is(Bug::AttemptNotIncremented) {
            *next_attempt = attempt + 1;
        }
    }

    fn verdict(&self, saga: &Saga) -> OrderVerdict {
        let (incarnation, attempt) = parts(&saga.saga_id);
        let current = self.orders.get(&saga.order_id).filter(|record| record.incarnation == incarnation);
        let current = current.map(|record| (record.paid, record.attempt)).or_else(|| {
            let replaced = self.replaced.get(&(saga.order_id.clone(), incarnation.to_owned()))?;
            Some((replaced.paid, replaced.attempt))
        });
        match current {
            None => OrderVerdict::Replaced,
            Some((_, next_attempt)) if next_attempt > attempt => OrderVerdict::Failed,
            Some((true, _)) => OrderVerdict::Completed,
            Some(_) => OrderVerdict::Open,
        }
    }

    /// Lets go of what has lived its time.
    pub fn expire(&mut self, now_ms: u64) {
        self.undo.retain(|_, entry| entry.expires_ms.is_none_or(|at| at > now_ms));
        self.operations.retain(|_, bound| bound.expires_ms > now_ms);
    }

    /// Lets go of an operation key that has lived its time.
    pub fn expire_operation(&mut self, key: &str) {
        self.operations.remove(key);
    }

    /// Makes a saga's start true again that was told: `order_redo_start`.
    pub fn redo_start(&mut self, event: &SagaEvent) -> Redone {
        let saga = &event.saga;
        if let Some(UndoEntry { saga: of, .. }) = self.undo.get(&saga.saga_id) {
            let same = (&of.user_id, of.amount) == (&saga.user_id, saga.amount);
            return if same { Redone::Known } else { Redone::Conflict(format!("{} {}", of.user_id, of.amount)) };
        }
        let verdict = self.verdict(saga);
        if matches!(verdict, OrderVerdict::Completed | OrderVerdict::Failed) {
            return Redone::Known;
        } else if saga.started_at_ms < self.watermark_ms {
            return Redone::TooOld(self.watermark_ms);
        }
        let (incarnation, attempt) = parts(&saga.saga_id);
        let entries = || saga.items.iter().cloned().collect();
        let key = (saga.order_id.clone(), incarnation.to_owned());
        let is_replaced = verdict == OrderVerdict::Open
            && self.orders.get(&saga.order_id).is_none_or(|record| record.incarnation != incarnation);
        if let Some(record) = self.replaced.get_mut(&key).filter(|_| is_replaced) {
            record.attempt = attempt;
        } else {
            let record = self.orders.entry(saga.order_id.clone());
            let record =
                record.or_insert_with(|| OrderRecord::new(saga.user_id.clone(), entries(), saga.amount, incarnation));
            if record.incarnation == incarnation {
                (record.attempt, record.saga) = (attempt, Some(saga.saga_id.clone()));
            }
        }
        self.open.insert(saga.saga_id.clone(), saga.started_at_ms);
        self.totals.started += 1;
        let entry = UndoEntry {
            state: State::Started,
            saga: saga.clone(),
            round: event.round,
            inboxes: Vec::new(),
            operations: Vec::new(),
            trace: Some(event.traceparent.clone()),
            expires_ms: None,
        };
        self.undo.insert(saga.saga_id.clone(), entry);
        Redone::Redone
    }

    /// How a saga has ended, as far as is known.
    pub fn ended(&self, saga: &Saga) -> Option<State> {
        match (self.undo.get(&saga.saga_id), self.verdict(saga)) {
            (Some(entry), _) => Some(entry.state.clone()).filter(|state| *state != State::Started),
            (None, OrderVerdict::Failed) => Some(State::Failed(FailureReason::Abandoned)),
            (None, OrderVerdict::Completed) => Some(State::Completed),
            (None, OrderVerdict::Open | OrderVerdict::Replaced) => None,
        }
    }

    /// Loses the opening of a saga, as a failover may that promotes a replica which lacks the tail.
    pub fn lose_begin(&mut self, saga: &Saga) {
        self.undo.remove(&saga.saga_id);
        for list in [&mut self.open, &mut self.retry, &mut self.retry_started] {
            list.remove(&saga.saga_id);
        }
        self.totals.started -= 1;
        if let Some(record) = self.orders.get_mut(&saga.order_id) {
            record.saga = None;
        }
    }

    /// Whether every saga that was opened is closed once, or open and on one of the lists.
    pub fn audit(&self) -> Result<(), String> {
        let OrderTotals { started, recovered, completed, failed, .. } = self.totals;
        let open = signed((self.open.len() + self.retry.len()) as u64);
        if started + recovered != completed + failed + open {
            return Err(format!(
                "order: {started} sagas started and {recovered} recovered, but {completed} completed, {failed} failed, {open} open"
            ));
        }
        Ok(())
    }
}

/// Incarnation and attempt.
fn parts(saga: &SagaId) -> (&str, u64) {
    let mut parts = saga.as_str().split('.').skip(1);
    let incarnation = parts.next().unwrap_or_default();
    (incarnation, parts.next().and_then(|attempt| attempt.parse().ok()).unwrap_or_default())
}

/// Appends a value once.
fn append(list: &mut Vec<String>, value: Option<String>) {
    if let Some(value) = value.filter(|value| !value.is_empty() && !list.contains(value)) {
        list.push(value);
    }
}
