//! The books: everything that the three databases hold, read directly, and what must be true of it.

use std::collections::BTreeMap;

use redis::aio::MultiplexedConnection;

use crate::platform::Platform;
use crate::stream::Nats;
use crate::wait::eventually;

pub mod read;

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
    /// The saga that is open, or the next one.
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
    pub totals: BTreeMap<&'static str, BTreeMap<String, i128>>,
}

/// Sums of quantities by item, `id:quantity,…`, sorted: the form in which stock records them.
fn sums(items: &str) -> BTreeMap<&str, i128> {
    let mut sums = BTreeMap::new();
    for (id, quantity) in items.split(',').filter_map(|entry| entry.split_once(':')) {
        *sums.entry(id).or_default() += quantity.parse::<i128>().expect("a quantity");
    }
    sums
}

impl Books {
    /// Waits until nothing is open and nobody works any more, reads everything, and checks it. There are no dead letters.
    ///
    /// # Panics
    /// Something stays open, or is not right.
    pub async fn closed(platform: &Platform) -> Self {
        let books = Self::closed_with_dead_letters(platform).await;
        let letters = Nats::of(platform).await.messages(crate::stream::DEAD_LETTERS).await;
        let reasons: Vec<_> = letters.iter().map(|it| (it.header("dead-subject"), it.header("dead-reason"))).collect();
        assert!(reasons.is_empty(), "dead letters: {reasons:?}");
        books
    }

    /// The same, where the test itself has caused dead letters.
    ///
    /// # Panics
    /// Something stays open, or is not right.
    pub async fn closed_with_dead_letters(platform: &Platform) -> Self {
        let nats = Nats::of(platform).await;
        eventually("every saga is closed", async || Self::count_open(platform).await == Some(0)).await;
        eventually("every consumer is idle", async || nats.is_idle().await).await;
        let books = Self::read(platform).await;
        books.assert_right();
        books
    }

    /// How many sagas are open; nothing while the database does not answer.
    pub async fn count_open(platform: &Platform) -> Option<usize> {
        let client = redis::Client::open(platform.primary_url("order").await?).ok()?;
        let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection().await.ok()?;
        let mut pipe = redis::pipe();
        for key in ["open", "retry", "retry_started"] {
            pipe.cmd("ZCARD").arg(key);
        }
        let counts: Vec<usize> = pipe.query_async(&mut connection).await.ok()?;
        Some(counts.into_iter().sum())
    }

    /// Panics with everything that is not as it must be once all sagas are closed.
    ///
    /// # Panics
    /// See above.
    pub fn assert_right(&self) {
        let mut wrong = Wrong::default();
        self.check_sums(&mut wrong);
        self.check_sagas(&mut wrong);
        self.check_orders(&mut wrong);
        let shown: Vec<_> = wrong.0.iter().take(20).cloned().collect();
        assert!(wrong.0.is_empty(), "{} things are wrong in the books:\n{}", wrong.0.len(), shown.join("\n"));
    }

    /// A counter of a database's totals.
    pub fn total(&self, service: &str, name: &str) -> i128 {
        self.totals.get(service).and_then(|totals| totals.get(name)).copied().unwrap_or(0)
    }

    /// Sum of all credits.
    pub fn all_credit(&self) -> i128 {
        self.credit.values().sum()
    }

    /// Sum of all pieces.
    pub fn all_pieces(&self) -> i128 {
        self.items.values().map(|item| item.pieces).sum()
    }

    /// Whether a checkout of the order was ever begun.
    ///
    /// # Panics
    /// There is no such order.
    pub fn has_saga(&self, order: &str) -> bool {
        let order = self.orders.get(order).unwrap_or_else(|| panic!("order {order} is gone"));
        self.undo.contains_key(&order.current_saga) || !order.current_saga.ends_with(".0")
    }

    /// How many orders are paid.
    pub fn paid(&self) -> usize {
        self.orders.values().filter(|order| order.paid).count()
    }

    /// Nothing is negative, and what is there is what came in less what went out.
    fn check_sums(&self, wrong: &mut Wrong) {
        for (user, credit) in &self.credit {
            wrong.unless(*credit >= 0, || format!("user {user} has {credit}"));
        }
        for (item, Item { pieces, price }) in &self.items {
            wrong.unless(*pieces >= 0 && *price >= 0, || format!("item {item} has {pieces} pieces at {price}"));
        }
        let payment = |name: &str| self.total("payment", name);
        let expected =
            payment("initial") - payment("replaced") + payment("deposited") - payment("paid") - payment("debited")
                + payment("refunded");
        wrong.equal("sum of credits", self.all_credit(), expected);
        let stock = |name: &str| self.total("stock", name);
        let expected = stock("initial") - stock("replaced") + stock("added") - stock("subtracted") - stock("reserved");
        wrong.equal("sum of pieces", self.all_pieces(), expected);
    }

