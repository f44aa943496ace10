//! The observer: what really happened to each saga, seen from outside by the changes of credits and pieces, and what must be
//! true of it at every step. The simulator and the exploration both look through it.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use common::event::{Event, Kind, SagaEvent};
use common::saga::{Saga, SagaId};
use common::undo::State;
use nats::topology::Durable;

use crate::database::{Order, PaymentRecord};
use crate::glue::{Clocks, Databases, Outcome, Reaction};

/// Something happened that must not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Violation(pub String);

/// What happened to one saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its facts, as it was opened.
    pub saga: Saga,
    /// What the user has paid for it at this moment.
    pub debited: i64,
    /// Pieces that it has taken at this moment, in the order of its items.
    pub taken: Vec<i64>,
    /// How often money was taken, and given back.
    pub debits: u32,
    /// See `debits`.
    pub refunds: u32,
    /// Stock has said that it is reserved.
    pub reserved: bool,
    /// Stock has said that it has failed.
    pub refused: bool,
    /// How it was closed.
    pub closed: Option<State>,
    /// Whether the public fact was published.
    pub told: bool,
    /// Whether the order database forgot that it was opened.
    pub was_lost: bool,
    /// Whether its end came again when nothing was known of it any more, and became a dead letter.
    pub came_too_late: bool,
}

impl Hash for Account {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.debited, &self.taken, self.debits, self.refunds).hash(state);
        (self.reserved, self.refused, self.told, self.was_lost, self.came_too_late).hash(state);
        self.closed.as_ref().map(State::name).hash(state);
    }
}

impl Account {
    fn new(saga: Saga) -> Self {
        let taken = vec![0; saga.items.iter().len()];
        Self {
            saga,
            debited: 0,
            taken,
            debits: 0,
            refunds: 0,
            reserved: false,
            refused: false,
            closed: None,
            told: false,
            was_lost: false,
            came_too_late: false,
        }
    }

    fn amount(&self) -> i64 {
        self.saga.amount.get().cast_signed()
    }

    fn has_all(&self) -> bool {
        self.saga.items.iter().zip(&self.taken).all(|((_, quantity), taken)| *taken == quantity.get().cast_signed())
    }

    fn has_none(&self) -> bool {
        self.taken.iter().all(|taken| *taken == 0)
    }

    fn wrong(&self, what: &str) -> Violation {
        Violation(format!("saga {}: {what} ({self:?})", self.saga.saga_id))
    }

    /// What must be true of a saga at every moment.
    fn check(&self) -> Result<(), Violation> {
        if self.debited != 0 && self.debited != self.amount() {
            return Err(self.wrong("neither nothing nor the whole amount is debited"));
        } else if !self.has_none() && !self.has_all() {
            return Err(self.wrong("neither no nor all items are taken"));
        } else if self.debits > 1 || self.refunds > 1 {
            return Err(self.wrong("money moved more than once"));
        } else if self.reserved && self.refused {
            return Err(self.wrong("stock decided for and against it"));
        } else if self.reserved && (self.debited != self.amount() || !self.has_all()) {
            return Err(self.wrong("it is committed, but not paid and taken"));
        } else if !self.reserved && !self.has_none() {
            return Err(self.wrong("pieces are taken, but it is not committed"));
        }
        match &self.closed {
            Some(State::Completed) if !self.reserved => Err(self.wrong("it completed without being committed")),
            Some(State::Failed(_)) if self.reserved => Err(self.wrong("it failed after it was committed")),
            Some(State::Failed(_)) if self.debited != 0 => Err(self.wrong("it failed and the user has paid")),
            _ => Ok(()),
        }
    }
}

/// The accounts of all sagas.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ledger {
    accounts: BTreeMap<SagaId, Account>,
    /// The credit that all users have together, had there been no saga.
    pub money: i64,
    /// The pieces that there are of all items together, had there been no saga.
    pub pieces: i64,
}

impl Ledger {
    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// Sagas that were opened and are not closed.
    pub fn open(&self) -> impl Iterator<Item = &Account> {
        self.accounts().filter(|account| account.closed.is_none())
    }

    /// One account.
    pub fn account(&self, saga: &SagaId) -> Option<&Account> {
        self.accounts.get(saga)
    }

    fn account_mut(&mut self, saga: &Saga) -> Result<&mut Account, Violation> {
        let found = self.accounts.get_mut(&saga.saga_id);
        found.ok_or_else(|| Violation(format!("saga {}: it has effects, but was never opened", saga.saga_id)))
    }

    /// A saga was opened.
    pub fn opened(&mut self, saga: &Saga) -> Result<(), Violation> {
        match self.accounts.get_mut(&saga.saga_id) {
            None => {
                self.accounts.insert(saga.saga_id.clone(), Account::new(saga.clone()));
                Ok(())
            }
            Some(account) if account.was_lost && account.closed.is_none() => {
                account.saga = saga.clone();
                Ok(())
            }
            Some(account) => Err(account.wrong("it was opened again")),
        }
    }

