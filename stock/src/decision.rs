//! The stock service's decisions, without I/O: which effect an event asks for, and which event follows from an outcome.

use common::decision::{conflict, too_old};
use common::event::{Event, Kind, SagaEvent};
use common::reason::FailureReason;

/// What an event asks this service to make durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Take all items of the saga, or none.
    Reserve,
    /// Decide against the saga, unless it is decided already.
    Abandon,
}

/// What the database recorded about a saga, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All items are taken: the saga is committed.
    Reserved,
    /// Nothing was taken and nothing will be.
    Failed(FailureReason),
    /// The saga id is recorded with other items.
    Conflict(String),
    /// The saga started before the watermark: its record may have been forgotten, so nothing may begin.
    TooOld(u64),
}

/// What to do with an event that arrived.
pub type Decision = common::decision::Decision<Effect>;

/// Decides which effect an event asks for.
pub fn decide(event: &Event) -> Decision {
    match event {
        Event::Watermark(watermark) => Decision::Trim(*watermark),
        Event::Saga(event) => match event.kind {
            Kind::PaymentDebited => Decision::Apply(Effect::Reserve),
            Kind::CheckoutAbandoned => Decision::Apply(Effect::Abandon),
            kind => Decision::Reject(format!("stock does not react to {kind}")),
        },
    }
}

/// The event that follows from an outcome, or why the event that caused it is a dead letter.
///
/// # Errors
/// The outcome is one of the loud ones: a conflict, or a saga that is too old.
pub fn follow(event: &SagaEvent, outcome: Outcome, at_ms: u64) -> Result<SagaEvent, String> {
    match outcome {
        Outcome::Reserved => Ok(event.then(Kind::StockReserved, None, at_ms)),
        Outcome::Failed(reason) => Ok(event.then(Kind::StockFailed, Some(reason), at_ms)),
        Outcome::Conflict(recorded) => Err(conflict(event, &recorded)),
        Outcome::TooOld(watermark) => Err(too_old(event, watermark)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::event::{Step, Watermark};
    use common::saga::{Items, Saga};
    use common::trace::TraceParent;

    fn event(kind: Kind, reason: Option<&str>) -> SagaEvent {
        let saga = Saga {
            saga_id: "5.k3.0".parse().unwrap(),
            order_id: "5".parse().unwrap(),
            started_at_ms: 17,
            user_id: "7".parse().unwrap(),
            amount: "20".parse().unwrap(),
            items: Items::default(),
        };
        let first = SagaEvent::first(Kind::CheckoutStarted, saga, 2, TraceParent::random());
        SagaEvent { kind, reason: reason.map(|text| text.parse().unwrap()), ..first }
    }

    #[test]
    fn every_event_with_and_without_a_reason() {
        for kind in Kind::ALL.iter().copied() {
            for reason in [None, Some("abandoned")] {
                let expected = match kind {
                    Kind::PaymentDebited => Decision::Apply(Effect::Reserve),
                    Kind::CheckoutAbandoned => Decision::Apply(Effect::Abandon),
                    _ => Decision::Reject(format!("stock does not react to {kind}")),
                };
                assert_eq!(decide(&event(kind, reason).into()), expected, "{kind} with {reason:?}");
            }
        }
        let watermark = Watermark { closed_before_ms: 9 };
        assert_eq!(decide(&Event::Watermark(watermark)), Decision::Trim(watermark));
    }

    #[test]
    fn every_outcome_is_told_or_is_loud() {
        let reason = || "out_of_stock:1".parse::<FailureReason>().unwrap();
        let table = [
            (Outcome::Reserved, Ok((Kind::StockReserved, None))),
            (Outcome::Failed(reason()), Ok((Kind::StockFailed, Some(reason())))),
            (
                Outcome::Conflict("reserved 1:1".into()),
                Err("saga 5.k3.0 is recorded with different content: reserved 1:1"),
            ),
            (
                Outcome::TooOld(18),
                Err("too old: saga 5.k3.0 started at 17, before the watermark 18; nothing was applied"),
            ),
        ];
        for cause in [event(Kind::PaymentDebited, None), event(Kind::CheckoutAbandoned, Some("abandoned"))] {
            for (outcome, expected) in &table {
                let told = follow(&cause, outcome.clone(), 23);
                let facts = told.as_ref().map(|next| (next.kind, next.reason.clone())).map_err(String::as_str);
                assert_eq!(facts, *expected, "{outcome:?}");
                let Ok(next) = told else { continue };
                assert_eq!((&next.saga, next.round, &next.traceparent), (&cause.saga, 2, &cause.traceparent));
                assert_eq!((next.at_ms, next.trail), (23, vec![Step { event: cause.kind, at_ms: 17 }]));
            }
        }
    }
}
