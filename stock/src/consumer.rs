//! Turns batches of events into groups of effects, and their outcomes into the events that follow.

use common::event::Event;
use common::redis::{CallError, Reply};
use common::service::wall_clock_ms;
use nats::{React, Verdict};

use crate::decision::{Decision, decide, follow};
use crate::effect::{self, Effects};

/// The stock service's side of the choreography.
pub struct Reactor {
    effects: Effects,
}

impl Reactor {
    /// Reacts with these effects.
    pub fn new(effects: Effects) -> Self {
        Self { effects }
    }
}

impl React for Reactor {
    async fn react(&self, batch: Vec<Event>) -> Vec<Verdict> {
        let decisions: Vec<Decision> = batch.iter().map(decide).collect();
        let calls = batch.iter().zip(&decisions).filter_map(|(event, decision)| match (event, decision) {
            (Event::Saga(event), Decision::Apply(effect)) => Some(effect::apply(&event.saga, effect)),
            (_, Decision::Trim(watermark)) => Some(effect::trim(*watermark)),
            _ => None,
        });
        let mut replies = match self.effects.run_all(calls.collect()).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => return batch.iter().map(|_| Verdict::Retry(error.to_string())).collect(),
        };
        let missing = || Err(CallError::Unknown("no reply".into()));
        let verdicts = batch.iter().zip(decisions).map(|(event, decision)| match decision {
            Decision::Reject(why) => Verdict::Dead(why),
            Decision::Trim(_) => after_trim(replies.next().unwrap_or_else(missing)),
            Decision::Apply(_) => after_effect(event, replies.next().unwrap_or_else(missing)),
        });
        verdicts.collect()
    }
}

fn after_effect(event: &Event, reply: Result<Reply, CallError>) -> Verdict {
    let Event::Saga(event) = event else { return Verdict::Dead("not a saga event".into()) };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Verdict::Retry(error.to_string()),
    };
    match effect::read_outcome(&reply) {
        Ok(outcome) => match follow(event, outcome, wall_clock_ms()) {
            Ok(next) => Verdict::Publish(vec![next.into()]),
            Err(why) => Verdict::Dead(why),
        },
        Err(error) => Verdict::Retry(error.to_string()),
    }
}

fn after_trim(reply: Result<Reply, CallError>) -> Verdict {
    match reply {
        Ok(reply) => {
            let forgotten: u64 = reply.parse(1).unwrap_or_default();
            metrics::counter!("outcome_records_forgotten_total").increment(forgotten);
            // What is left is removed when the next watermark comes, in a few seconds.
            Verdict::Publish(Vec::new())
        }
        Err(error) => Verdict::Retry(error.to_string()),
    }
}
