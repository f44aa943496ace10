//! What the tests share: the service's database, sagas, and the books.

use std::collections::BTreeMap;

use common::redis::Library;
use common::saga::{Items, Saga};
use payment::decision::{Effect, Outcome};
use payment::effect::{LIBRARY, apply, read_outcome};
use testing::database::TestDatabase;

/// When the sagas of these tests started, in milliseconds: long after the epoch, at the beginning of a bucket.
pub const START_MS: u64 = 1_700_000_000_000;

/// The payment service's database.
pub struct Payment {
    /// The database itself.
    pub db: TestDatabase,
}

impl Payment {
    /// An empty one.
    pub async fn start() -> Self {
        Self::start_with(LIBRARY).await
    }

    /// An empty one with these functions.
    pub async fn start_with(library: Library) -> Self {
        Self { db: TestDatabase::start(library).await }
    }

    /// One with these users.
    pub async fn with_users(users: &[(&str, u64)]) -> Self {
        let mut payment = Self::start().await;
        users.iter().for_each(|(user, credit)| payment.put_user(user, *credit));
        payment
    }

    /// Adds a user behind the functions' back, and writes the credit into the books.
    pub fn put_user(&mut self, user: &str, credit: u64) {
        self.db.console.ask(&["SET", &format!("user:{user}"), &credit.to_string()]);
        self.db.console.ask(&["HINCRBY", "totals", "initial", &credit.to_string()]);
    }

    /// Carries an effect out.
    pub async fn apply(&self, saga: &Saga, effect: &Effect) -> Outcome {
        read_outcome(&self.db.call(apply(saga, effect)).await).unwrap()
    }

    /// Debits a saga.
    pub async fn debit(&self, saga: &Saga) -> Outcome {
        self.apply(saga, &Effect::Debit).await
    }

    /// Refunds a saga, for this reason.
    pub async fn refund(&self, saga: &Saga, reason: &str) -> Outcome {
        self.apply(saga, &Effect::Refund(reason.parse().unwrap())).await
    }

    /// A user's credit.
    pub fn credit(&mut self, user: &str) -> Option<u64> {
        self.db.console.text(&["GET", &format!("user:{user}")]).map(|credit| credit.parse().unwrap())
    }

    /// A sum of the totals.
    pub fn total(&mut self, name: &str) -> i128 {
        self.db.console.field("totals", name)
    }

    /// All outcome records: saga → record.
    pub fn records(&mut self) -> BTreeMap<String, String> {
        let buckets = self.db.console.keys("outcomes:");
        let indexed: Vec<String> = {
            let mut members: Vec<String> =
                self.db.console.ask(&["SMEMBERS", "buckets"]).into_iter().flatten().collect();
            members.sort();
            members
        };
        assert_eq!(buckets, indexed, "the index names the buckets that there are");
        buckets.iter().flat_map(|bucket| self.db.console.hash(bucket)).collect()
    }

    /// A saga's outcome record.
    pub fn record(&mut self, saga: &Saga) -> Option<String> {
        self.records().remove(saga.saga_id.as_str())
    }

    /// Asserts that all credit is accounted for.
    pub fn assert_books_balance(&mut self) {
        let users = self.db.console.keys("user:");
        let credits: i128 = users.iter().map(|key| i128::from(self.db.console.number(&["GET", key]))).sum();
        let total = |payment: &mut Self, name| payment.total(name);
        let (gains, losses) = (["initial", "deposited", "refunded", "uncovered"], ["replaced", "paid", "debited"]);
        let gained: i128 = gains.iter().map(|name| total(self, name)).sum();
        let lost: i128 = losses.iter().map(|name| total(self, name)).sum();
        assert_eq!(
            credits,
            gained - lost,
            "sum of credits = initial - replaced + deposited - paid - debited + refunded + uncovered"
        );
    }
}

/// A saga of order 5 that started at [`START_MS`].
pub fn saga(id: &str, user: &str, amount: u64) -> Saga {
    Saga {
        saga_id: id.parse().unwrap(),
        order_id: id.split('.').next().unwrap().parse().unwrap(),
        started_at_ms: START_MS,
        user_id: user.parse().unwrap(),
        amount: amount.try_into().unwrap(),
        items: Items::default(),
    }
}

/// The same saga, had it started at this time.
pub fn started_at(saga: Saga, started_at_ms: u64) -> Saga {
    Saga { started_at_ms, ..saga }
}

/// An outcome with its reason.
pub fn declined(reason: &str) -> Outcome {
    Outcome::Declined(reason.parse().unwrap())
}

/// An outcome with its reason.
pub fn refunded(reason: &str) -> Outcome {
    Outcome::Refunded(reason.parse().unwrap())
}

/// An outcome with its reason.
pub fn voided(reason: &str) -> Outcome {
    Outcome::Voided(reason.parse().unwrap())
}
