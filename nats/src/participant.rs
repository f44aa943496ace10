//! A participant of the choreography: a service that answers each event about a saga with one atomic effect and one event.
//!
//! This is what somebody writes who adds a step to the saga, or builds another saga on this platform: which effect an event asks
//! for, which call carries it out, and which event follows from its reply. Batching, publishing, acknowledging, trimming and
//! dead letters come with it.

use common::decision::Decision;
use common::event::{Event, SagaEvent, Watermark};
use common::redis::{Call, CallError, Database, Position, Reply, UnexpectedReply};
use common::saga::Saga;
use common::service::wall_clock_ms;

use crate::consume::{React, Verdict};
use crate::redo::{Redo, redo_late};

/// What makes a service a participant. All of it is pure.
pub trait Participant: Redo + Default {
    /// What an event can ask the service to make durable.
    type Effect: Send;
    /// Which effect the event asks for.
    fn decide(event: &Event) -> Decision<Self::Effect>;
    /// The call of the one atomic function that carries the effect out, or answers a repeat with the recorded outcome.
    fn call(saga: &Saga, effect: &Self::Effect) -> Call;
    /// The call that forgets records behind the watermark. Its reply names how many, second; or says `in_future`, which makes the
    /// watermark a dead letter.
    fn trim(watermark: Watermark) -> Call;
    /// The event that follows from the reply, or why the event that caused it is a dead letter.
    ///
    /// # Errors
    /// The reply is not one that this build knows; the event is tried again later.
    fn follow(event: &SagaEvent, reply: &Reply, at_ms: u64) -> Result<Result<SagaEvent, String>, UnexpectedReply>;
}

/// Reacts to batches as a participant.
pub struct Reactor<P> {
    database: Database,
    participant: P,
}

impl<P: Participant> Reactor<P> {
    /// Carries effects out on this database.
    pub fn new(database: Database) -> Self {
        Self { database, participant: P::default() }
    }
}

impl<P: Participant> React for Reactor<P> {
    async fn react(&self, batch: Vec<Event>) -> Vec<Verdict> {
        let decisions: Vec<_> = batch.iter().map(P::decide).collect();
        let calls = batch.iter().zip(&decisions).filter_map(|(event, decision)| match (event, decision) {
            (Event::Saga(event), Decision::Apply(effect)) => Some(P::call(&event.saga, effect)),
            (_, Decision::Trim(watermark)) => Some(P::trim(*watermark)),
            _ => None,
        });
        let mut replies = match self.database.call_all(calls.collect(), None).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => return batch.iter().map(|_| Verdict::Retry(error.to_string())).collect(),
        };
        let mut reply = || replies.next().unwrap_or_else(|| Err(CallError::Unknown("no reply".into())));
        let verdicts = batch.iter().zip(decisions).map(|(event, decision)| match (event, decision) {
            (Event::Saga(event), Decision::Apply(_)) => after_effect::<P>(event, reply()),
            (_, Decision::Trim(_)) => after_trim(reply()),
            (_, Decision::Reject(why)) => Verdict::Dead(why),
            (Event::Watermark(_), Decision::Apply(_)) => Verdict::Dead("an effect needs a saga".into()),
        });
        verdicts.collect()
    }

    fn reached(&self, position: Position) {
        self.database.reached(position);
    }

    fn era(&self) -> u64 {
        self.database.era()
    }

    async fn redo(&self, published: &[&Event]) {
        redo_late(&self.participant, &self.database, published).await;
    }
}

fn after_effect<P: Participant>(event: &SagaEvent, reply: Result<Reply, CallError>) -> Verdict {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Verdict::Retry(error.to_string()),
    };
    match P::follow(event, &reply, wall_clock_ms()) {
        Ok(Ok(next)) => Verdict::Publish(vec![next.into()]),
        Ok(Err(why)) => Verdict::Dead(why),
        Err(error) => Verdict::Retry(error.to_string()),
    }
}

fn after_trim(reply: Result<Reply, CallError>) -> Verdict {
    match reply {
        Ok(reply) if reply.code() == "in_future" => {
            Verdict::Dead(format!("the watermark is in the future: here it is {} ms", reply.text(1)))
        }
        Ok(reply) => {
            let forgotten: u64 = reply.parse(1).unwrap_or_default();
            metrics::counter!("outcome_records_forgotten_total").increment(forgotten);
            // What is left is removed when the next watermark comes, in a few seconds.
            Verdict::Publish(Vec::new())
        }
        Err(error) => Verdict::Retry(error.to_string()),
    }
}
