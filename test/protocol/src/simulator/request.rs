//! A checkout as its client sees it, in an instance of the order service: `order/src/checkout.rs` without its I/O. Every answer
//! is held against the truth.

use common::event::{Event, Kind, SagaEvent};
use common::id::OrderId;
use common::redis::Operation;
use common::saga::{Saga, SagaId};
use common::trace::TraceParent;
use common::undo::State;
use nats::topology::Durable;
use order::effect::Begun;

use super::World;
use super::scenario::Witness;
use super::stream::Message;
use crate::ledger::Violation;
use crate::planted::Bug;

/// A checkout that waits in an instance.
#[derive(Debug)]
pub struct Request {
    number: u64,
    order: OrderId,
    /// The instance that has it.
    pub instance: usize,
    stage: Stage,
    /// When it must be answered.
    pub deadline_ms: u64,
    operation: Option<Operation>,
}

#[derive(Debug)]
enum Stage {
    Arrived,
    /// The undo entry is written, `checkout.started` is not published.
    Begun(Box<Saga>),
    Waiting(SagaId),
    /// The planted bug: published before it is begun.
    ToldFirst,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// 200 or 4xx: how the checkout ended; of which saga, where that is known.
    Ended(State, Option<SagaId>),
    /// 202.
    NotKnown,
    /// 404, 409 or 422: this request did nothing.
    Refused(&'static str),
}

impl World {
    /// A client asks for the checkout of an order, with or without an `Idempotency-Key`.
    pub fn arrive(&mut self, order: OrderId, instance: usize) {
        let operation = self.dice.chance(200).then(|| {
            let key = self.dice.below(3).to_string();
            Operation::from_client(&key, format!("/orders/checkout/{order}"), 60)
        });
        self.arrivals += 1;
        let (number, deadline_ms) = (self.arrivals, self.now_ms + self.scenario.request_limit_ms);
        self.say(|world| format!("client {number} asks {} for order {order}", world.instances[instance].name));
        self.requests.push(Request { number, order, instance, stage: Stage::Arrived, deadline_ms, operation });
    }

    /// A client asks again, and is served before anything else happens.
    pub fn ask_at_once(&mut self, order: &OrderId) -> Result<(), Violation> {
        self.arrivals += 1;
        let (number, deadline_ms) = (self.arrivals, self.now_ms + self.scenario.request_limit_ms);
        let (order, operation) = (order.clone(), None);
        let mut request = Request { number, order, instance: 0, stage: Stage::Arrived, deadline_ms, operation };
        if let Begun::Started(saga) = self.ask_to_begin(&request)? {
            request.stage = Stage::Begun(saga);
            self.requests.push(request);
        }
        Ok(())
    }

    /// The clients of an instance that ended hear nothing more.
    pub fn forget_requests(&mut self, instance: usize) {
        let gone: Vec<Request> = self.requests.extract_if(.., |request| request.instance == instance).collect();
        for request in gone {
            // Of what is begun and not told, the stream knows nothing. Where it is the only witness, it was told just in time.
            if let (Stage::Begun(saga), Witness::Stream) = (request.stage, self.scenario.witness) {
                let stored = Message::of(&started(*saga, &self.traceparent));
                self.wait_for_replica(Durable::Order);
                stored.into_iter().for_each(|message| self.stream.store(message.into()));
            }
        }
    }

    /// Moves a request one step on. Says whether it could.
    pub fn step_request(&mut self, index: usize) -> Result<bool, Violation> {
        let instance = self.requests[index].instance;
        if !self.is_up(instance) {
            return Ok(false);
        }
        let mut request = self.requests.swap_remove(index);
        let (answer, moved) = match std::mem::replace(&mut request.stage, Stage::Arrived) {
            Stage::Arrived if self.planted.is(Bug::StartedBeforeUndo) => (self.tell_first(&mut request)?, true),
            Stage::Arrived | Stage::ToldFirst => (self.begin(&mut request)?, true),
            Stage::Begun(saga) => {
                let told = self.tell_started(&saga)?;
                request.stage = if told { Stage::Waiting(saga.saga_id) } else { Stage::Begun(saga) };
                (None, told)
            }
            Stage::Waiting(saga) => {
                let answer = self.look(&saga, request.deadline_ms);
                let moved = answer.is_some();
                request.stage = Stage::Waiting(saga);
                (answer, moved)
            }
        };
        match answer {
            Some(answer) => self.answer(&request, &answer)?,
            None => self.requests.push(request),
        }
        Ok(moved)
    }

    fn begin(&mut self, request: &mut Request) -> Result<Option<Answer>, Violation> {
        if self.is_database_away(Durable::Order) {
            request.stage = Stage::Arrived;
            let is_over = request.deadline_ms <= self.now_ms;
            return Ok(is_over.then_some(Answer::Refused("503")));
        }
        let told_first = self.planted.is(Bug::StartedBeforeUndo);
        let begun = self.ask_to_begin(request)?;
        // The writer repeats a call whose reply was lost: the saga is then joined and, for now, told by nobody.
        let reply_is_lost = self.scenario.witness != Witness::Stream && self.dice.chance(self.scenario.odds.reply_lost);
        let begun = if reply_is_lost { self.ask_to_begin(request)? } else { begun };
        Ok(match begun {
            Begun::Started(saga) => {
                request.stage = if told_first { Stage::Waiting(saga.saga_id) } else { Stage::Begun(saga) };
                None
            }
            Begun::Joined(saga) => {
                self.count("joined");
                request.stage = Stage::Waiting(saga);
                None
            }
            Begun::Paid => Some(Answer::Ended(State::Completed, None)),
            Begun::Ended(state) => Some(Answer::Ended(state, None)),
            Begun::NoOrder => Some(Answer::Refused("404")),
            Begun::Running(saga) if request.operation.is_some() && reply_is_lost => {
                request.stage = Stage::Waiting(saga);
                None
            }
            Begun::Running(_) => Some(Answer::Refused("409")),
            Begun::KeyMismatch => Some(Answer::Refused("422")),
            Begun::Overloaded => Some(Answer::Refused("429")),
        })
    }

