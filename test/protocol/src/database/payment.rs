//! Payment's database (`payment/src/payment.lua`).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use common::amount::Amount;
use common::event::{Kind, SagaEvent};
use common::id::UserId;
use common::reason::FailureReason;
use common::saga::Saga;
use payment::decision::{Effect, Outcome};

use super::{Changed, Outcomes, Redone, Trimmed, add, hash_reason, signed, take};
use crate::planted::{Bug, Planted};

/// What is recorded about a saga: how it came out, and the content that a repeat must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRecord {
    /// How it came out: never a conflict, never too old.
    pub outcome: Outcome,
    /// Who paid or should have.
    pub user: UserId,
    /// How much.
    pub amount: Amount,
}

/// The record as Redis has it.
impl fmt::Display for PaymentRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reason) = match &self.outcome {
            Outcome::Debited => ("debited", None),
            Outcome::Declined(reason) => ("declined", Some(reason)),
            Outcome::Refunded(reason) => ("refunded", Some(reason)),
            Outcome::Voided(reason) => ("voided", Some(reason)),
            Outcome::Conflict(_) => ("conflict", None),
            Outcome::TooOld(_) => ("too_old", None),
        };
        write!(f, "{name} {} {}", self.amount, self.user)?;
        reason.map_or(Ok(()), |reason| write!(f, " {reason}"))
    }
}

impl Hash for PaymentRecord {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(&self.outcome).hash(state);
        if let Outcome::Declined(reason) | Outcome::Refunded(reason) | Outcome::Voided(reason) = &self.outcome {
            hash_reason(reason, state);
        }
        self.user.hash(state);
        self.amount.hash(state);
    }
}

/// Sums over all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PaymentTotals {
    /// Credit that users were created with.
    pub initial: i64,
    /// Credit that was added.
    pub deposited: i64,
    /// Credit that was taken outside of any saga.
    pub paid: i64,
    /// Taken by sagas.
    pub debited: i64,
    /// Given back to sagas.
    pub refunded: i64,
    /// Taken by sagas once more than there was, because what was deposited before is lost.
    pub uncovered: i64,
}

/// Payment's database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Payment {
    /// User → credit.
    pub credits: BTreeMap<UserId, i64>,
    /// What is recorded about sagas.
    pub outcomes: Outcomes<PaymentRecord>,
    /// Sums over all time.
    pub totals: PaymentTotals,
    /// Records that the planted bug has not written yet.
    unrecorded: Vec<(UnrecordedSaga, PaymentRecord)>,
    planted: Planted,
}

impl Payment {
    /// An empty one.
    pub fn new(planted: Planted) -> Self {
        Self {
            credits: BTreeMap::new(),
            outcomes: Outcomes::new(planted),
            totals: PaymentTotals::default(),
            unrecorded: Vec::new(),
            planted,
        }
    }

    /// Adds a user with this credit.
    pub fn put_user(&mut self, user: UserId, credit: u64) {
        self.totals.initial += signed(credit);
        self.credits.insert(user, signed(credit));
    }

    /// A user's credit; none where there is no such user.
    pub fn credit(&self, user: &UserId) -> i64 {
        self.credits.get(user).copied().unwrap_or_default()
    }

    /// Carries out a saga's effect, once: `payment_debit` and `payment_refund`.
    pub fn apply(&mut self, saga: &Saga, effect: &Effect) -> Outcome {
        if let Some(record) = self.outcomes.get(saga).cloned() {
            if (&record.user, record.amount) != (&saga.user_id, saga.amount) {
                return Outcome::Conflict(record.to_string());
            }
            self.outcomes.keep(saga);
            return match (record.outcome, effect) {
                (Outcome::Debited, Effect::Refund(reason)) => self.refund(saga, reason),
                (recorded, _) => recorded,
            };
        }
        if let Some(watermark_ms) = self.outcomes.is_forgotten(saga) {
            return Outcome::TooOld(watermark_ms);
        }
        match effect {
            Effect::Debit => self.debit(saga),
            Effect::Refund(reason) => {
                let outcome = Outcome::Voided(reason.clone());
                if self.planted.is(Bug::NoTombstone) {
                    return outcome;
                }
                self.record(saga, outcome)
            }
        }
    }

