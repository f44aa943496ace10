//! The stock service's decisions, without I/O: which effect an event asks for, and which event follows from an outcome.

use common::event::{Event, Kind, SagaEvent, Watermark};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Carry the effect out for the event's saga.
    Apply(Effect),
    /// Forget records behind the watermark.
    Trim(Watermark),
    /// The event should not have come here.
    Reject(String),
}

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
        Outcome::Conflict(recorded) => {
            Err(format!("saga {} is recorded with different content: {recorded}", event.saga.saga_id))
        }
        Outcome::TooOld(watermark) => Err(format!(
            "too old: saga {} started at {}, before the watermark {watermark}; nothing was applied",
            event.saga.saga_id, event.saga.started_at_ms
        )),
    }
}