    fn ask_to_begin(&mut self, request: &Request) -> Result<Begun, Violation> {
        let (clock_ms, inbox) = (self.order_clock_ms(), &self.instances[request.instance].name);
        let operation = request.operation.as_ref();
        let begun = self.databases.order.begin(clock_ms, operation, &request.order, inbox, &self.traceparent);
        self.say(|_| format!("client {}: {}", request.number, show(&begun)));
        if let Begun::Started(saga) = &begun {
            self.count("sagas");
            self.ledger.opened(saga)?;
        }
        self.check_books()?;
        Ok(begun)
    }

    /// Publishes `checkout.started`. Says whether the request goes on; it does so, too, when there was no time to.
    fn tell_started(&mut self, saga: &Saga) -> Result<bool, Violation> {
        let has_no_time = self.stream_away_until_ms > self.now_ms || self.dice.chance(self.scenario.odds.not_told);
        if has_no_time {
            // Without a reconciler there is nobody else to do it.
            let waits = self.scenario.witness == Witness::Stream;
            self.say(|_| format!("not told: {}", saga.saga_id));
            return Ok(!waits);
        }
        let event = started(saga.clone(), &self.traceparent);
        let heard = self.publish(&event)?;
        Ok(heard || self.scenario.witness != Witness::Stream)
    }

    /// The planted bug: tells the saga that will be begun in the next step.
    fn tell_first(&mut self, request: &mut Request) -> Result<Option<Answer>, Violation> {
        let (clock_ms, mut copy) = (self.order_clock_ms(), self.databases.order.clone());
        if let Begun::Started(saga) = copy.begin(clock_ms, None, &request.order, "", &self.traceparent) {
            let event = started(*saga, &self.traceparent);
            self.publish(&event)?;
        }
        request.stage = Stage::ToldFirst;
        Ok(None)
    }

    fn look(&self, saga: &SagaId, deadline_ms: u64) -> Option<Answer> {
        let ended = |state: &State| Answer::Ended(state.clone(), Some(saga.clone()));
        let entry = self.databases.order.undo.get(saga).map(|entry| &entry.state);
        match entry.filter(|state| **state != State::Started) {
            Some(state) => Some(ended(state)),
            None if deadline_ms > self.now_ms => None,
            None if self.planted.is(Bug::TimeoutToldAsFailure) => {
                Some(ended(&State::Failed(common::reason::FailureReason::Abandoned)))
            }
            None => Some(Answer::NotKnown),
        }
    }

    /// The one who closes a saga tells the inboxes that wait; each hears of it, or not.
    pub fn notify(&mut self, event: &Event, state: &State, inboxes: &[String]) -> Result<(), Violation> {
        let Event::Saga(SagaEvent { saga, .. }) = event else { return Ok(()) };
        for inbox in inboxes {
            let hears = self.instances.iter().position(|instance| instance.name == *inbox);
            let Some(instance) = hears.filter(|instance| self.is_up(*instance)) else { continue };
            if self.dice.chance(self.scenario.odds.notification_lost) {
                self.count("notifications lost");
                continue;
            }
            let is_told = |request: &Request| {
                request.instance == instance
                    && matches!(&request.stage, Stage::Waiting(waits_for) if *waits_for == saga.saga_id)
            };
            let told: Vec<Request> = self.requests.extract_if(.., |request| is_told(request)).collect();
            for request in told {
                self.answer(&request, &Answer::Ended(state.clone(), Some(saga.saga_id.clone())))?;
            }
        }
        Ok(())
    }

    /// Holds an answer against the truth.
    fn answer(&mut self, request: &Request, answer: &Answer) -> Result<(), Violation> {
        self.say(|_| format!("client {} is answered {answer:?}", request.number));
        let (state, saga) = match answer {
            Answer::Ended(state, saga) => (state, saga),
            Answer::NotKnown => {
                self.count("answered 202");
                return Ok(());
            }
            Answer::Refused(code) => {
                self.count(if *code == "409" { "answered 409" } else { "answered otherwise" });
                return Ok(());
            }
        };
        self.count(if *state == State::Completed { "answered 200" } else { "answered 4xx" });
        // Without a saga, the answer is about any that the order has had.
        let is_true = self.ledger.accounts().any(|account| {
            let is_meant =
                saga.as_ref().map_or(account.saga.order_id == request.order, |saga| account.saga.saga_id == *saga);
            is_meant && account.closed.as_ref().is_some_and(|closed| closed.name() == state.name())
        });
        let (number, order) = (request.number, &request.order);
        let lie = || Violation(format!("client {number} is told that order {order} is {}; it is not", state.name()));
        if is_true { Ok(()) } else { Err(lie()) }
    }
}

fn started(saga: Saga, trace: &TraceParent) -> Event {
    SagaEvent::first(Kind::CheckoutStarted, saga, 0, trace.clone()).into()
}

fn show(begun: &Begun) -> String {
    match begun {
        Begun::Started(saga) => format!("started {} for {} at {}", saga.saga_id, saga.amount, saga.started_at_ms),
        other => format!("{other:?}"),
    }
}
