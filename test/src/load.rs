//! Clients that check orders out, one after the other, and what each of them was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    /// 202, 5xx or no answer at all: it may have happened or not, but not by half.
    Unknown(String),
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
}

impl Seed {
    /// So many orders; credit and pieces are a little less than what they would take, so that some lack the one and some the other,
    /// and few items, so that all of them are hot.
    pub fn scarce(orders: u64) -> Self {
        let (users, items) = (40, 12);
        // Each order takes 2 of credit and 2 pieces.
        Self { orders, users, credit: 2 * orders / users * 9 / 10, items, pieces: 2 * orders / items * 8 / 10 }
    }

    /// So many orders that can all be paid.
    pub fn plenty(orders: u64) -> Self {
        Self { orders, users: 100, credit: 2 * orders, items: 20, pieces: 2 * orders }
    }

    /// Fills the platform.
    pub async fn fill(self, client: &Client) {
        client.batch_users(self.users, self.credit).await;
        client.batch_items(self.items, self.pieces, 1).await;
        client.batch_orders(self.orders, self.items, self.users, 1).await;
    }
}

/// Checkouts under way.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<Vec<(String, Told)>>,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// `clients` clients begin to check the orders "0" to `orders - 1` out, each order once.
    pub fn start(platform: &Platform, orders: u64, clients: usize) -> Self {
        let (next, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let orders = usize::try_from(orders).expect("a number of orders");
        let client = platform.client();
        let one = || {
            let (client, next, answered, stop) = (client.clone(), next.clone(), answered.clone(), stop.clone());
            async move {
                let mut told = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let order = next.fetch_add(1, Ordering::Relaxed);
                    if order >= orders {
                        break;
                    }
                    let order = order.to_string();
                    told.push((order.clone(), patiently(&client, &order, &stop).await));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                told
            }
        };
        let clients = (0..clients).map(|_| one()).collect();
        Self { clients, answered, stop }
    }

    /// How many checkouts have been answered.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
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
        self.stop.store(true, Ordering::Relaxed);
        self.all().await
    }

    /// Waits until all orders are through, and returns what all were told.
    pub async fn all(self) -> Answers {
        Answers(self.clients.join_all().await.into_iter().flatten().collect())
    }
}

/// Checks one order out, and knocks again where the door was closed: 503 promises that nothing was started.
async fn patiently(client: &Client, order: &str, stop: &AtomicBool) -> Told {
    loop {
        match check_out(client, order).await {
            Told::Unknown(why) if is_closed_door(&why) && !stop.load(Ordering::Relaxed) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            told => return told,
        }
    }
}

/// Whether this says that nothing was accepted.
pub fn is_closed_door(why: &str) -> bool {
    why.starts_with("503 ") || why.contains("Connection refused")
}

/// Checks one order out.
pub async fn check_out(client: &Client, order: &str) -> Told {
    match client.send(Method::POST, &format!("/orders/checkout/{order}"), &[]).await {
        Err(broken) => Told::Unknown(broken),
        Ok(answer) if answer.status == 200 => Told::Paid,
        Ok(answer) if (400..500).contains(&answer.status) => Told::Refused(answer.status),
        Ok(answer) => Told::Unknown(format!("{} {}", answer.status, answer.text())),
    }
}

/// What the clients of a load were told, by order.
#[derive(Debug, Clone, Default)]
pub struct Answers(pub BTreeMap<String, Told>);

impl Answers {
    /// How many were told that they have paid.
    pub fn paid(&self) -> usize {
        self.0.values().filter(|told| **told == Told::Paid).count()
    }

    /// How many were refused.
    pub fn refused(&self) -> usize {
        self.0.values().filter(|told| matches!(told, Told::Refused(_))).count()
    }

    /// What was said to those whose outcome was left open.
    pub fn unknown(&self) -> Vec<&str> {
        let text = |told: &'_ Told| matches!(told, Told::Unknown(_));
        self.0
            .values()
            .filter(|told| text(told))
            .map(|told| match told {
                Told::Unknown(why) => why.as_str(),
                _ => "",
            })
            .collect()
    }

    /// Every 200 is a paid order, every 4xx is not.
    ///
    /// # Panics
    /// Some client was told something that is not true.
    pub fn assert_true(&self, books: &Books) {
        for (order, told) in &self.0 {
            let paid = books.orders.get(order).unwrap_or_else(|| panic!("order {order} is gone")).paid;
            match told {
                Told::Paid => assert!(paid, "order {order} was answered with 200 and is not paid"),
                Told::Refused(status) => assert!(!paid, "order {order} was answered with {status} and is paid"),
                Told::Unknown(_) => {}
            }
        }
    }
}