    fn debit(&mut self, saga: &Saga) -> Outcome {
        let amount = signed(saga.amount.get());
        let reason = match self.credits.get_mut(&saga.user_id) {
            None => FailureReason::UnknownUser(saga.user_id.clone()),
            Some(credit) if *credit < amount => FailureReason::InsufficientCredit(saga.user_id.clone()),
            Some(credit) => {
                *credit -= amount;
                self.totals.debited += amount;
                return self.record(saga, Outcome::Debited);
            }
        };
        if self.planted.is(Bug::DeclineNotRecorded) {
            return Outcome::Declined(reason);
        }
        self.record(saga, Outcome::Declined(reason))
    }

    fn refund(&mut self, saga: &Saga, reason: &FailureReason) -> Outcome {
        let amount = signed(saga.amount.get());
        self.totals.refunded += amount;
        *self.credits.entry(saga.user_id.clone()).or_default() += amount;
        let outcome = Outcome::Refunded(reason.clone());
        if self.planted.is(Bug::RefundNotRecorded) {
            return outcome;
        }
        self.record(saga, outcome)
    }

    fn record(&mut self, saga: &Saga, outcome: Outcome) -> Outcome {
        let record = PaymentRecord { outcome: outcome.clone(), user: saga.user_id.clone(), amount: saga.amount };
        if self.planted.is(Bug::RecordApart) {
            self.unrecorded.push((UnrecordedSaga(saga.clone()), record));
        } else {
            self.outcomes.record(saga, record);
        }
        outcome
    }

    /// The second step of the planted bug: writes the records, unless the instance crashed before it.
    pub fn write_records(&mut self, has_crashed: bool) {
        for (saga, record) in std::mem::take(&mut self.unrecorded) {
            if !has_crashed {
                self.outcomes.record(&saga.0, record);
            }
        }
    }

    /// Makes a decision true again that was published: `payment_redo`. Nothing for an event of another service.
    pub fn redo(&mut self, event: &SagaEvent) -> Option<Redone> {
        let (saga, amount) = (&event.saga, signed(event.saga.amount.get()));
        let told = match (event.kind, &event.reason) {
            (Kind::PaymentDebited, _) => Outcome::Debited,
            (Kind::PaymentDeclined, Some(reason)) => Outcome::Declined(reason.clone()),
            (Kind::PaymentRefunded, Some(reason)) => Outcome::Refunded(reason.clone()),
            _ => return None,
        };
        let is_declined = |outcome: &Outcome| matches!(outcome, Outcome::Declined(_));
        let mut missing = 0;
        let outcome = match (self.outcomes.get(saga), told) {
            (Some(record), _) if (&record.user, record.amount) != (&saga.user_id, saga.amount) => {
                return Some(Redone::Conflict(record.to_string()));
            }
            (Some(record), told) if is_declined(&record.outcome) != is_declined(&told) => {
                return Some(Redone::Contradiction(record.to_string()));
            }
            (Some(PaymentRecord { outcome: Outcome::Debited, .. }), Outcome::Refunded(reason)) => {
                self.totals.refunded += amount;
                *self.credits.entry(saga.user_id.clone()).or_default() += amount;
                Outcome::Refunded(reason)
            }
            (Some(_), _) => {
                self.outcomes.keep(saga);
                return Some(Redone::Known);
            }
            (None, told) => {
                if let Some(watermark_ms) = self.outcomes.is_forgotten(saga) {
                    return Some(Redone::TooOld(watermark_ms));
                }
                match told {
                    Outcome::Debited => {
                        let credit = self.credits.get_mut(&saga.user_id);
                        let there = credit.as_ref().map_or(0, |credit| amount.min(**credit));
                        credit.into_iter().for_each(|credit| *credit -= there);
                        missing = amount - there;
                        self.totals.debited += amount;
                        self.totals.uncovered += missing;
                        Outcome::Debited
                    }
                    // Without its debit it is what a tombstone tells as well.
                    Outcome::Refunded(reason) => Outcome::Voided(reason),
                    declined => declined,
                }
            }
        };
        self.outcomes.record(saga, PaymentRecord { outcome, user: saga.user_id.clone(), amount: saga.amount });
        Some(if missing > 0 { Redone::Short(missing) } else { Redone::Redone })
    }

