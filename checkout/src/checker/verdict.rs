//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;

/// A rule of the contract that a history can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A checkout was answered with success, and the order is not paid.
    SuccessIsKept,
    /// All checkouts of an order were refused, never started, or undone after they were told to go on, and it is paid all the same.
    RefusalIsKept,
    /// A user's credit is not what came in less what went out: a debit is missing, doubled, or of another amount.
    MoneyIsConserved,
    /// An item's stock likewise: a reservation is missing, doubled, or of another item.
    StockIsConserved,
    /// An order has not the entries that were added, or does not cost what they cost.
    OrderIsWhole,
    /// What was created is there, with what it was created with.
    NothingIsLost,
    /// A balance was shown that is less than nothing.
    NeverNegative,
    /// A look showed what cannot have been: a change that was told before is missing, or one is there that nobody asked for.
    LooksShowWhatWasTold,
    /// A client saw something, and then something older.
    NeverBackInTime,
    /// A request was refused for a lack that there was not.
    RefusalIsTrue,
    /// Two requests with one idempotency key were answered differently, or acted twice.
    OneKeyOneEffect,
    /// A saga was still open after its limit.
    EverySagaCloses,
    /// A reply that the contract does not know.
    ContractIsKept,
    /// What the platform itself was asked at the end: dead letters, its own sums.
    PlatformIsClean,
}

impl Rule {
    /// What must be true, in words.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::SuccessIsKept => "a checkout that was told as done is done",
            Self::RefusalIsKept => "a checkout that was refused has no effect",
            Self::MoneyIsConserved => "credit is what came in less what went out",
            Self::StockIsConserved => "stock is what came in less what went out",
            Self::OrderIsWhole => "an order has the entries that were added, at their price",
            Self::NothingIsLost => "what was created is there",
            Self::NeverNegative => "no balance is negative",
            Self::LooksShowWhatWasTold => "a look shows what was told before it",
            Self::NeverBackInTime => "no client sees something older than before",
            Self::RefusalIsTrue => "nothing is refused for a lack that there was not",
            Self::OneKeyOneEffect => "one idempotency key has one effect and one answer",
            Self::EverySagaCloses => "every saga is closed within its limit",
            Self::ContractIsKept => "every reply is one that the contract knows",
            Self::PlatformIsClean => "the platform's own books are right",
        }
    }
}

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// The rule.
    pub rule: Rule,
    /// What exactly, with ids and amounts.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.rule.told(), self.what)
    }
}

/// What was found, and how much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// All breaches.
    pub breaches: Vec<Breach>,
    /// What was counted, by name.
    pub figures: BTreeMap<&'static str, i128>,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty()
    }

    /// Whether this rule was broken.
    #[must_use]
    pub fn breaks(&self, rule: Rule) -> bool {
        self.breaches.iter().any(|breach| breach.rule == rule)
    }

    pub(super) fn add(&mut self, rule: Rule, what: String) {
        self.breaches.push(Breach { rule, what });
    }

    pub(super) fn unless(&mut self, right: bool, rule: Rule, what: impl FnOnce() -> String) {
        if !right {
            self.add(rule, what());
        }
    }

    pub(super) fn count(&mut self, name: &'static str, number: i128) {
        *self.figures.entry(name).or_default() += number;
    }
}
