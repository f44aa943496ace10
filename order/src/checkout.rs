//! One checkout as its client sees it: begin, wait, answer.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use common::crash;
use common::event::{Event, Kind, SagaEvent};
use common::http::trouble;
use common::id::OrderId;
use common::problem::{Code, Problem};
use common::reason::FailureReason;
use common::redis::{Database, Operation, key_in_use, key_mismatch};
use common::saga::{Saga, SagaId};
use common::trace::TraceParent;
use common::undo::State;
use nats::Broker;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use crate::command::no_such_order;
use crate::config::Settings;
use crate::effect::{self, Begun};
use crate::undo::read_entry;
use crate::waiting::{Waiter, Waiting};

/// How often a waiter looks at the undo entry by itself, should a notification be lost.
const POLL_EVERY: Duration = Duration::from_millis(1_000);

/// Runs checkouts. Cheap to clone.
#[derive(Clone)]
pub struct Checkouts {
    database: Database,
    broker: Broker,
    waiting: Waiting,
    /// The subject at which this instance is told of ends.
    inbox: Arc<str>,
    /// Bounds the checkouts that wait here, and so the memory that they take.
    places: Arc<Semaphore>,
    /// How many sagas may be open in the database before no more are begun.
    most_open: u64,
}

impl Checkouts {
    /// Checkouts whose ends are told to `inbox`, so many at once as the settings allow.
    pub fn new(database: Database, broker: Broker, waiting: Waiting, inbox: &str, settings: &Settings) -> Self {
        let places = Arc::new(Semaphore::new(settings.max_checkouts_in_flight.min(Semaphore::MAX_PERMITS)));
        Self { database, broker, waiting, inbox: inbox.into(), places, most_open: settings.max_sagas_open }
    }

    /// Checks an order out, or joins the checkout that is under way, and waits for the end until `deadline`.
    ///
    /// # Errors
    /// Everything but success: what failed for good, what is not known yet, and what could not be started.
    pub async fn run(
        &self,
        order: &OrderId,
        operation: Operation,
        trace: TraceParent,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(overloaded(order));
        };
        let operation = Some(operation).filter(|operation| operation.is_from_client);
        // Registered before the saga can end.
        let waiter = self.waiting.register(order);
        let era = self.database.era();
        let request = operation.as_ref().map(|_| Uuid::new_v4().simple().to_string()).unwrap_or_default();
        let call = effect::begin(operation.as_ref(), order, &self.inbox, &trace, &request, self.most_open);
        let reply = self.database.call(call, Some(deadline)).await;
        let reply = reply.map_err(|error| trouble(error, format!("/orders/find/{order}")))?;
        let saga = match (effect::read_begun(order, &reply)?, operation) {
            (Begun::Started(saga), _) => {
                crash::point("order.begun");
                let saga_id = saga.saga_id.clone();
                self.tell_started(*saga, trace, deadline, era).await;
                crash::point("order.told");
                saga_id
            }
            (Begun::Joined(saga), _) => saga,
            (Begun::Paid, _) => return answer(order, None, State::Completed),
            (Begun::Ended(state), _) => return answer(order, effect::recorded_saga(&reply).as_ref(), state),
            (Begun::Overloaded, _) => return Err(overloaded(order)),
            (Begun::NoOrder, _) => return Err(no_such_order(order)),
            (Begun::Running(_), Some(operation)) => return Err(key_in_use(&operation)),
            (Begun::KeyMismatch, Some(operation)) => return Err(key_mismatch(&operation)),
            (Begun::Running(_) | Begun::KeyMismatch, None) => return Err(reply.unexpected().into()),
        };
        match self.wait(waiter, &saga, deadline).await {
            Some(state) => answer(order, Some(&saga), state),
            None => Err(Problem::not_known_yet(
                format!("the checkout of order {order} goes on as saga {saga}"),
                Some(place_of(&saga)),
            )),
        }
    }

    /// Publishes `checkout.started`. The undo entry is written, so should this fail the reconciler does it again.
    async fn tell_started(&self, saga: Saga, trace: TraceParent, deadline: Instant, era: u64) {
        let event = Event::from(SagaEvent::first(Kind::CheckoutStarted, saga, 0, trace));
        if let Err(error) = self.broker.publish(&event, Some(deadline)).await {
            tracing::warn!(%error, event = event.id(), "not published; the reconciler will do it");
        }
        if let Event::Saga(started) = &event
            && era != self.database.era()
        {
            // The entry may be lost with the primary that it was written to, and the next one recovered before this was told.
            let redone = self.database.call(effect::redo_start(started), Some(deadline)).await;
            tracing::info!(event = event.id(), ?redone, "told while the database failed over: redone");
        }
    }

    /// Waits until the saga has ended or the deadline has passed.
    async fn wait(&self, mut waiter: Waiter, saga: &SagaId, deadline: Instant) -> Option<State> {
        loop {
            // Jitter, so that the waiters of a stalled platform do not all look at once.
            let next_look = Instant::now() + POLL_EVERY.mul_f64(0.75 + rand::random::<f64>() / 2.0);
            tokio::select! {
                ended = waiter.ended(saga) => return Some(ended.state()),
                () = tokio::time::sleep_until(deadline) => return None,
                () = tokio::time::sleep_until(next_look) => {
                    if let Some(state) = self.look(saga, deadline).await {
                        return Some(state);
                    }
                }
            }
        }
    }

    /// Looks at the undo entry, and returns the saga's end if it has one.
    async fn look(&self, saga: &SagaId, deadline: Instant) -> Option<State> {
        let reply = self.database.call(effect::find_undo(saga), Some(deadline)).await.ok()?;
        let entry = read_entry(saga, &reply).ok()??;
        (entry.state != State::Started).then_some(entry.state)
    }
}

fn overloaded(order: &OrderId) -> Problem {
    Problem::new(Code::Overloaded, format!("order {order} was not checked out; try again later"))
}

/// Where a client sees what became of a saga.
fn place_of(saga: &SagaId) -> String {
    format!("/orders/saga/{saga}")
}

/// The client's answer to a saga that has ended. A refusal names the saga that was undone, so that whoever was told of one that goes on
/// can see whether it is the same.
fn answer(order: &OrderId, saga: Option<&SagaId>, state: State) -> Result<Response, Problem> {
    let (code, detail) = match state {
        State::Completed => {
            metrics::counter!("checkouts_answered_total", "outcome" => "completed").increment(1);
            return Ok("Checkout successful".into_response());
        }
        State::Failed(reason) => {
            metrics::counter!("checkouts_answered_total", "outcome" => "failed").increment(1);
            match reason {
                FailureReason::InsufficientCredit(user) => {
                    (Code::InsufficientCredit, format!("order {order}: user {user} has not enough credit"))
                }
                FailureReason::UnknownUser(user) => {
                    (Code::UnknownUser, format!("order {order}: there is no user {user}"))
                }
                FailureReason::OutOfStock(item) => {
                    (Code::OutOfStock, format!("order {order}: not enough of item {item}"))
                }
                FailureReason::UnknownItem(item) => {
                    (Code::OutOfStock, format!("order {order}: there is no item {item}"))
                }
                FailureReason::Abandoned => {
                    (Code::Abandoned, format!("the checkout of order {order} took too long; everything is undone"))
                }
            }
        }
        State::Started => (Code::Internal, format!("order {order}: an open saga cannot be answered")),
    };
    Err(Problem { instance: saga.map(place_of), ..Problem::new(code, detail) })
}
