//! What the tests share: the service's database, orders, sagas, and the books.

use std::collections::BTreeMap;
use std::time::Duration;

use common::redis::{Library, Operation};
use common::saga::Saga;
use common::trace::TraceParent;
use common::undo::State;
use order::config::ReconcileSettings;
use order::decision::Outcome;
use order::effect::{self, Begun, Claimed, LIBRARY, NewOrder};
use testing::database::{TestDatabase, operation};

/// How long a closed undo entry can be read in these tests.
pub const RETENTION_S: u64 = 300;

/// How many sagas may be open.
pub const MOST_OPEN: u64 = 1_000;

/// The trace of all checkouts in these tests.
pub const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The order service's database.
pub struct Orders {
    /// The database itself.
    pub db: TestDatabase,
}

impl Orders {
    /// An empty one.
    pub async fn start() -> Self {
        Self::start_with(LIBRARY).await
    }

    /// An empty one with these functions.
    pub async fn start_with(library: Library) -> Self {
        Self { db: TestDatabase::start(library).await }
    }

    /// One with order 5 of user 7: incarnation `k`, items `b:1,a:2,b:3`, total 20.
    pub async fn with_order() -> Self {
        let mut orders = Self::start().await;
        orders.put_order("5", "k");
        orders
    }

    /// Adds an order behind the functions' back.
    pub fn put_order(&mut self, id: &str, incarnation: &str) {
        let key = format!("order:{id}");
        let facts = ["user", "7", "items", "b:1,a:2,b:3", "total", "20", "paid", "0", "attempt", "0", "saga", ""];
        let words: Vec<&str> = ["HSET", &key, "incarnation", incarnation].into_iter().chain(facts).collect();
        self.db.console.ask(&words);
    }

    /// Creates the order of this number, or another in its place, by a `batch_init`: of user 7, items and total as [`Self::put_order`] has them.
    pub async fn replace(&mut self, id: &str, incarnation: &str) {
        let items = "b:1,a:2,b:3".to_owned();
        let order = NewOrder { user: "7".parse().unwrap(), items, incarnation: incarnation.to_owned() };
        let mut chunk = self.db.chunks(1).await.remove(0);
        chunk.first = id.parse().unwrap();
        let operation = operation(&uuid::Uuid::new_v4().to_string());
        let call = effect::batch_init(&operation, &chunk, 20.try_into().unwrap(), &[order]);
        assert_eq!(self.db.texts(call).await, ["ok"]);
        self.db.console.ask(&["DEL", &operation.key]);
    }

    /// Begins a checkout of an order, as a new request.
    pub async fn begin(&self, order: &str, inbox: &str, operation: Option<&Operation>) -> Begun {
        self.begin_as(&uuid::Uuid::new_v4().to_string(), order, inbox, operation).await
    }

    /// Begins a checkout of an order, as the request with this token.
    pub async fn begin_as(&self, request: &str, order: &str, inbox: &str, operation: Option<&Operation>) -> Begun {
        let (order, trace) = (order.parse().unwrap(), TRACE.parse::<TraceParent>().unwrap());
        let reply = self.db.call(effect::begin(operation, &order, inbox, &trace, request, MOST_OPEN)).await;
        effect::read_begun(&order, &reply).unwrap()
    }

    /// Begins a checkout that opens a saga.
    pub async fn started(&self, order: &str, inbox: &str, operation: Option<&Operation>) -> Saga {
        match self.begin(order, inbox, operation).await {
            Begun::Started(saga) => *saga,
            other => panic!("order {order} was not started: {other:?}"),
        }
    }

    /// Closes a saga.
    pub async fn close(&self, saga: &Saga, state: &State) -> Outcome {
        let call = effect::close(saga, state, "payment.debited@17", RETENTION_S);
        effect::read_closed(&self.db.call(call).await).unwrap()
    }

    /// Claims what is due.
    pub async fn claim(&self, settings: &ReconcileSettings) -> (Vec<Claimed>, bool) {
        effect::read_claimed(&self.db.call(effect::claim(settings)).await).unwrap()
    }

    /// A saga's undo entry; empty where there is none.
    pub fn undo(&mut self, saga: &Saga) -> BTreeMap<String, String> {
        self.db.console.hash(&format!("undo:{}", saga.saga_id))
    }

    /// A field of an order.
    pub fn order(&mut self, id: &str, field: &str) -> String {
        self.db.console.text(&["HGET", &format!("order:{id}"), field]).unwrap_or_default()
    }

    /// The members of a sorted set, with their scores.
    pub fn scores(&mut self, key: &str) -> BTreeMap<String, u64> {
        let parts: Vec<String> =
            self.db.console.ask(&["ZRANGE", key, "0", "-1", "WITHSCORES"]).into_iter().flatten().collect();
        parts.chunks(2).map(|pair| (pair[0].clone(), pair[1].parse().unwrap())).collect()
    }

    /// In which of the three sorted sets a saga is.
    pub fn places(&mut self, saga: &Saga) -> Vec<&'static str> {
        let id = saga.saga_id.as_str();
        ["open", "retry", "retry_started"].into_iter().filter(|key| self.scores(key).contains_key(id)).collect()
    }

    /// Makes an open saga older, wherever its start is kept.
    pub fn make_older(&mut self, saga: &Saga, by_ms: u64) -> Saga {
        let (id, started) = (saga.saga_id.as_str(), saga.started_at_ms - by_ms);
        let text = started.to_string();
        self.db.console.ask(&["HSET", &format!("undo:{id}"), "started_ms", &text]);
        for key in ["open", "retry_started"] {
            self.db.console.ask(&["ZADD", key, "XX", &text, id]);
        }
        Saga { started_at_ms: started, ..saga.clone() }
    }

    /// The database's clock, in milliseconds.
    pub fn now_ms(&mut self) -> u64 {
        let time: Vec<u64> =
            self.db.console.ask(&["TIME"]).into_iter().flatten().map(|part| part.parse().unwrap()).collect();
        time[0] * 1_000 + time[1] / 1_000
    }

    /// A sum of the totals.
    pub fn total(&mut self, name: &str) -> i128 {
        self.db.console.field("totals", name)
    }

    /// Asserts that each saga that was opened is closed once or open.
    pub fn assert_books_balance(&mut self) {
        let open = self.scores("open").len() + self.scores("retry").len();
        assert_eq!(self.scores("retry").len(), self.scores("retry_started").len());
        let begun = self.total("started") + self.total("recovered");
        let ended = self.total("completed") + self.total("failed");
        assert_eq!(begun, ended + open as i128, "started + recovered = completed + failed + open");
    }
}

/// Settings with this first delay and longest backoff.
pub fn settings(replay_first: Duration, replay_longest: Duration) -> ReconcileSettings {
    ReconcileSettings {
        saga_limit: Duration::from_secs(30),
        replay_first,
        replay_longest,
        every: Duration::from_millis(500),
        watermark_every: Duration::from_secs(5),
        watermark_margin: Duration::from_secs(60),
    }
}

/// A state with its reason.
pub fn failed(reason: &str) -> State {
    State::Failed(reason.parse().unwrap())
}

/// A close that was the first, with these inboxes to tell.
pub fn closed(inboxes: &[&str]) -> Outcome {
    Outcome::Closed(inboxes.iter().map(|inbox| (*inbox).to_owned()).collect())
}
