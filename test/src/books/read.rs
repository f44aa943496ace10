//! Reads the databases, key by key, as the dictionaries in each service's `effect.rs` describe them.

use std::collections::{BTreeMap, HashMap};

use redis::aio::MultiplexedConnection;

use audit::books::{Item, Order, Undo};

use super::Books;
use crate::platform::{Platform, SERVICES};
use crate::wait::{PATIENCE, until};

type Fields = HashMap<String, String>;

/// Keys read with one pipeline.
const CHUNK: usize = 1_000;

impl Books {
    /// Reads everything as it is now.
    ///
    /// # Panics
    /// A database does not answer, or holds what it should not.
    pub async fn read(platform: &Platform) -> Self {
        let mut books = audit::Books::default();
        for service in SERVICES {
            let primary = until("a primary", async || platform.primary_url(service).await).await;
            let mut database = Database::open(&primary).await;
            let keys = database.keys().await;
            let of = |prefix: &str| keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect::<Vec<_>>();
            books.totals.insert(service, database.totals().await);
            match service {
                "order" => {
                    books.orders = database.hashes(of("order:")).await.into_iter().map(order).collect();
                    books.undo = database.hashes(of("undo:")).await.into_iter().map(undo).collect();
                    books.open = database.open_sagas().await;
                }
                "payment" => {
                    let credit = |(key, text): (String, String)| (id(&key), number(&text));
                    books.credit = database.strings(of("user:")).await.into_iter().map(credit).collect();
                    books.payments = records(database.hashes(of("outcomes:")).await);
                }
                _ => {
                    books.items = database.hashes(of("item:")).await.into_iter().map(item).collect();
                    books.reservations = records(database.hashes(of("outcomes:")).await);
                }
            }
        }
        Self(books)
    }
}

/// A connection to one database.
pub struct Database(pub MultiplexedConnection);

impl Database {
    /// Opens it.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn open(url: &str) -> Self {
        let client = redis::Client::open(url).expect("a URL");
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        Self(client.get_multiplexed_async_connection_with_config(&config).await.expect("the database answers"))
    }

    /// All keys.
    pub async fn keys(&mut self) -> Vec<String> {
        let (mut cursor, mut all) = (0_u64, Vec::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(CHUNK);
            let (next, mut keys): (u64, Vec<String>) = scan.query_async(&mut self.0).await.expect("SCAN");
            all.append(&mut keys);
            cursor = next;
            if cursor == 0 {
                // SCAN may return a key twice.
                all.sort_unstable();
                all.dedup();
                return all;
            }
        }
    }

    async fn hashes(&mut self, keys: Vec<String>) -> Vec<(String, Fields)> {
        let mut all = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            chunk.iter().for_each(|key| {
                pipe.cmd("HGETALL").arg(key);
            });
            let values: Vec<Fields> = pipe.query_async(&mut self.0).await.expect("HGETALL");
            all.extend(chunk.iter().cloned().zip(values));
        }
        all
    }

    async fn strings(&mut self, keys: Vec<String>) -> Vec<(String, String)> {
        let mut all = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let values: Vec<String> = redis::cmd("MGET").arg(chunk).query_async(&mut self.0).await.expect("MGET");
            all.extend(chunk.iter().cloned().zip(values));
        }
        all
    }

    async fn totals(&mut self) -> BTreeMap<String, i128> {
        let fields: Fields = redis::cmd("HGETALL").arg("totals").query_async(&mut self.0).await.expect("HGETALL");
        fields.into_iter().map(|(name, text)| (name, number(&text))).collect()
    }

    async fn open_sagas(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for key in ["open", "retry", "retry_started"] {
            let mut range = redis::cmd("ZRANGE");
            range.arg(key).arg(0).arg(-1);
            all.append(&mut range.query_async(&mut self.0).await.expect("ZRANGE"));
        }
        all
    }
}

fn id(key: &str) -> String {
    key.split_once(':').map_or("", |(_, id)| id).to_owned()
}

fn number(text: &str) -> i128 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no whole number"))
}

fn text(fields: &Fields, name: &str) -> String {
    fields.get(name).cloned().unwrap_or_default()
}

fn order((key, fields): (String, Fields)) -> (String, Order) {
    let saga = format!("{}.{}.{}", id(&key), text(&fields, "incarnation"), text(&fields, "attempt"));
    let order = Order {
        user: text(&fields, "user"),
        items: text(&fields, "items"),
        total: number(&text(&fields, "total")),
        paid: text(&fields, "paid") == "1",
        current_saga: saga,
        in_flight: !text(&fields, "saga").is_empty(),
    };
    (id(&key), order)
}

fn undo((key, fields): (String, Fields)) -> (String, Undo) {
    let undo = Undo {
        state: text(&fields, "state"),
        user: text(&fields, "user"),
        amount: number(&text(&fields, "amount")),
        items: text(&fields, "items"),
        reason: text(&fields, "reason"),
    };
    (id(&key), undo)
}

fn item((key, fields): (String, Fields)) -> (String, Item) {
    (id(&key), Item { pieces: number(&text(&fields, "stock")), price: number(&text(&fields, "price")) })
}

fn records(buckets: Vec<(String, Fields)>) -> BTreeMap<String, String> {
    buckets.into_iter().flat_map(|(_, records)| records).collect()
}
