//! The exploration as `stateright` takes it: the steps, and the properties that hold in every situation.

use stateright::{Model, Property};

use super::Configuration;
use super::situation::{Situation, Step};
use crate::planted::Planted;

/// A configuration to explore.
#[derive(Debug, Clone, Copy)]
pub struct Exploration {
    /// Which.
    pub configuration: Configuration,
    /// With this bug.
    pub planted: Planted,
}

impl Situation {
    /// What is wrong here, or would be in the end.
    pub fn what_is_wrong(&self, exploration: &Exploration) -> Option<String> {
        let later = || self.clone().run_out(exploration.planted).err();
        self.wrong.clone().or_else(later).map(|violation| violation.0)
    }
}

impl Model for Exploration {
    type State = Situation;
    type Action = Step;

    fn init_states(&self) -> Vec<Situation> {
        vec![Situation::first(&self.configuration, self.planted)]
    }

    fn actions(&self, situation: &Situation, steps: &mut Vec<Step>) {
        // Behind a broken property there is nothing more to learn.
        if situation.wrong.is_none() {
            situation.steps(steps);
        }
    }

    fn next_state(&self, last: &Situation, step: Step) -> Option<Situation> {
        let mut next = last.clone();
        next.wrong = next.take(&step, self.planted).err();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            // The observer checks at every step, with the changes that it saw: a saga's money and pieces are there as a whole
            // or not at all, and moved once; it is committed exactly when it is paid and taken; it closes once, as completed
            // exactly when it is committed; whoever is told is told the truth; no letter is a dead one.
            Property::always("no saga is ever wrong", |_, situation: &Situation| situation.wrong.is_none()),
            Property::always("money and pieces are conserved and never negative", |_, situation: &Situation| {
                situation.ledger.check_books(&situation.databases).is_ok()
            }),
            Property::always("an order is paid exactly when one of its sagas completed", |_, situation: &Situation| {
                situation.ledger.check_orders(&situation.databases.order).is_ok()
            }),
            Property::always("from here, a run without faults ends every saga", |model: &Self, now: &Situation| {
                now.wrong.is_some() || now.clone().run_out(model.planted).is_ok()
            }),
            // That all of this happens, or the others would prove nothing.
            Property::sometimes("a saga completes", |_, situation: &Situation| {
                situation.databases.order.totals.completed > 0
            }),
            Property::sometimes("a saga fails", |_, situation: &Situation| situation.databases.order.totals.failed > 0),
            Property::sometimes("a refund comes before its debit", |_, situation: &Situation| {
                let mut records = situation.databases.payment.outcomes.iter();
                records.any(|(_, record)| matches!(record.outcome, payment::decision::Outcome::Voided(_)))
            }),
        ]
    }
}
