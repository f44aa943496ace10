//! The stock service as a participant of the choreography: its pure decisions and its effects, put together.

use common::event::{Event, SagaEvent, Watermark};
use common::redis::{Call, Reply, UnexpectedReply};
use common::saga::Saga;
use nats::topology::Service;
use nats::{Participant, Redo};

use crate::decision::{self, Decision, Effect};
use crate::effect;

/// The stock service's part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stock;

impl Redo for Stock {
    const SERVICE: Service = Service::Stock;

    fn redo(&self, event: &SagaEvent) -> Option<Call> {
        effect::redo(event)
    }
}

impl Participant for Stock {
    type Effect = Effect;

    fn decide(event: &Event) -> Decision {
        decision::decide(event)
    }

    fn call(saga: &Saga, effect: &Effect) -> Call {
        effect::apply(saga, effect)
    }

    fn trim(watermark: Watermark) -> Call {
        effect::trim(watermark)
    }

    fn follow(event: &SagaEvent, reply: &Reply, at_ms: u64) -> Result<Result<SagaEvent, String>, UnexpectedReply> {
        Ok(decision::follow(event, effect::read_outcome(reply)?, at_ms))
    }
}
