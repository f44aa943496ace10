//! The order service's decisions, without I/O: how an event closes the undo entry, and what follows from the close.

use common::event::{Event, Kind, SagaEvent};
use common::undo::{State, Transition, transition};

/// What the database answered to a close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The entry is closed now. These inboxes wait for it.
    Closed(Vec<String>),
    /// It was closed before, in the same way.
    Repeat(State),
    /// It was closed before, in the other way: an invariant is broken.
    EndedTwice(String),
    /// The saga id is recorded with another user or amount.
    Conflict(String),
    /// The entry is gone, and the saga started before the watermark.
    TooOld(u64),
}

/// What to do with an event that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Close the saga's undo entry with this state, unless it is closed.
    Close(State),
    /// The event should not have come here.
    Reject(String),
}

/// Decides how an event closes its saga, were the saga open.
pub fn decide(event: &Event) -> Decision {
    let Event::Saga(event) = event else { return Decision::Reject("order does not react to a watermark".into()) };
    match transition(&State::Started, event.kind, event.reason.as_ref()) {
        Ok(Transition::Close(state)) => Decision::Close(state),
        Ok(_) => Decision::Reject(format!("{} does not close an open saga", event.kind)),
        Err(illegal) => Decision::Reject(illegal.to_string()),
    }
}

/// What follows from a close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followup {
    /// The public fact.
    pub event: SagaEvent,
    /// How the saga ended.
    pub state: State,
    /// Who is told directly.
    pub inboxes: Vec<String>,
}

/// The public fact that follows from an outcome, or why the event that caused it is a dead letter.
///
/// A repeat tells the fact again: nobody knows whether the one who closed the entry lived to publish it.
///
/// # Errors
/// The outcome is one of the loud ones.
pub fn follow(event: &SagaEvent, told: State, outcome: Outcome, at_ms: u64) -> Result<Followup, String> {
    let (state, inboxes) = match outcome {
        Outcome::Closed(inboxes) => (told, inboxes),
        Outcome::Repeat(recorded) => (recorded, Vec::new()),
        Outcome::EndedTwice(recorded) => {
            return Err(format!("saga {} ended twice: {} after {recorded}", event.saga.saga_id, event.kind));
        }
        Outcome::Conflict(recorded) => {
            return Err(format!("saga {} is recorded with different content: {recorded}", event.saga.saga_id));
        }
        Outcome::TooOld(watermark) => {
            return Err(format!(
                "too old: saga {} started at {}, before the watermark {watermark}; nothing was applied",
                event.saga.saga_id, event.saga.started_at_ms
            ));
        }
    };
    let event = match &state {
        State::Failed(reason) => event.then(Kind::CheckoutFailed, Some(reason.clone()), at_ms),
        State::Completed | State::Started => event.then(Kind::CheckoutCompleted, None, at_ms),
    };
    Ok(Followup { event, state, inboxes })
}