    /// Forgets records behind the watermark: `payment_trim`.
    pub fn trim(&mut self, closed_before_ms: u64, most: u64) -> Trimmed {
        self.outcomes.trim(closed_before_ms, most)
    }

    /// Adds credit: `payment_add_funds`.
    pub fn add_funds(&mut self, user: &UserId, amount: u64) -> Changed {
        let changed = add(self.credits.get_mut(user), amount);
        if let Changed::Ok(_) = changed {
            self.totals.deposited += signed(amount);
        }
        changed
    }

    /// Takes credit outside of any saga: `payment_pay`.
    pub fn pay(&mut self, user: &UserId, amount: u64) -> Changed {
        let changed = take(self.credits.get_mut(user), amount);
        if let Changed::Ok(_) = changed {
            self.totals.paid += signed(amount);
        }
        changed
    }

    /// What was decided last about a saga, and can be lost with the tail of the database. A refund cannot where its money has gone on: that is
    /// no tail.
    pub fn last_decision(&self, saga: &Saga) -> Option<Kind> {
        Some(match self.outcomes.get(saga)?.outcome {
            Outcome::Debited => Kind::PaymentDebited,
            Outcome::Declined(_) => Kind::PaymentDeclined,
            Outcome::Refunded(_) if self.credit(&saga.user_id) < signed(saga.amount.get()) => return None,
            Outcome::Refunded(_) | Outcome::Voided(_) => Kind::PaymentRefunded,
            Outcome::Conflict(_) | Outcome::TooOld(_) => return None,
        })
    }

    /// Loses what was decided last about a saga, as a failover may that promotes a replica which lacks the tail.
    pub fn lose_decision(&mut self, saga: &Saga) {
        let amount = signed(saga.amount.get());
        let Some(record) = self.outcomes.remove(saga) else { return };
        let credit =
            |credits: &mut BTreeMap<UserId, i64>, by: i64| *credits.entry(saga.user_id.clone()).or_default() += by;
        match record.outcome {
            Outcome::Debited => {
                credit(&mut self.credits, amount);
                self.totals.debited -= amount;
            }
            Outcome::Refunded(_) => {
                credit(&mut self.credits, -amount);
                self.totals.refunded -= amount;
                self.outcomes.record(saga, PaymentRecord { outcome: Outcome::Debited, ..record });
            }
            _ => {}
        }
    }

    /// The credit that there would be, had there been no saga.
    pub fn brought(&self) -> i64 {
        self.totals.initial + self.totals.deposited - self.totals.paid
    }

    /// Whether all money is accounted for, and nobody owes any.
    pub fn audit(&self) -> Result<(), String> {
        let PaymentTotals { initial, deposited, paid, debited, refunded, uncovered } = self.totals;
        let (credits, books) =
            (self.credits.values().sum::<i64>(), initial + deposited - paid - debited + refunded + uncovered);
        if credits != books {
            return Err(format!("payment: the credits sum up to {credits}, the books to {books}"));
        }
        let negative = self.credits.iter().find(|(_, credit)| **credit < 0);
        negative.map_or(Ok(()), |(user, credit)| Err(format!("payment: user {user} has {credit}")))
    }
}

/// A saga whose record is not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnrecordedSaga(Saga);

impl Hash for UnrecordedSaga {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.saga_id.hash(state);
        self.0.started_at_ms.hash(state);
    }
}
