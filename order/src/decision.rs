//! The order service's decisions, without I/O: how an event closes the undo entry, and what follows from the close.

use common::decision::{conflict, too_old};
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
        Outcome::Conflict(recorded) => return Err(conflict(event, &recorded)),
        Outcome::TooOld(watermark) => return Err(too_old(event, watermark)),
    };
    let event = match &state {
        State::Failed(reason) => event.then(Kind::CheckoutFailed, Some(reason.clone()), at_ms),
        State::Completed | State::Started => event.then(Kind::CheckoutCompleted, None, at_ms),
    };
    Ok(Followup { event, state, inboxes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::event::{Step, Watermark};
    use common::reason::FailureReason;
    use common::saga::{Items, Saga};
    use common::trace::TraceParent;

    fn event(kind: Kind, reason: Option<FailureReason>) -> SagaEvent {
        let saga = Saga {
            saga_id: "5.k3.0".parse().unwrap(),
            order_id: "5".parse().unwrap(),
            started_at_ms: 17,
            user_id: "7".parse().unwrap(),
            amount: "20".parse().unwrap(),
            items: Items::default(),
        };
        let first = SagaEvent::first(Kind::CheckoutStarted, saga, 2, TraceParent::random());
        SagaEvent { kind, reason, ..first }
    }

    fn reason() -> FailureReason {
        "out_of_stock:1".parse().unwrap()
    }

    #[test]
    fn every_event_with_and_without_a_reason() {
        for kind in Kind::ALL.iter().copied() {
            for why in [None, Some(reason())] {
                let expected = match (kind, &why) {
                    (Kind::StockReserved, _) => Decision::Close(State::Completed),
                    (Kind::PaymentDeclined | Kind::PaymentRefunded, Some(_)) => {
                        Decision::Close(State::Failed(reason()))
                    }
                    _ => Decision::Reject(format!("{kind} does not close an undo entry")),
                };
                assert_eq!(decide(&event(kind, why.clone()).into()), expected, "{kind} with {why:?}");
            }
        }
        let watermark = Event::Watermark(Watermark { closed_before_ms: 9 });
        assert_eq!(decide(&watermark), Decision::Reject("order does not react to a watermark".into()));
    }

    #[test]
    fn every_outcome_is_told_or_is_loud() {
        let failed = |text: &str| State::Failed(text.parse().unwrap());
        let (completed, undone) = (Kind::CheckoutCompleted, Kind::CheckoutFailed);
        let inboxes = || vec!["a".to_owned(), "b".to_owned()];
        let table = [
            (State::Completed, Outcome::Closed(inboxes()), Ok((completed, State::Completed, inboxes()))),
            (State::Completed, Outcome::Repeat(State::Completed), Ok((completed, State::Completed, vec![]))),
            (failed("abandoned"), Outcome::Closed(inboxes()), Ok((undone, failed("abandoned"), inboxes()))),
            // The first reason is told again, whatever this event says.
            (
                failed("abandoned"),
                Outcome::Repeat(State::Failed(reason())),
                Ok((undone, State::Failed(reason()), vec![])),
            ),
            (
                State::Completed,
                Outcome::EndedTwice("failed".into()),
                Err("saga 5.k3.0 ended twice: stock.reserved after failed"),
            ),
            (
                State::Completed,
                Outcome::Conflict("7 1".into()),
                Err("saga 5.k3.0 is recorded with different content: 7 1"),
            ),
            (
                State::Completed,
                Outcome::TooOld(18),
                Err("too old: saga 5.k3.0 started at 17, before the watermark 18; nothing was applied"),
            ),
        ];
        let cause = event(Kind::StockReserved, None);
        for (told, outcome, expected) in table {
            let followup = follow(&cause, told, outcome.clone(), 23);
            let facts = followup.as_ref().map(|f| (f.event.kind, f.state.clone(), f.inboxes.clone()));
            assert_eq!(facts.map_err(String::as_str), expected, "{outcome:?}");
            let Ok(Followup { event, state, .. }) = followup else { continue };
            let why = match &state {
                State::Failed(reason) => Some(reason.clone()),
                State::Started | State::Completed => None,
            };
            assert_eq!((event.reason, event.saga, event.round), (why, cause.saga.clone(), 2));
            assert_eq!((event.at_ms, event.trail), (23, vec![Step { event: cause.kind, at_ms: 17 }]));
        }
    }
}
