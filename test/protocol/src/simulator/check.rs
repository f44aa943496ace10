//! The invariants: at every step, and when all is over.

use common::undo::State;

use super::World;
use super::scenario::Witness;
use crate::ledger::{Account, Violation};

impl World {
    /// What must be so after each step: nothing is lost or made, nothing is negative, and each database's books agree.
    pub fn check_books(&self) -> Result<(), Violation> {
        self.ledger.check_books(&self.databases)
    }

    /// What must be so when all is over.
    pub fn check_end(&self) -> Result<(), Violation> {
        self.check_books()?;
        for account in self.ledger.accounts() {
            self.check_saga(account)?;
        }
        self.ledger.check_orders(&self.databases.order)?;
        self.check_records()
    }

    fn check_saga(&self, account: &Account) -> Result<(), Violation> {
        let wrong =
            |what: &str| Err(Violation(format!("in the end, saga {}: {what}: {account:?}", account.saga.saga_id)));
        let is_completed = match &account.closed {
            None => return wrong("it is open"),
            Some(state) => *state == State::Completed,
        };
        if is_completed != account.reserved {
            return wrong("committed is not what stock has recorded");
        } else if is_completed && account.debited != account.saga.amount.get().cast_signed() {
            return wrong("it completed without its money");
        } else if !is_completed && account.debited != 0 {
            return wrong("it failed and kept its money");
        } else if self.messages_lost == 0 && !account.told && !account.came_too_late {
            return wrong("nobody was told the public fact, though no message was lost");
        }
        Ok(())
    }

    /// The three databases say the same of each saga that they still remember, and nothing is on the reconciler's lists.
    fn check_records(&self) -> Result<(), Violation> {
        let wrong = |saga: &dyn std::fmt::Display, what: &str| Err(Violation(format!("saga {saga}: {what}")));
        for account in self.ledger.accounts() {
            let (saga, is_completed) = (&account.saga, account.closed == Some(State::Completed));
            if let Some(record) = self.databases.payment.outcomes.get(saga)
                && is_completed != (record.outcome == payment::decision::Outcome::Debited)
            {
                return wrong(&saga.saga_id, &format!("payment recorded {record}"));
            }
            if let Some(record) = self.databases.stock.outcomes.get(saga)
                && is_completed != (record.outcome == stock::decision::Outcome::Reserved)
            {
                return wrong(&saga.saga_id, &format!("stock recorded {record}"));
            }
            let order = self.databases.order.orders.get(&saga.order_id);
            if order.is_some_and(|order| order.saga.is_some()) {
                return wrong(&saga.saga_id, "a saga of its order is in flight for ever");
            }
            if self.databases.order.places(&saga.saga_id).contains(&true) {
                return wrong(&saga.saga_id, "it is closed, and due");
            }
        }
        Ok(())
    }

    /// Whether this seed has shown that the events alone, or the undo log alone, end all sagas.
    pub fn witness(&self) -> Witness {
        self.scenario.witness
    }
}
