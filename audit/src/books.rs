//! The books: everything that the three databases hold, and what must be true of it once all sagas are closed.

use std::collections::BTreeMap;

use crate::finding::{Finding, Rule};
use crate::saga::{self, Payment, Reservation, View, quantities};
use crate::sums::{self, Totals, equal};

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Pieces left.
    pub pieces: i128,
    /// Price of one.
    pub price: i128,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Who pays.
    pub user: String,
    /// `id:quantity,…` as added.
    pub items: String,
    /// What it costs.
    pub total: i128,
    /// Whether it is paid.
    pub paid: bool,
    /// The saga that is open, or that paid it, or the next one.
    pub current_saga: String,
    /// Whether a saga is open.
    pub in_flight: bool,
}

/// An undo entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    /// `started`, `completed` or `failed`.
    pub state: String,
    /// Who pays.
    pub user: String,
    /// How much.
    pub amount: i128,
    /// What for, as ordered.
    pub items: String,
    /// Why it failed.
    pub reason: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// Credit of each user.
    pub credit: BTreeMap<String, i128>,
    /// Each item.
    pub items: BTreeMap<String, Item>,
    /// Each order.
    pub orders: BTreeMap<String, Order>,
    /// Each undo entry, by saga.
    pub undo: BTreeMap<String, Undo>,
    /// Sagas that are listed as open.
    pub open: Vec<String>,
    /// Payment's outcome records, by saga: `debited <amount> <user>`, …
    pub payments: BTreeMap<String, String>,
    /// Stock's outcome records, by saga: `reserved <items>`, …
    pub reservations: BTreeMap<String, String>,
    /// The totals of each database.
    pub totals: BTreeMap<&'static str, Totals>,
}

impl Books {
    /// Everything that is not as it must be once all sagas are closed and nothing was forgotten yet.
    pub fn check(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.check_sums(&mut found);
        self.check_sagas(&mut found);
        self.check_records(&mut found);
        self.check_orders(&mut found);
        found
    }

    /// A counter of a database's totals.
    pub fn total(&self, service: &str, name: &str) -> i128 {
        self.totals.get(service).map_or(0, |totals| sums::total(totals, name))
    }

    /// Sum of all credits.
    pub fn all_credit(&self) -> i128 {
        self.credit.values().sum()
    }

    /// Sum of all pieces.
    pub fn all_pieces(&self) -> i128 {
        self.items.values().map(|item| item.pieces).sum()
    }

    /// Whether a checkout of the order was ever begun; nothing where there is no such order.
    pub fn order_has_saga(&self, order: &str) -> Option<bool> {
        let order = self.orders.get(order)?;
        Some(self.undo.contains_key(&order.current_saga) || !order.current_saga.ends_with(".0"))
    }

    /// How many orders are paid.
    pub fn paid(&self) -> usize {
        self.orders.values().filter(|order| order.paid).count()
    }

    /// Nothing is negative, and what is there is what came in less what went out.
    fn check_sums(&self, found: &mut Vec<Finding>) {
        let negative = |what: String, value: i128| {
            (value < 0).then(|| Finding::new(Rule::Negative, what, "at least 0", value.to_string()))
        };
        found.extend(self.credit.iter().filter_map(|(user, credit)| negative(format!("user {user}"), *credit)));
        for (item, Item { pieces, price }) in &self.items {
            found.extend(negative(format!("item {item}"), *pieces));
            found.extend(negative(format!("price of item {item}"), *price));
        }
        let none = Totals::new();
        let of = |service: &str| self.totals.get(service).unwrap_or(&none);
        found.extend(equal(Rule::Sum, "sum of credits", sums::credit(of("payment")), self.all_credit()));
        found.extend(equal(Rule::Sum, "sum of pieces", sums::pieces(of("stock")), self.all_pieces()));
        found.extend(equal(Rule::OpenCount, "open sagas, as counted", 0, sums::open(of("order"))));
    }

    /// Every saga is closed once, and what it took is what it had to take.
    fn check_sagas(&self, found: &mut Vec<Finding>) {
        found.extend(self.open.iter().map(|saga| Finding::new(Rule::Open, format!("saga {saga}"), "closed", "open")));
        for (saga, undo) in &self.undo {
            let order = saga::parts(saga).and_then(|(order, ..)| self.orders.get(order));
            let view = View {
                saga,
                undo: Some(undo),
                verdict: saga::verdict(saga, order),
                payment: self.payments.get(saga).map(String::as_str),
                payment_may_be_forgotten: false,
                stock: self.reservations.get(saga).map(String::as_str),
                stock_may_be_forgotten: false,
            };
            found.extend(saga::check(&view));
            if undo.state == "started" && !self.open.contains(saga) {
                found.push(Finding::new(Rule::Open, format!("saga {saga}"), "closed", "open, and listed nowhere"));
            }
        }
        let records =
            self.payments.iter().map(|it| ("payment", it)).chain(self.reservations.iter().map(|it| ("stock", it)));
        for (service, (saga, record)) in records.filter(|(_, (saga, _))| !self.undo.contains_key(*saga)) {
            let what = format!("{service} has {record:?}");
            found.push(Finding::new(Rule::Undo, format!("saga {saga}"), "an undo entry", what));
        }
    }

    /// Totals and records count the same.
    fn check_records(&self, found: &mut Vec<Finding>) {
        let payments = || self.payments.values().filter_map(|record| Payment::read(record));
        let debited: i128 =
            payments().filter(|it| matches!(it.outcome, "debited" | "refunded")).map(|it| it.amount).sum();
        let refunded: i128 = payments().filter(|it| it.outcome == "refunded").map(|it| it.amount).sum();
        let reserved: i128 =
            self.reservations.values().filter_map(|it| Reservation::read(it)).map(|it| it.taken()).sum();
        let completed: i128 = self.undo.values().filter(|it| it.state == "completed").map(|it| it.amount).sum();
        let ended = self.total("order", "completed") + self.total("order", "failed");
        let kept = i128::try_from(self.undo.len()).unwrap_or(i128::MAX);
        found.extend(
            [
                equal(Rule::Records, "debited, as counted", debited, self.total("payment", "debited")),
                equal(Rule::Records, "refunded, as counted", refunded, self.total("payment", "refunded")),
                equal(Rule::Records, "reserved, as counted", reserved, self.total("stock", "reserved")),
                equal(Rule::Records, "completed, as counted", completed, self.total("order", "completed_amount")),
                equal(Rule::Totals, "amounts of completed sagas", debited - refunded, completed),
                equal(Rule::Records, "sagas ended, as counted", kept, ended),
            ]
            .into_iter()
            .flatten(),
        );
    }

    /// An order is paid exactly when its current saga is completed, and what was paid is what the items are worth.
    fn check_orders(&self, found: &mut Vec<Finding>) {
        for (id, order) in &self.orders {
            found.extend(saga::check_order(id, order, self.undo.get(&order.current_saga), false));
        }
        let value = |(item, quantity): (&str, i128)| self.items.get(item).map_or(0, |item| item.price * quantity);
        for (saga, undo) in self.undo.iter().filter(|(_, undo)| undo.state == "completed") {
            let worth: i128 = quantities(&undo.items).unwrap_or_default().into_iter().map(value).sum();
            found.extend(equal(Rule::Worth, &format!("saga {saga}"), worth, undo.amount));
        }
    }
}