    /// The order database forgot that a saga was opened.
    pub fn lost(&mut self, saga: &SagaId) {
        if let Some(account) = self.accounts.get_mut(saga) {
            account.was_lost = true;
        }
    }

    /// Payment moved so much money for a saga: nothing, a debit, or (less than nothing) a refund.
    pub fn paid(&mut self, saga: &Saga, by: i64) -> Result<(), Violation> {
        let account = self.account_mut(saga)?;
        account.debited += by;
        account.debits += u32::from(by > 0);
        account.refunds += u32::from(by < 0);
        account.check()
    }

    /// Stock took so many pieces of each item of a saga, and said whether it has decided for or against it.
    pub fn taken(&mut self, saga: &Saga, by: &[i64], decided: Option<bool>) -> Result<(), Violation> {
        let account = self.account_mut(saga)?;
        account.taken.iter_mut().zip(by).for_each(|(taken, by)| *taken += by);
        account.reserved |= decided == Some(true);
        account.refused |= decided == Some(false);
        account.check()
    }

    /// The undo entry of a saga was closed.
    pub fn closed(&mut self, saga: &Saga, state: &State) -> Result<(), Violation> {
        let account = self.account_mut(saga)?;
        if account.closed.is_some() {
            return Err(account.wrong("it was closed twice"));
        }
        account.closed = Some(state.clone());
        account.check()
    }

    /// Somebody was told how a saga ended: by the public fact or by a repeated close.
    pub fn told(&mut self, saga: &Saga, state: &State, by_fact: bool) -> Result<(), Violation> {
        let account = self.account_mut(saga)?;
        account.told |= by_fact;
        match &account.closed {
            Some(closed) if closed.name() == state.name() => Ok(()),
            _ => Err(account.wrong(&format!("it is told as {}", state.name()))),
        }
    }

    /// What must be so after each step: nothing is lost or made, nothing is negative, and each database's books agree.
    pub fn check_books(&self, databases: &Databases) -> Result<(), Violation> {
        databases.payment.audit().map_err(Violation)?;
        databases.stock.audit().map_err(Violation)?;
        databases.order.audit().map_err(Violation)?;
        let credits: i64 = databases.payment.credits.values().sum();
        let pieces: i64 = databases.stock.pieces.values().sum();
        let debited: i64 = self.accounts().map(|account| account.debited).sum();
        let taken: i64 = self.accounts().flat_map(|account| &account.taken).sum();
        let (no_credit, no_pieces) = (databases.payment.totals.uncovered, databases.stock.totals.uncovered);
        if credits != self.money - debited + no_credit {
            return Err(Violation(format!(
                "users have {credits}, but should have {} - {debited} + {no_credit}",
                self.money
            )));
        }
        if pieces != self.pieces - taken + no_pieces {
            return Err(Violation(format!(
                "there are {pieces} pieces, but should be {} - {taken} + {no_pieces}",
                self.pieces
            )));
        }
        Ok(())
    }

    /// An order is paid exactly when one of its sagas completed, and has failed as often as its sagas have.
    pub fn check_orders(&self, database: &Order) -> Result<(), Violation> {
        for (order, record) in &database.orders {
            let prefix = format!("{order}.{}.", record.incarnation);
            let own = || self.accounts().filter(|account| account.saga.saga_id.as_str().starts_with(&prefix));
            let completed = own().filter(|account| account.closed == Some(State::Completed)).count();
            let failed = own().filter(|account| matches!(account.closed, Some(State::Failed(_)))).count();
            let wrong = |what: &str| Err(Violation(format!("order {order}: {what}: {record:?}")));
            if completed != usize::from(record.paid) {
                return wrong(&format!("{completed} of its sagas completed"));
            } else if record.attempt < failed as u64 {
                return wrong(&format!("{failed} of its sagas failed"));
            }
        }
        Ok(())
    }
}

/// A database that has lost its tail, before the eyes of the observer.
impl Ledger {
    /// What is true of each saga now. What was published must still be true; the rest is as if it had never been.
    ///
    /// # Errors
    /// Something that was published is not true any more.
    pub fn restate(
        &mut self,
        durable: Durable,
        before: &Databases,
        now: &Databases,
        was_published: impl Fn(Kind, &SagaId) -> bool,
    ) -> Result<(), Violation> {
        let mut unheard_of = Vec::new();
        for (id, account) in &mut self.accounts {
            let told = |kind| was_published(kind, id);
            match durable {
                Durable::Payment => account.restate_payment(before, now),
                Durable::Stock => account.restate_stock(before, now, told),
                Durable::Order if !now.order.undo.contains_key(id) && !told(Kind::CheckoutStarted) => {
                    if account.closed.is_none() {
                        unheard_of.push(id.clone());
                    }
                }
                Durable::Order => {
                    let is_told = told(Kind::CheckoutCompleted) || told(Kind::CheckoutFailed);
                    let is_open = now.order.undo.get(id).is_some_and(|entry| entry.state == State::Started);
                    if account.closed.is_some() && is_open {
                        if is_told {
                            return Err(account.wrong("its end was told, and it is open again"));
                        }
                        account.closed = None;
                    }
                }
            }
            account.check()?;
        }
        // Begun and told to nobody: nothing has come of it.
        unheard_of.iter().for_each(|id| drop(self.accounts.remove(id)));
        Ok(())
    }
}

