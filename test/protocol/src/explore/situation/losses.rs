//! Payment's or stock's database forgets what it decided last about a saga, and redoes it where it was published.

use common::event::{Kind, SagaEvent};
use common::saga::{Saga, SagaId};
use nats::topology::Durable;

use super::{Letter, NOW_MS, Situation};
use crate::ledger::Violation;
use crate::planted::{Bug, Planted};

impl Situation {
    /// The letters that tell what a service decided about a saga.
    fn told_by(&self, of: Durable, saga: &SagaId) -> impl Iterator<Item = &Letter> {
        let kinds: &[Kind] = match of {
            Durable::Payment => &[Kind::PaymentDebited, Kind::PaymentDeclined, Kind::PaymentRefunded],
            Durable::Stock => &[Kind::StockReserved, Kind::StockFailed],
            Durable::Order => &[],
        };
        // In the order in which they were decided.
        kinds.iter().flat_map(move |kind| {
            let letters = self.letters.iter().map(|letter| &**letter);
            letters.filter(move |letter| letter.event.kind == *kind && letter.event.saga.saga_id == *saga)
        })
    }

    /// Whether a database may forget what it decided last about a saga: where it was published, the stream must tell it still, because
    /// what both witnesses have lost is lost.
    pub(super) fn may_forget(&self, of: Durable, saga: &Saga) -> bool {
        let last = match of {
            Durable::Payment => self.databases.payment.last_decision(saga),
            _ => self.databases.stock.last_decision(saga),
        };
        last.is_some_and(|kind| {
            let mut letters = self.told_by(of, &saga.saga_id);
            !self.told.contains(&(kind.subject(), saga.saga_id.clone()))
                || letters.any(|letter| letter.event.kind == kind)
        })
    }

    pub(super) fn lose_decision(&mut self, of: Durable, saga: &SagaId, planted: Planted) -> Result<(), Violation> {
        self.tail_losses -= 1;
        let Some(account) = self.ledger.account(saga).map(|account| account.saga.clone()) else { return Ok(()) };
        let before = self.databases.clone();
        let skipped = match of {
            Durable::Payment => {
                self.databases.payment.lose_decision(&account);
                Bug::PaymentRedoSkipped
            }
            _ => {
                self.databases.stock.lose_decision(&account);
                Bug::StockRedoSkipped
            }
        };
        let told: Vec<SagaEvent> = self.told_by(of, saga).map(|letter| letter.event.clone()).collect();
        for event in told.iter().filter(|_| !planted.is(skipped)) {
            self.databases.redo(event, NOW_MS, u64::from(u32::MAX));
        }
        let published = |kind: Kind, saga: &SagaId| self.told.contains(&(kind.subject(), saga.clone()));
        self.ledger.restate(of, &before, &self.databases, published)
    }
}
