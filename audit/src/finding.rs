//! What is wrong: which rule, about what, what it should be and what it is.

use std::fmt;

use serde::Serialize;

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal,)*) => {
        /// A rule that can be broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Rule {
            $($(#[$doc])* #[serde(rename = $name)] $rule,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Rule] = &[$(Rule::$rule),*];

            /// Its name in JSON, logs and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Rule::$rule => $name,)*
                }
            }
        }
    };
}

rules! {
    /// A value that no service writes.
    Unreadable = "unreadable",
    /// A balance or a price below zero.
    Negative = "negative",
    /// The balances of a database are not what its totals say came in less what went out.
    Sum = "sum",
    /// The totals of one database contradict those of another.
    Totals = "totals",
    /// More records are there than the totals of their database count.
    Records = "records",
    /// The sagas that are counted as open are not those that are listed as open.
    OpenCount = "open_count",
    /// A saga is open although everything has ended.
    Open = "open",
    /// Payment's record does not fit what became of the saga.
    Payment = "payment",
    /// Stock's record does not fit what became of the saga.
    Stock = "stock",
    /// The records of stock and payment contradict each other.
    Commit = "commit",
    /// The undo entry is gone, or not one that was ever closed or begun.
    Undo = "undo",
    /// An order does not agree with its saga.
    Order = "order",
    /// A saga took another amount than its items are worth.
    Worth = "worth",
    /// The stream tells something else than the databases hold.
    Stream = "stream",
    /// Two events of a saga exclude each other.
    Contradiction = "contradiction",
    /// An event tells another user, amount or items than the first one of its saga.
    Content = "content",
    /// What an ended saga kept of credit or took of stock, as its events tell, is not what its order cost or held.
    Kept = "kept",
    /// An event without the one that leads to it.
    Cause = "cause",
    /// An order was paid by two of its sagas, or had another saga begun after it was paid.
    PaidTwice = "paid_twice",
    /// A saga is said to be closed, and its end was never told.
    NeverEnded = "never_ended",
    /// A saga is open beyond its time limit.
    Overdue = "overdue",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    /// The rule that is broken.
    pub rule: Rule,
    /// What it is about: `saga 5.k3.0`, `user 7`, `payment totals`.
    pub about: String,
    /// What should be.
    pub expected: String,
    /// What is.
    pub actual: String,
}

impl Finding {
    /// Says it.
    pub fn new(rule: Rule, about: impl Into<String>, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self { rule, about: about.into(), expected: expected.into(), actual: actual.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, about, expected, actual } = self;
        write!(f, "{rule}: {about}: expected {expected}, found {actual}")
    }
}
