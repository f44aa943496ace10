//! After the faults: everything is there again, and every saga must end within its time; then old messages come once more,
//! and nothing may change.

use common::limits::OUTCOME_BUCKET_MS;
use nats::topology::Durable;

use super::reconciler::Reconciling;
use super::scenario::{Odds, Witness};
use super::{World, ms};
use crate::ledger::Violation;

/// The order database's clock is off by less than this.
const MAX_SKEW_MS: u64 = 20_000;

impl World {
    /// Ends the faults, lets everything end, and checks it.
    pub fn calm_down(&mut self) -> Result<(), Violation> {
        self.say(|_| "the faults are over".to_owned());
        self.scenario.odds = Odds::default();
        self.stream_away_until_ms = 0;
        self.database_away_until_ms = [0; 3];
        for instance in &mut self.instances {
            instance.away_until_ms = 0;
        }
        if self.scenario.payment_stays_away {
            self.decide_without_payment()?;
        }
        let settings = &self.scenario.settings;
        let limit_ms = 2 * ms(settings.saga_limit) + 4 * ms(settings.replay_longest) + 4 * MAX_SKEW_MS;
        self.run_until(self.now_ms + limit_ms, World::is_settled)?;
        self.check_end()?;
        self.echo()?;
        self.check_end()
    }

    /// Payment is away; all others are there. What is past its limit must be decided all the same.
    fn decide_without_payment(&mut self) -> Result<(), Violation> {
        self.say(|_| "payment stays away".to_owned());
        self.count("payment stays away");
        let settings = &self.scenario.settings;
        let until_ms = self.now_ms + ms(settings.saga_limit) + 2 * ms(settings.replay_longest) + 2 * MAX_SKEW_MS;
        self.pause_payment(u64::MAX);
        let decided = |world: &World| world.ledger.open().all(|account| account.reserved || account.refused);
        self.run_until(until_ms, decided)?;
        self.pause_payment(0);
        Ok(())
    }

    fn pause_payment(&mut self, until_ms: u64) {
        for instance in self.instances.iter_mut().filter(|instance| instance.durable == Durable::Payment) {
            instance.away_until_ms = until_ms;
        }
    }

    /// Whether nothing is on its way any more.
    fn is_settled(&self) -> bool {
        self.requests.is_empty()
            && self.ledger.open().next().is_none()
            && self.stream.next_due_ms(self.now_ms).is_none()
            && self.instances.iter().all(|of| of.batches.is_empty() && matches!(of.reconciling, Reconciling::Idle))
    }

    /// Runs everything that is there until something is so.
    fn run_until(&mut self, limit_ms: u64, is_so: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        while !is_so(self) {
            if self.now_ms > limit_ms {
                let open: Vec<_> = self.ledger.open().map(|account| account.saga.saga_id.as_str()).collect();
                return Err(Violation(format!("not over in time: sagas {open:?} are open or undecided")));
            }
            if self.run_round()? {
                self.now_ms += self.dice.below(3);
            } else {
                self.now_ms = self.next_event_ms();
            }
        }
        Ok(())
    }

    /// Lets each instance and each client do what it can. Says whether anything was done.
    fn run_round(&mut self) -> Result<bool, Violation> {
        let mut moved = false;
        for instance in
            (0..self.instances.len()).filter(|n| self.instances[*n].away_until_ms <= self.now_ms).collect::<Vec<_>>()
        {
            while self.fetch(instance) {
                moved = true;
            }
            while self.step_batch(instance)? {
                moved = true;
            }
            if self.instances[instance].durable == Durable::Order {
                moved |= self.step_reconciler(instance)?;
            }
        }
        for index in (0..self.requests.len()).rev() {
            if index < self.requests.len() {
                moved |= self.step_request(index)?;
            }
        }
        Ok(moved)
    }

    /// When something can happen next.
    fn next_event_ms(&self) -> u64 {
        let stream = self.stream.next_due_ms(self.now_ms);
        let claims = self.scenario.witness != Witness::Stream;
        let first_ms = ms(self.scenario.settings.replay_first);
        let due = self.databases.order.next_due_ms(first_ms).filter(|_| claims);
        // By the clock of everybody else.
        let due = due.map(|due| due.saturating_add_signed(-self.order_skew_ms));
        let deadlines = self.requests.iter().map(|request| request.deadline_ms).min();
        let next = [stream, due, deadlines].into_iter().flatten().min().unwrap_or(self.now_ms);
        next.clamp(self.now_ms + 1, self.now_ms + 1_000)
    }

    /// Old messages come again, some of them long after everything about their sagas is forgotten.
    fn echo(&mut self) -> Result<(), Violation> {
        for _ in 0..2 {
            let margin_ms = ms(self.scenario.settings.watermark_margin);
            let pass_ms = self.dice.one_of(&[0, OUTCOME_BUCKET_MS, 400_000]);
            self.now_ms += pass_ms + if self.dice.chance(700) { margin_ms + MAX_SKEW_MS } else { 0 };
            self.databases.order.expire(self.order_clock_ms());
            let limit_ms = self.now_ms + 60_000;
            self.run_until(limit_ms, |world| {
                world.is_settled()
                    && world
                        .instances
                        .iter()
                        .all(|of| of.next_watermark_ms > world.now_ms || of.durable != Durable::Order)
            })?;
            for _ in 0..self.dice.below(8) {
                self.duplicate();
            }
            self.run_until(self.now_ms + 60_000, World::is_settled)?;
        }
        Ok(())
    }
}
