//! The reconciler of each order instance, as `order/src/reconcile.rs` runs it: claim, plan, publish; and the watermark.

use common::event::Event;

use super::World;
use super::scenario::Witness;
use crate::database::ClaimLimits;
use crate::glue;
use crate::ledger::Violation;

/// What the reconciler of an instance is about.
#[derive(Debug, Default)]
pub enum Reconciling {
    /// Nothing.
    #[default]
    Idle,
    /// It has claimed sagas or raised the watermark, and these events are to be published.
    Publishing(Vec<Event>),
}

impl World {
    /// The reconciler of an instance does its next step. Says whether there was one.
    pub fn step_reconciler(&mut self, instance: usize) -> Result<bool, Violation> {
        let of = &mut self.instances[instance];
        match std::mem::take(&mut of.reconciling) {
            Reconciling::Publishing(events) => {
                let all = events.len();
                let left = self.publish_claimed(instance, events)?;
                let moved = left.len() < all;
                if !left.is_empty() {
                    self.instances[instance].reconciling = Reconciling::Publishing(left);
                }
                Ok(moved)
            }
            Reconciling::Idle if of.next_watermark_ms <= self.now_ms => {
                of.next_watermark_ms = self.now_ms + super::ms(self.scenario.settings.watermark_every);
                self.raise_watermark(instance)?;
                Ok(true)
            }
            Reconciling::Idle if of.next_tick_ms <= self.now_ms && self.scenario.witness != Witness::Stream => {
                of.next_tick_ms = self.now_ms + super::ms(self.scenario.settings.every);
                Ok(self.claim(instance))
            }
            Reconciling::Idle => Ok(false),
        }
    }

    fn claim(&mut self, instance: usize) -> bool {
        if self.is_database_away(self.instances[instance].durable) {
            return false;
        }
        let (clock_ms, limits) = (self.order_clock_ms(), ClaimLimits::from(&self.scenario.settings));
        let dice = &mut self.dice;
        let (claimed, _) = self.databases.order.claim(clock_ms, limits, || dice.fraction());
        let mut events = Vec::new();
        for claimed in claimed {
            let limit = self.scenario.settings.saga_limit;
            let (event, reason) = glue::reconcile(claimed, limit, clock_ms, self.planted);
            self.count(if event.subject() == "checkout.abandoned" { "abandonments" } else { "replays" });
            self.say(|world| format!("{} claims {reason}", world.instances[instance].name));
            events.push(event);
        }
        let found = !events.is_empty();
        self.instances[instance].reconciling = if found { Reconciling::Publishing(events) } else { Reconciling::Idle };
        found
    }

    fn publish_claimed(&mut self, instance: usize, events: Vec<Event>) -> Result<Vec<Event>, Violation> {
        if self.stream_away_until_ms > self.now_ms {
            return Ok(events);
        }
        let mut left = Vec::new();
        for event in events {
            if self.dice.chance(self.scenario.odds.crash_within) {
                self.crash(instance, "with a claim");
                return Ok(Vec::new());
            }
            if !self.publish(&event)? {
                left.push(event);
            }
        }
        Ok(left)
    }

    /// Raises the watermark, which must not pass an open saga.
    pub fn raise_watermark(&mut self, instance: usize) -> Result<(), Violation> {
        if self.is_database_away(self.instances[instance].durable) {
            return Ok(());
        }
        let (clock_ms, margin_ms) = (self.order_clock_ms(), super::ms(self.scenario.settings.watermark_margin));
        let raised = self.databases.order.raise_watermark(clock_ms, margin_ms);
        self.say(|world| format!("{} raises the watermark to {}", world.instances[instance].name, raised.watermark_ms));
        let is_passed = |started_at_ms: u64| started_at_ms < raised.watermark_ms;
        if let Some(passed) = self.ledger.open().find(|account| is_passed(account.saga.started_at_ms)) {
            let (saga, watermark_ms) = (&passed.saga.saga_id, raised.watermark_ms);
            return Err(Violation(format!("saga {saga} is open, and the watermark passed it: {watermark_ms}")));
        }
        self.instances[instance].reconciling = Reconciling::Publishing(vec![glue::watermark(raised.watermark_ms)]);
        Ok(())
    }
}
