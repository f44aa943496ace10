//! Turns batches of events into groups of closes, tells who waits, and returns the public facts that follow.

use std::sync::Arc;

use common::crash;
use common::event::{Event, SagaEvent};
use common::redis::{Call, CallError, Database, Position, Reply};
use common::service::wall_clock_ms;
use common::undo::State;
use nats::topology::Service;
use nats::{Broker, React, Redo, Verdict, redo_late};

use crate::decision::{Decision, Followup, decide, follow};
use crate::effect;
use crate::undo::write_steps;
use crate::waiting::{Ended, Waiting};

/// What the order service does again after a failover.
#[derive(Debug, Clone, Copy)]
pub struct OrderRedo {
    /// How long a closed undo entry can be read, in seconds.
    pub undo_retention_s: u64,
}

impl Redo for OrderRedo {
    const SERVICE: Service = Service::Order;

    fn redo(&self, event: &SagaEvent) -> Option<Call> {
        effect::redo(event, self.undo_retention_s)
    }
}

/// The order service's side of the choreography.
pub struct Reactor {
    database: Database,
    broker: Broker,
    waiting: Waiting,
    /// The subject at which this instance is told of ends; for these, no message is needed.
    inbox: Arc<str>,
    undo_retention_s: u64,
}

impl Reactor {
    /// Reacts on this database, and tells these waiters.
    pub fn new(database: Database, broker: Broker, waiting: Waiting, inbox: &str, undo_retention_s: u64) -> Self {
        Self { database, broker, waiting, inbox: inbox.into(), undo_retention_s }
    }

    async fn after_close(&self, event: &Event, state: State, reply: Result<Reply, CallError>) -> Verdict {
        let Event::Saga(event) = event else { return Verdict::Dead("not a saga event".into()) };
        let outcome = match reply.map(|reply| effect::read_closed(&reply)) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => return Verdict::Retry(error.to_string()),
            Err(error) => return Verdict::Retry(error.to_string()),
        };
        match follow(event, state, outcome, wall_clock_ms()) {
            Ok(followup) => {
                self.tell(event, &followup).await;
                Verdict::Publish(vec![followup.event.into()])
            }
            Err(why) => Verdict::Dead(why),
        }
    }

    /// Tells the inboxes that wait. The entry is closed durably, so there is no need to wait for the public fact.
    async fn tell(&self, event: &SagaEvent, followup: &Followup) {
        let Some(ended) = Ended::new(event.saga.saga_id.clone(), &followup.state) else { return };
        for inbox in &followup.inboxes {
            if **inbox == *self.inbox {
                self.waiting.tell(&ended);
            } else if let Ok(payload) = serde_json::to_vec(&ended) {
                self.broker.notify(inbox, payload.into()).await;
            }
        }
    }
}

impl React for Reactor {
    async fn react(&self, batch: Vec<Event>) -> Vec<Verdict> {
        let decisions: Vec<Decision> = batch.iter().map(decide).collect();
        let calls = batch.iter().zip(&decisions).filter_map(|(event, decision)| match (event, decision) {
            (Event::Saga(event), Decision::Close(state)) => Some(effect::close(
                &event.saga,
                state,
                &write_steps(&event.way(), event.saga.started_at_ms),
                self.undo_retention_s,
            )),
            _ => None,
        });
        let mut replies = match self.database.call_all(calls.collect(), None).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => return batch.iter().map(|_| Verdict::Retry(error.to_string())).collect(),
        };
        crash::point("order.closed");
        let mut verdicts = Vec::with_capacity(batch.len());
        for (event, decision) in batch.iter().zip(decisions) {
            verdicts.push(match decision {
                Decision::Reject(why) => Verdict::Dead(why),
                Decision::Close(state) => {
                    let reply = replies.next().unwrap_or_else(|| Err(CallError::Unknown("no reply".into())));
                    self.after_close(event, state, reply).await
                }
            });
        }
        verdicts
    }

    fn reached(&self, position: Position) {
        self.database.reached(position);
    }

    fn era(&self) -> u64 {
        self.database.era()
    }

    async fn redo(&self, published: &[&Event]) {
        let redo = OrderRedo { undo_retention_s: self.undo_retention_s };
        redo_late(&redo, &self.database, published).await;
    }
}

/// Passes what arrives at this instance's inbox on to its waiters.
pub async fn listen(mut inbox: nats::Inbox, waiting: Waiting, stop: tokio_util::sync::CancellationToken) {
    loop {
        let message = tokio::select! {
            message = inbox.next() => message,
            () = stop.cancelled() => return,
        };
        let Some(message) = message else {
            tracing::warn!("the inbox ended; waiting clients now depend on polling");
            return;
        };
        match serde_json::from_slice::<Ended>(&message) {
            Ok(ended) => waiting.tell(&ended),
            Err(error) => tracing::warn!(%error, "a message in the inbox that is no end of a saga"),
        }
    }
}