impl Account {
    fn restate_payment(&mut self, before: &Databases, now: &Databases) {
        use payment::decision::Outcome as Paid;
        let amount = self.amount();
        (self.debited, self.debits, self.refunds) = match now.payment.outcomes.get(&self.saga) {
            Some(PaymentRecord { outcome: Paid::Debited, .. }) => (amount, u32::from(amount > 0), 0),
            Some(PaymentRecord { outcome: Paid::Refunded(_), .. }) => (0, u32::from(amount > 0), u32::from(amount > 0)),
            // It was forgotten long ago.
            None if before.payment.outcomes.get(&self.saga).is_none() => (self.debited, self.debits, self.refunds),
            _ => (0, 0, 0),
        };
    }

    fn restate_stock(&mut self, before: &Databases, now: &Databases, told: impl Fn(Kind) -> bool) {
        use stock::decision::Outcome as Taken;
        let record = now.stock.outcomes.get(&self.saga);
        if record.is_none() && before.stock.outcomes.get(&self.saga).is_none() {
            return;
        }
        let outcome = record.map(|record| &record.outcome);
        let is_reserved = outcome == Some(&Taken::Reserved);
        self.taken =
            self.saga.items.iter().map(|(_, quantity)| i64::from(is_reserved) * quantity.get().cast_signed()).collect();
        self.reserved = is_reserved || told(Kind::StockReserved);
        self.refused = matches!(outcome, Some(Taken::Failed(_))) || told(Kind::StockFailed);
    }
}

/// Reactions before the eyes of the observer.
impl Ledger {
    /// What a service does with an event, and what is wrong with it.
    pub fn react(
        &mut self,
        databases: &mut Databases,
        durable: Durable,
        event: &Event,
        clocks: Clocks,
        retention_s: u64,
    ) -> (Reaction, Result<(), Violation>) {
        let Event::Saga(of) = event else {
            return (databases.react(durable, event, clocks, retention_s), Ok(()));
        };
        let before = holdings(databases, &of.saga);
        let reaction = databases.react(durable, event, clocks, retention_s);
        let after = holdings(databases, &of.saga);
        let by: Vec<i64> = before.iter().zip(after).map(|(before, after)| before - after).collect();
        let seen = self.observe(of, &reaction, &by);
        (reaction, seen)
    }

    fn observe(&mut self, event: &SagaEvent, reaction: &Reaction, by: &[i64]) -> Result<(), Violation> {
        use order::decision::Outcome as Closed;
        use stock::decision::Outcome as Taken;
        let saga = &event.saga;
        match &reaction.outcome {
            Outcome::Payment(_) => self.paid(saga, by[0])?,
            Outcome::Stock(outcome) => {
                let decided = match outcome {
                    Taken::Reserved => Some(true),
                    Taken::Failed(_) => Some(false),
                    Taken::Conflict(_) | Taken::TooOld(_) => None,
                };
                self.taken(saga, &by[1..], decided)?;
            }
            Outcome::Order(told, Closed::Closed(_)) => self.closed(saga, told)?,
            Outcome::Order(_, Closed::Repeat(state)) => self.told(saga, state, false)?,
            Outcome::Order(_, Closed::TooOld(_)) => {
                if let Some(account) = self.accounts.get_mut(&saga.saga_id) {
                    account.came_too_late = true;
                }
            }
            Outcome::Order(..) | Outcome::Trimmed(_) | Outcome::Nothing => {}
        }
        match &reaction.answer {
            Err(why) => self.check_dead_letter(event, &reaction.outcome, why),
            Ok(_) => Ok(()),
        }
    }

    /// The one good reason for a dead letter is an echo of a saga that is over.
    fn check_dead_letter(&self, event: &SagaEvent, outcome: &Outcome, why: &str) -> Result<(), Violation> {
        let is_too_old = matches!(
            outcome,
            Outcome::Payment(payment::decision::Outcome::TooOld(_))
                | Outcome::Stock(stock::decision::Outcome::TooOld(_))
                | Outcome::Order(_, order::decision::Outcome::TooOld(_))
        );
        // Or of a saga that was opened again later, because the database had forgotten it.
        let is_over = self
            .account(&event.saga.saga_id)
            .is_some_and(|account| account.closed.is_some() || event.saga.started_at_ms < account.saga.started_at_ms);
        if is_too_old && is_over { Ok(()) } else { Err(Violation(format!("a dead letter: {}: {why}", event.id()))) }
    }
}

/// What the saga's user and the shelves of its items hold.
fn holdings(databases: &Databases, saga: &Saga) -> Vec<i64> {
    let pieces = saga.items.iter().map(|(item, _)| databases.stock.pieces.get(item).copied());
    let credit = databases.payment.credit(&saga.user_id);
    std::iter::once(credit).chain(pieces.map(Option::unwrap_or_default)).collect()
}
