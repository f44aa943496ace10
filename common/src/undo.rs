//! The undo log's one transition. The hot path, the reconciler, tests and (in Lua, held to this by tests) the database all
//! use it: `started` becomes `completed` or `failed` exactly once, and what comes later changes nothing.

use crate::event::Kind;
use crate::reason::FailureReason;

/// The state of an undo entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The saga is open: it will be closed as one of the two others, whatever happens.
    Started,
    /// Paid: stock has recorded `reserved`.
    Completed,
    /// Undone: nothing is taken and nothing will be.
    Failed(FailureReason),
}

/// What an event does to an undo entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// The entry is closed with this state.
    Close(State),
    /// The entry was closed this way before; the event repeats it.
    Repeat,
    /// The entry is closed, and the event belongs to an earlier step of the same way or tells of a later repeat.
    Ignore,
}

/// The event can never meet an entry in this state, unless an invariant is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The other end of the saga was recorded: it cannot have ended twice.
    #[error("{event} for a saga that is closed as {state}")]
    EndedTwice {
        /// The event that tells the other end.
        event: Kind,
        /// `completed` or `failed`.
        state: &'static str,
    },
    /// The order service does not react to this event, or a failure came without its reason.
    #[error("{0} does not close an undo entry")]
    NotClosing(Kind),
}

impl State {
    /// The state's name, in Redis and in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
        }
    }
}

/// What `event` (with its reason, where it is a failure) does to an entry in `state`.
///
/// # Errors
/// The pair is [`Illegal`].
pub fn transition(state: &State, event: Kind, reason: Option<&FailureReason>) -> Result<Transition, Illegal> {
    let told = match (event, reason) {
        (Kind::StockReserved, _) => State::Completed,
        (Kind::PaymentDeclined | Kind::PaymentRefunded, Some(reason)) => State::Failed(reason.clone()),
        _ => return Err(Illegal::NotClosing(event)),
    };
    match (state, told) {
        (State::Started, told) => Ok(Transition::Close(told)),
        (State::Completed, State::Completed) => Ok(Transition::Repeat),
        // The first reason stands: a replay after an abandonment may tell the failure by another one.
        (State::Failed(first), State::Failed(again)) if *first == again => Ok(Transition::Repeat),
        (State::Failed(_), State::Failed(_)) => Ok(Transition::Ignore),
        (state, _) => Err(Illegal::EndedTwice { event, state: state.name() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> FailureReason {
        text.parse().unwrap()
    }

    /// Every (state, event) pair stands here: 3 states, with each of the 9 events.
    #[test]
    fn every_pair_of_state_and_event() {
        let why = reason("out_of_stock:1");
        let states = [State::Started, State::Completed, State::Failed(why.clone())];
        for state in &states {
            for event in Kind::ALL.iter().copied() {
                let result = transition(state, event, Some(&why));
                let expected = match (event, state.name()) {
                    (Kind::StockReserved, "started") => Ok(Transition::Close(State::Completed)),
                    (Kind::StockReserved, "completed") => Ok(Transition::Repeat),
                    (Kind::StockReserved, "failed") => Err(Illegal::EndedTwice { event, state: "failed" }),
                    (Kind::PaymentDeclined | Kind::PaymentRefunded, "started") => {
                        Ok(Transition::Close(State::Failed(why.clone())))
                    }
                    (Kind::PaymentDeclined | Kind::PaymentRefunded, "failed") => Ok(Transition::Repeat),
                    (Kind::PaymentDeclined | Kind::PaymentRefunded, "completed") => {
                        Err(Illegal::EndedTwice { event, state: "completed" })
                    }
                    _ => Err(Illegal::NotClosing(event)),
                };
                assert_eq!(result, expected, "{state:?} with {event}");
            }
        }
    }

    #[test]
    fn the_first_reason_stands() {
        let closed = State::Failed(reason("out_of_stock:1"));
        let later = reason("abandoned");
        assert_eq!(transition(&closed, Kind::PaymentRefunded, Some(&later)), Ok(Transition::Ignore));
    }

    #[test]
    fn a_failure_without_a_reason_closes_nothing() {
        for event in [Kind::PaymentDeclined, Kind::PaymentRefunded] {
            assert_eq!(transition(&State::Started, event, None), Err(Illegal::NotClosing(event)));
        }
    }
}
