//! What goes wrong between the steps of the instances.

use common::event::{Event, Kind, SagaEvent};
use common::saga::Saga;
use nats::topology::Durable;

use super::World;
use super::stream::place;
use crate::ledger::{Account, Violation};
use crate::planted::Bug;

impl World {
    /// One fault, of those that the seed has drawn; most often none.
    pub fn fault(&mut self) -> Result<(), Violation> {
        let odds = self.scenario.odds.clone();
        let instance = self.dice.index(self.instances.len());
        match self.dice.below(14) {
            0 if self.dice.chance(odds.crash) && self.is_up(instance) => self.crash(instance, "between two steps"),
            1 if self.dice.chance(odds.pause) && self.is_up(instance) => self.pause(instance),
            2 if self.dice.chance(odds.outage) => self.outage(),
            3 if self.dice.chance(odds.duplicate) => self.duplicate(),
            4 if self.dice.chance(odds.lose_tail) => {
                let count = 1 + self.dice.index(12);
                let lost = self.stream.lose_tail(count);
                self.lose(lost, "the stream loses its tail");
            }
            5 if self.dice.chance(odds.lose_one) => {
                let index = self.dice.index(self.stream.len());
                let lost = usize::from(self.stream.lose_one(index));
                self.lose(lost, "the stream loses a message");
            }
            6 if self.dice.chance(odds.purge) => {
                self.lose(self.stream.len(), "the stream is purged");
                self.stream.purge();
            }
            7 if self.dice.chance(odds.delete) => {
                self.lose(self.stream.len(), "the stream is deleted");
                self.stream.delete();
            }
            8 if self.dice.chance(odds.stream_away) => {
                self.stream_away_until_ms = self.now_ms + self.dice.between(10, 5_000);
                self.count("stream away");
            }
            9 if self.dice.chance(odds.database_away) => {
                let durable = self.dice.one_of(Durable::ALL);
                self.database_away_until_ms[place(durable)] = self.now_ms + self.dice.between(10, 5_000);
                self.count("database away");
            }
            10 if self.dice.chance(odds.clock) => {
                self.order_skew_ms = self.dice.between(0, 20_000).cast_signed() - 10_000;
                self.say(|world| format!("the order database's clock is {} ms off", world.order_skew_ms));
                self.count("clock jumps");
            }
            11 if self.dice.chance(odds.undo_lost) => return self.lose_undo(),
            12 if self.dice.chance(odds.lose_database) => return self.lose_database_tail(),
            13 if self.dice.chance(odds.lose_database) => {
                let durable = self.dice.one_of(Durable::ALL);
                self.replicate(durable);
            }
            _ => {}
        }
        Ok(())
    }

    fn lose(&mut self, messages: usize, how: &'static str) {
        self.say(|_| format!("{how}: {messages} messages are lost"));
        self.count_by(how, usize::from(messages > 0));
        self.messages_lost += messages;
    }

    /// An instance stands still, keeps what it has, and goes on as if nothing had been.
    fn pause(&mut self, instance: usize) {
        let until_ms = self.now_ms + self.dice.between(100, 20_000);
        self.say(|world| format!("{} stands still until {until_ms}", world.instances[instance].name));
        self.count("pauses");
        self.instances[instance].away_until_ms = until_ms;
    }

    /// A whole service is away for long.
    fn outage(&mut self) {
        let (durable, until_ms) = (self.dice.one_of(Durable::ALL), self.now_ms + self.dice.between(1_000, 120_000));
        self.say(|_| format!("{durable} stands still until {until_ms}"));
        self.count("outages");
        for instance in self.instances.iter_mut().filter(|instance| instance.durable == durable) {
            instance.away_until_ms = until_ms;
        }
    }

    /// A publisher that hung sends once more what it had sent before, however long ago.
    pub fn duplicate(&mut self) {
        let history = self.stream.history();
        if history.is_empty() {
            return;
        }
        let message = history[self.dice.index(history.len())].clone();
        self.say(|_| format!("sent once more: {}", message.id));
        self.count("duplicates");
        self.stream.store(message);
    }

    /// The start of a saga as the stream still tells it.
    fn told_start(&self, saga: &Saga) -> Option<SagaEvent> {
        self.stream.messages().find_map(|message| match message.event() {
            Ok(Event::Saga(event)) if event.kind == Kind::CheckoutStarted && event.saga.saga_id == saga.saga_id => {
                Some(event)
            }
            _ => None,
        })
    }

    /// The extension point for lost tails (see [`super::scenario::Odds::undo_lost`]): the order database forgets a saga that
    /// was just opened, and the client asks again.
    fn lose_undo(&mut self) -> Result<(), Violation> {
        let now_ms = self.order_clock_ms();
        // The record of an outcome is found by the saga's start, so the same id is the same saga only within one bucket.
        let bucket = |at_ms: u64| at_ms / common::limits::OUTCOME_BUCKET_MS;
        let is_young =
            |account: &&Account| self.scenario.late_undo_loss || bucket(account.saga.started_at_ms) == bucket(now_ms);
        let found = self.ledger.open().find(is_young).map(|account| account.saga.clone());
        // Of an order that was replaced nobody can ask for this saga again.
        let order = |saga: &Saga| self.databases.order.orders.get(&saga.order_id)?.saga.clone();
        let Some(saga) = found.filter(|saga| order(saga).as_ref() == Some(&saga.saga_id)) else { return Ok(()) };
        let told = self.told_start(&saga);
        // What was told to nobody, nobody has a record of; what the stream has lost as well is beyond both witnesses.
        if self.scenario.late_undo_loss && told.is_none() {
            return Ok(());
        }
        self.say(|_| format!("the order database forgets {}", saga.saga_id));
        self.count("undo entries lost");
        self.databases.order.lose_begin(&saga);
        match told.filter(|_| self.scenario.late_undo_loss && !self.planted.is(Bug::OrderRedoSkipped)) {
            // Before anything else is done with the database.
            Some(start) => {
                let redone = self.databases.order.redo_start(&start);
                self.say(|_| format!("the start of {} is redone: {redone:?}", saga.saga_id));
                self.count("starts redone");
            }
            None => self.ledger.lost(&saga.saga_id),
        }
        self.ask_at_once(&saga.order_id)
    }
}
