//! Clients that check orders out, one after the other, and what each of them was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use tokio::task::JoinSet;

use crate::books::Books;
use crate::client::Client;
use crate::platform::Platform;
use crate::wait::eventually;

/// What a client was told about a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// 200: paid.
    Paid,
    /// 4xx: nothing is changed and nothing will be.
    Refused(u16),
    /// 503, or no connection at all: nothing was started.
    NotStarted(String),
    /// 202 with the place where to look, or a connection that broke: it may have happened or not, but not by half.
    Unknown(String),
    /// What the contract does not know.
    Wrong(String),
}

/// What a platform is filled with before a load.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// Orders "0", "1", …, each of two random items at price 1.
    pub orders: u64,
    /// Users, of whom each order has a random one.
    pub users: u64,
    /// Credit of each user.
    pub credit: u64,
    /// Items.
    pub items: u64,
    /// Pieces of each item.
    pub pieces: u64,
    /// So many more users and items are named in orders, and do not exist.
    pub missing: u64,
}

impl Seed {
    /// So many orders; credit and pieces are a little less than what they would take, so that some lack the one and some the other,
    /// and few items, so that all of them are hot.
    pub fn scarce(orders: u64) -> Self {
        let (users, items) = (40, 12);
        // Each order takes 2 of credit and 2 pieces.
        Self {
            orders,
            users,
            credit: 2 * orders / users * 9 / 10,
            items,
            pieces: 2 * orders / items * 8 / 10,
            missing: 0,
        }
    }

    /// So many orders that can all be paid.
    pub fn plenty(orders: u64) -> Self {
        Self { orders, users: 100, credit: 2 * orders, items: 20, pieces: 2 * orders, missing: 0 }
    }

    /// The same, where about one order in four names a user or an item that does not exist, so that all ways of a saga are walked for
    /// as long as the load lasts.
    pub fn mixed(orders: u64) -> Self {
        Self { users: 40, items: 12, missing: 2, ..Self::plenty(orders) }
    }

    /// Fills the platform.
    pub async fn fill(self, client: &Client) {
        client.batch_users(self.users, self.credit).await;
        client.batch_items(self.items, self.pieces, 1).await;
        client.batch_orders(self.orders, self.items + self.missing, self.users + self.missing, 1).await;
    }
}

/// Checkouts under way.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<BTreeMap<String, Told>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    answered: AtomicUsize,
    turned_away: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// `clients` clients begin to check the orders "0" to `orders - 1` out.
    pub fn start(platform: &Platform, orders: u64, clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let one = || one_after_the_other(platform.client(), orders, shared.clone());
        Self { clients: (0..clients).map(|_| one()).collect(), shared }
    }

    /// How many checkouts have been answered.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more are answered than now.
    ///
    /// # Panics
    /// The load ends before.
    pub async fn more(&self, count: usize) {
        let wanted = self.answered() + count;
        eventually(&format!("{count} more checkouts are answered"), async || self.answered() >= wanted).await;
    }

    /// Lets each client end after the checkout it is at, and returns what all were told.
    pub async fn stop(self) -> Answers {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.all().await
    }

    /// Waits until all orders are through, and returns what all were told.
    pub async fn all(self) -> Answers {
        let all = self.clients.join_all().await.into_iter().flatten().collect();
        Answers { all, turned_away: self.shared.turned_away.load(Ordering::Relaxed) }
    }
}

/// One client's way through the orders.
async fn one_after_the_other(client: Client, orders: u64, shared: Arc<Shared>) -> BTreeMap<String, Told> {
    let mut all = BTreeMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= orders {
            break;
        }
        let order = number.to_string();
        let told = loop {
            let told = check_out(&client, &order).await;
            if !matches!(told, Told::NotStarted(_)) {
                break told;
            }
            shared.turned_away.fetch_add(1, Ordering::Relaxed);
            // Most knock again after a moment; some believe what they were told, so that it can be seen whether it was true.
            if number.is_multiple_of(5) || shared.stop.load(Ordering::Relaxed) {
                break told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        all.insert(order, told);
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
    all
}

/// Checks one order out.
pub async fn check_out(client: &Client, order: &str) -> Told {
    match client.send(Method::POST, &format!("/orders/checkout/{order}"), &[]).await {
        Ok(answer) if answer.status == 200 => Told::Paid,
        Ok(answer) if (400..500).contains(&answer.status) => Told::Refused(answer.status),
        Ok(answer) if answer.status == 503 => Told::NotStarted(answer.text()),
        Ok(answer) if answer.status == 202 && !answer.header("location").is_empty() => Told::Unknown(answer.text()),
        Ok(answer) => Told::Wrong(format!("{} {}", answer.status, answer.text())),
        Err(broken) if broken.contains("Connection refused") => Told::NotStarted(broken),
        Err(broken) => Told::Unknown(broken),
    }
}

/// What the clients of a load were told.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// By order; the last word where a client knocked several times.
    pub all: BTreeMap<String, Told>,
    /// How often a client was told that nothing was started.
    pub turned_away: usize,
}

impl Answers {
    /// How many were told that they have paid.
    pub fn paid(&self) -> usize {
        self.all.values().filter(|told| **told == Told::Paid).count()
    }

    /// How many were refused.
    pub fn refused(&self) -> usize {
        self.all.values().filter(|told| matches!(told, Told::Refused(_))).count()
    }

    /// What was said to those whose outcome was left open.
    pub fn unknown(&self) -> Vec<&str> {
        let mut said = Vec::new();
        for told in self.all.values() {
            if let Told::Unknown(why) = told {
                said.push(why.as_str());
            }
        }
        said
    }

    /// Every 200 is a paid order, every 4xx is not, and where nothing was started there is nothing.
    ///
    /// # Panics
    /// Some client was told something that is not true.
    pub fn assert_true(&self, books: &Books) {
        for (id, told) in &self.all {
            let order = books.orders.get(id).unwrap_or_else(|| panic!("order {id} is gone"));
            match told {
                Told::Paid => assert!(order.paid, "order {id} was answered with 200 and is not paid"),
                Told::Refused(status) => assert!(!order.paid, "order {id} was answered with {status} and is paid"),
                Told::NotStarted(why) => {
                    assert!(!books.has_saga(id), "order {id} was started and its client told: {why}")
                }
                Told::Unknown(_) => {}
                Told::Wrong(why) => panic!("order {id} was answered with {why}"),
            }
        }
    }
}
