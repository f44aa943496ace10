//! What the pure decisions of payment and stock have in common: the shape of an answer to an event, and the words for what
//! must not pass in silence.

use crate::event::{SagaEvent, Watermark};

/// What a service does about an event that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<E> {
    /// Carry the effect out for the event's saga.
    Apply(E),
    /// Forget records behind the watermark.
    Trim(Watermark),
    /// The event should not have come here.
    Reject(String),
}

/// The saga id is recorded with other content: somebody made two sagas under one id.
pub fn conflict(event: &SagaEvent, recorded: &str) -> String {
    format!("saga {} is recorded with different content: {recorded}", event.saga.saga_id)
}

/// The saga started before the watermark, so its record may have been forgotten, and nothing may begin.
pub fn too_old(event: &SagaEvent, watermark: u64) -> String {
    format!(
        "too old: saga {} started at {}, before the watermark {watermark}; nothing was applied",
        event.saga.saga_id, event.saga.started_at_ms
    )
}
