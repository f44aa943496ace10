//! The payment service as a participant of the choreography: its pure decisions and its effects, put together.

use common::event::{Event, SagaEvent, Watermark};
use common::redis::{Call, Reply, UnexpectedReply};
use common::saga::Saga;
use nats::topology::Service;
use nats::{Participant, Redo};

use crate::decision::{self, Decision, Effect};
use crate::effect;

/// The payment service's part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Payment;

impl Redo for Payment {
    const SERVICE: Service = Service::Payment;

    fn redo(&self, event: &SagaEvent) -> Option<Call> {
        effect::redo(event)
    }
}

impl Participant for Payment {
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
