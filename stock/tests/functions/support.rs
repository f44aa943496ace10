//! What the tests share: the service's database, sagas, and the books.

use std::collections::BTreeMap;

use common::redis::Library;
use common::saga::{Items, Saga, parse_entries};
use stock::decision::{Effect, Outcome};
use stock::effect::{LIBRARY, apply, read_outcome};
use testing::database::TestDatabase;

/// When the sagas of these tests started, in milliseconds: long after the epoch, at the beginning of a bucket.
pub const START_MS: u64 = 1_700_000_000_000;

/// The stock service's database.
pub struct Stock {
    /// The database itself.
    pub db: TestDatabase,
}

impl Stock {
    /// An empty one.
    pub async fn start() -> Self {
        Self::start_with(LIBRARY).await
    }

    /// An empty one with these functions.
    pub async fn start_with(library: Library) -> Self {
        Self { db: TestDatabase::start(library).await }
    }

    /// One with these items.
    pub async fn with_items(items: &[(&str, u64)]) -> Self {
        let mut stock = Self::start().await;
        items.iter().for_each(|(item, pieces)| stock.put_item(item, *pieces));
        stock
    }

    /// Adds an item behind the functions' back, and writes its pieces into the books.
    pub fn put_item(&mut self, item: &str, pieces: u64) {
        self.db.console.ask(&["HSET", &format!("item:{item}"), "stock", &pieces.to_string(), "price", "3"]);
        self.db.console.ask(&["HINCRBY", "totals", "initial", &pieces.to_string()]);
    }

    /// Carries an effect out.
    pub async fn apply(&self, saga: &Saga, effect: &Effect) -> Outcome {
        read_outcome(&self.db.call(apply(saga, effect)).await).unwrap()
    }

    /// Reserves a saga's items.
    pub async fn reserve(&self, saga: &Saga) -> Outcome {
        self.apply(saga, &Effect::Reserve).await
    }

    /// Abandons a saga.
    pub async fn abandon(&self, saga: &Saga) -> Outcome {
        self.apply(saga, &Effect::Abandon).await
    }

    /// An item's pieces.
    pub fn pieces(&mut self, item: &str) -> Option<u64> {
        self.db.console.text(&["HGET", &format!("item:{item}"), "stock"]).map(|pieces| pieces.parse().unwrap())
    }

    /// A sum of the totals.
    pub fn total(&mut self, name: &str) -> i128 {
        self.db.console.field("totals", name)
    }

    /// All outcome records: saga → record.
    pub fn records(&mut self) -> BTreeMap<String, String> {
        let buckets = self.db.console.keys("outcomes:");
        let mut indexed: Vec<String> = self.db.console.ask(&["SMEMBERS", "buckets"]).into_iter().flatten().collect();
        indexed.sort();
        assert_eq!(buckets, indexed, "the index names the buckets that there are");
        buckets.iter().flat_map(|bucket| self.db.console.hash(bucket)).collect()
    }

    /// A saga's outcome record.
    pub fn record(&mut self, saga: &Saga) -> Option<String> {
        self.records().remove(saga.saga_id.as_str())
    }

    /// Asserts that all pieces are accounted for.
    pub fn assert_books_balance(&mut self) {
        let items = self.db.console.keys("item:");
        let pieces: i128 = items.iter().map(|key| self.db.console.field(key, "stock")).sum();
        let gained: i128 = ["initial", "added", "uncovered"].iter().map(|name| self.total(name)).sum();
        let lost: i128 = ["replaced", "subtracted", "reserved"].iter().map(|name| self.total(name)).sum();
        assert_eq!(
            pieces,
            gained - lost,
            "sum of stocks = initial - replaced + added - subtracted - reserved + uncovered"
        );
    }
}

/// A saga that started at [`START_MS`], for items like `a:1,b:2`.
pub fn saga(id: &str, items: &str) -> Saga {
    Saga {
        saga_id: id.parse().unwrap(),
        order_id: id.split('.').next().unwrap().parse().unwrap(),
        started_at_ms: START_MS,
        user_id: "7".parse().unwrap(),
        amount: 20.try_into().unwrap(),
        items: Items::sum(parse_entries(items).unwrap()).unwrap(),
    }
}

/// The same saga, had it started at this time.
pub fn started_at(saga: Saga, started_at_ms: u64) -> Saga {
    Saga { started_at_ms, ..saga }
}

/// An outcome with its reason.
pub fn failed(reason: &str) -> Outcome {
    Outcome::Failed(reason.parse().unwrap())
}
