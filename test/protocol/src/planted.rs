//! Bugs that can be planted, to prove that the simulator and the exploration would find them.
//!
//! Each is a rule of the protocol broken in one place. They are values and not `cfg`s, so that one build runs the right
//! protocol and all the wrong ones.

use std::fmt;

/// A rule of the protocol that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bug {
    /// Inputs are acknowledged before what came of them is published.
    AckBeforePublish,
    /// Payment writes the outcome record in a second step, after the debit.
    RecordApart,
    /// A refund without a debit leaves no record behind.
    NoTombstone,
    /// An abandonment is recorded over a reservation.
    AbandonOverridesReserved,
    /// Each checkout draws a new saga id instead of deriving it.
    DrawnSagaId,
    /// The broker removes duplicates by an id that leaves the round out.
    DedupWithoutRound,
    /// The watermark only looks at sagas that were never claimed.
    WatermarkIgnoresRetries,
    /// Records behind the watermark are forgotten, but effects may still begin there.
    TrimWithoutRefusing,
    /// An undo entry that is closed is closed again.
    CloseNotIdempotent,
    /// A refund gives the money back and leaves the record as it was.
    RefundNotRecorded,
    /// A refusal of payment leaves no record.
    DeclineNotRecorded,
    /// Stock takes item after item, and keeps what it took when a later one is short.
    ReservationNotAtomic,
    /// The reconciler replays sagas for ever.
    NeverAbandons,
    /// A failed checkout leaves the order's attempt as it was.
    AttemptNotIncremented,
    /// A claimed saga is taken off the lists for good.
    ClaimIsNoLease,
    /// A replay tells a new start of the saga, and records are looked for under that start alone.
    ReplayStartsAnew,
    /// `checkout.started` is published before the undo entry is written.
    StartedBeforeUndo,
    /// A client whose time is over is told that its checkout failed.
    TimeoutToldAsFailure,
    /// The order database that has lost its tail is used without a redo.
    OrderRedoSkipped,
    /// Payment's database that has lost its tail is used without a redo.
    PaymentRedoSkipped,
    /// Stock's database that has lost its tail is used without a redo.
    StockRedoSkipped,
    /// What the replica does not have is told as safe.
    WaitUnchecked,
    /// Of an order that is replaced nothing is kept.
    ReplacedOrderForgotten,
}

impl Bug {
    /// All of them.
    pub const ALL: &[Bug] = &[
        Self::AckBeforePublish,
        Self::RecordApart,
        Self::NoTombstone,
        Self::AbandonOverridesReserved,
        Self::DrawnSagaId,
        Self::DedupWithoutRound,
        Self::WatermarkIgnoresRetries,
        Self::TrimWithoutRefusing,
        Self::CloseNotIdempotent,
        Self::RefundNotRecorded,
        Self::DeclineNotRecorded,
        Self::ReservationNotAtomic,
        Self::NeverAbandons,
        Self::AttemptNotIncremented,
        Self::ClaimIsNoLease,
        Self::ReplayStartsAnew,
        Self::StartedBeforeUndo,
        Self::TimeoutToldAsFailure,
        Self::OrderRedoSkipped,
        Self::PaymentRedoSkipped,
        Self::StockRedoSkipped,
        Self::WaitUnchecked,
        Self::ReplacedOrderForgotten,
    ];
}

/// In kebab case, as the command line takes it.
impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, letter) in format!("{self:?}").chars().enumerate() {
            if letter.is_uppercase() && n > 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Bug {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().copied().find(|bug| bug.to_string() == text);
        found.ok_or_else(|| format!("not one of {}", known()))
    }
}

/// Which rule is broken; none in the protocol as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Planted(pub Option<Bug>);

impl Planted {
    /// Whether this rule is broken.
    pub fn is(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }
}

impl From<Bug> for Planted {
    fn from(bug: Bug) -> Self {
        Self(Some(bug))
    }
}