    /// Every saga is closed once, and what it took is what it had to take.
    fn check_sagas(&self, wrong: &mut Wrong) {
        wrong.unless(self.open.is_empty(), || format!("open sagas: {:?}", self.open));
        let (mut debited, mut refunded, mut reserved, mut completed) = (0, 0, 0, 0);
        for (saga, undo) in &self.undo {
            let payment = self.payments.get(saga).map(String::as_str);
            let reservation = self.reservations.get(saga).map(String::as_str);
            match undo.state.as_str() {
                "completed" => {
                    completed += undo.amount;
                    let record = format!("debited {} {}", undo.amount, undo.user);
                    wrong.unless(payment == Some(&record), || format!("{saga} is completed with payment {payment:?}"));
                    let taken = reservation.and_then(|it| it.strip_prefix("reserved "));
                    let right = taken.is_some_and(|taken| sums(taken) == sums(&undo.items));
                    wrong.unless(right, || format!("{saga} of {} is completed with stock {reservation:?}", undo.items));
                }
                "failed" => {
                    let kept = payment.is_some_and(|it| it.starts_with("debited"));
                    wrong.unless(!kept, || format!("{saga} is failed with payment {payment:?}"));
                    let taken = reservation.is_some_and(|it| it.starts_with("reserved"));
                    wrong.unless(!taken, || format!("{saga} is failed with stock {reservation:?}"));
                }
                other => wrong.add(format!("{saga} is {other}")),
            }
        }
        for (saga, record) in &self.payments {
            wrong.unless(self.undo.contains_key(saga), || format!("payment {record:?} for {saga}, which nobody knows"));
            let words: Vec<&str> = record.split(' ').collect();
            let amount: i128 = words[1].parse().expect("an amount");
            debited += if matches!(words[0], "debited" | "refunded") { amount } else { 0 };
            refunded += if words[0] == "refunded" { amount } else { 0 };
        }
        for (saga, record) in &self.reservations {
            wrong.unless(self.undo.contains_key(saga), || format!("stock {record:?} for {saga}, which nobody knows"));
            let taken = record.strip_prefix("reserved ").map(sums).unwrap_or_default();
            reserved += taken.values().sum::<i128>();
        }
        wrong.equal("debited", self.total("payment", "debited"), debited);
        wrong.equal("refunded", self.total("payment", "refunded"), refunded);
        wrong.equal("reserved", self.total("stock", "reserved"), reserved);
        wrong.equal("amounts of completed sagas", completed, debited - refunded);
        wrong.equal("amounts that order counted", self.total("order", "completed_amount"), completed);
        let ended = self.total("order", "completed") + self.total("order", "failed");
        let opened = self.total("order", "started") + self.total("order", "recovered");
        wrong.equal("sagas ended, as counted", ended, opened);
        wrong.equal("sagas ended, as kept", ended, i128::try_from(self.undo.len()).expect("a count"));
    }

    /// An order is paid exactly when its current saga is completed, and the value reserved is what was paid.
    fn check_orders(&self, wrong: &mut Wrong) {
        for (id, order) in &self.orders {
            wrong.unless(!order.in_flight, || format!("order {id} is in flight"));
            let state = self.undo.get(&order.current_saga).map(|undo| undo.state.as_str());
            wrong.unless(order.paid == (state == Some("completed")), || {
                format!("order {id} has paid = {} and its saga {} is {state:?}", order.paid, order.current_saga)
            });
        }
        let value = |(item, quantity): (&str, i128)| self.items.get(item).map_or(0, |item| item.price * quantity);
        for (saga, undo) in self.undo.iter().filter(|(_, undo)| undo.state == "completed") {
            let worth: i128 = sums(&undo.items).into_iter().map(value).sum();
            wrong.unless(worth == undo.amount, || format!("{saga} took {} for items worth {worth}", undo.amount));
        }
    }
}

/// What is wrong.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn add(&mut self, what: String) {
        self.0.push(what);
    }

    fn unless(&mut self, right: bool, what: impl FnOnce() -> String) {
        if !right {
            self.add(what());
        }
    }

    fn equal(&mut self, what: &str, is: i128, should_be: i128) {
        self.unless(is == should_be, || format!("{what}: is {is} and should be {should_be}"));
    }
}
