//! What the events of one saga say that it moved: each tells its own part, and in the end they must agree.

use common::event::{Kind, SagaEvent};

use crate::finding::{Finding, Rule};

/// Credit and pieces, each by the first event of its kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moved {
    debited: Option<u64>,
    refunded: u64,
    /// What the order cost, where it completed.
    pub cost: u64,
    /// Pieces that stock took.
    pub reserved: u64,
    /// Pieces of the order, where it completed.
    pub bought: u64,
}

impl Moved {
    /// Takes in the first event of a kind.
    pub fn add(&mut self, event: &SagaEvent) {
        let amount = event.saga.amount.get();
        let pieces = event.saga.items.iter().map(|(_, quantity)| quantity.get()).fold(0, u64::saturating_add);
        match event.kind {
            Kind::PaymentDebited => self.debited = Some(amount),
            Kind::PaymentRefunded => self.refunded = amount,
            Kind::StockReserved => self.reserved = pieces,
            Kind::CheckoutCompleted => (self.cost, self.bought) = (amount, pieces),
            Kind::CheckoutStarted
            | Kind::PaymentDeclined
            | Kind::StockFailed
            | Kind::CheckoutAbandoned
            | Kind::CheckoutFailed => {}
        }
    }

    /// What was taken from the user.
    pub fn debited(&self) -> u64 {
        self.debited.unwrap_or(0)
    }

    /// What was given back. A refund without a debit is a tombstone: nothing was.
    pub fn refunded(&self) -> u64 {
        self.debited.map_or(0, |_| self.refunded)
    }

    /// Of a saga that has ended: it kept what its order cost, and took the pieces that were bought; or neither, where it failed.
    pub fn differences(&self, about: &str) -> Vec<Finding> {
        let (debited, refunded, cost) = (self.debited(), self.refunded(), self.cost);
        let amount = (i128::from(debited) - i128::from(refunded) != i128::from(cost)).then(|| {
            let actual = format!("{debited} debited and {refunded} refunded");
            Finding::new(Rule::Kept, about, format!("{cost} kept of the user's credit"), actual)
        });
        let pieces = (self.reserved != self.bought).then(|| {
            let actual = format!("{} reserved", self.reserved);
            Finding::new(Rule::Kept, about, format!("{} pieces taken", self.bought), actual)
        });
        amount.into_iter().chain(pieces).collect()
    }
}
