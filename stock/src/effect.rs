//! The stock service's effects: the only file that talks to its database.
//!
//! | key | type | value | lifetime |
//! |---|---|---|---|
//! | `item:<id>` | hash | `stock`, `price` | for ever |
//! | `totals` | hash | sums of all pieces ever created (`initial`), replaced, added, subtracted, reserved; `uncovered`: redone reservations for which there were no pieces any more | for ever |
//! | `outcomes:<n>` | hash | saga id → outcome record, for sagas started in the n-th 20 s since the epoch | until the watermark has passed |
//! | `buckets` | set | the keys of all `outcomes:<n>` | for ever |
//! | `watermark` | string | every saga started before this time (ms) is closed | for ever |
//! | `operation:<key>` | string | JSON: fingerprint and reply of a REST command | its own TTL |
//! | `redo:mark` | string | the position in the stream up to which inputs are taken, see `common::redis`; likewise `redo:recovered`, `redo:lock` | for ever |
//! | `replication:mark` | string | `1`: the last word of every group of calls where replicas are waited for, see `common::redis` | for ever |
//!
//! At every instant: sum of all stocks = initial - replaced + added - subtracted - reserved + uncovered.

use common::amount::{Amount, Quantity};
use common::event::{Kind, SagaEvent, Watermark};
use common::id::ItemId;
use common::limits::{MAX_BUCKETS_PER_TRIM, MAX_CLOCK_AHEAD_MS, OUTCOME_BUCKET_MS};
use common::reason::FailureReason;
use common::redis::{BatchChunk, Call, Library, Operation, Reply, UnexpectedReply};
use common::saga::Saga;

use crate::decision::{Effect, Outcome};

/// The functions that the service loads into its database.
pub const LIBRARY: Library = Library::new("stock", include_str!("stock.lua"));

fn item_key(item: impl std::fmt::Display) -> String {
    format!("item:{item}")
}

/// The keys that every function about a saga takes first.
fn saga_keys(saga: &Saga) -> Vec<String> {
    let bucket = format!("outcomes:{}", saga.started_at_ms / OUTCOME_BUCKET_MS);
    vec!["totals".to_owned(), "watermark".to_owned(), "buckets".to_owned(), bucket]
}

/// The items as a record holds them: one without any would have an empty word in it.
fn items_text(saga: &Saga) -> String {
    if saga.items.iter().len() == 0 { "-".to_owned() } else { saga.items.to_string() }
}

/// The call that makes a decision true again which this service has published; nothing for other events.
pub fn redo(event: &SagaEvent) -> Option<Call> {
    let outcome = match event.kind {
        Kind::StockReserved => "reserved",
        Kind::StockFailed => "failed",
        _ => return None,
    };
    let saga = &event.saga;
    let mut keys = saga_keys(saga);
    keys.extend(saga.items.iter().map(|(item, _)| item_key(item)));
    let call = call_for("stock_redo", &keys, saga, &items_text(saga)).arg(outcome);
    let call = call.arg(event.reason.as_ref().map(ToString::to_string).unwrap_or_default());
    Some(saga.items.iter().fold(call, |call, (_, quantity)| call.arg(quantity.get())))
}

/// The call that carries out a saga's effect.
pub fn apply(saga: &Saga, effect: &Effect) -> Call {
    let mut keys = saga_keys(saga);
    let text = items_text(saga);
    match effect {
        Effect::Reserve => {
            keys.extend(saga.items.iter().map(|(item, _)| item_key(item)));
            let mut call = call_for("stock_reserve", &keys, saga, &text);
            for (item, quantity) in saga.items.iter() {
                call = call.arg(item.as_str()).arg(quantity.get());
            }
            call
        }
        Effect::Abandon => call_for("stock_abandon", &keys, saga, &text).arg(FailureReason::Abandoned.to_string()),
    }
}

fn call_for(name: &'static str, keys: &[String], saga: &Saga, items: &str) -> Call {
    Call::function(&LIBRARY, name, keys).arg(saga.saga_id.as_str()).arg(saga.started_at_ms).arg(items)
}

/// Reads what [`apply`] recorded.
///
/// # Errors
/// The functions in the database are not those of this build.
pub fn read_outcome(reply: &Reply) -> Result<Outcome, UnexpectedReply> {
    Ok(match reply.code() {
        "reserved" => Outcome::Reserved,
        "failed" => Outcome::Failed(reply.parse(1)?),
        "conflict" => Outcome::Conflict(reply.text(1).to_owned()),
        "too_old" => Outcome::TooOld(reply.parse(1)?),
        _ => return Err(reply.unexpected()),
    })
}

/// The call that forgets outcome records behind the watermark, a bounded number at a time.
pub fn trim(watermark: Watermark) -> Call {
    Call::function(&LIBRARY, "stock_trim", &["watermark", "buckets"])
        .arg(watermark.closed_before_ms)
        .arg(OUTCOME_BUCKET_MS)
        .arg(MAX_BUCKETS_PER_TRIM)
        .arg(MAX_CLOCK_AHEAD_MS)
}

/// The call that creates an item.
pub fn create_item(operation: &Operation, item: &ItemId, price: Amount) -> Call {
    Call::once(&LIBRARY, "stock_create_item", operation, &[&item_key(item)]).arg(item.as_str()).arg(price.get())
}

/// The call that adds pieces.
pub fn add(operation: &Operation, item: &ItemId, amount: Quantity) -> Call {
    Call::once(&LIBRARY, "stock_add", operation, &[&item_key(item), "totals"]).arg(amount.get())
}

/// The call that takes pieces outside of any saga.
pub fn subtract(operation: &Operation, item: &ItemId, amount: Quantity) -> Call {
    Call::once(&LIBRARY, "stock_subtract", operation, &[&item_key(item), "totals"]).arg(amount.get())
}

/// The call that creates or replaces some items of a `batch_init`.
pub fn batch_init(operation: &Operation, chunk: &BatchChunk, stock: Quantity, price: Amount) -> Call {
    Call::chunk(&LIBRARY, "stock_batch_init", operation, chunk, &["totals"])
        .arg(chunk.first)
        .arg(chunk.count)
        .arg(stock.get())
        .arg(price.get())
}

/// The call that reads an item.
pub fn find_item(item: &ItemId) -> Call {
    Call::command("HMGET").arg(item_key(item)).arg("stock").arg("price")
}

/// An item as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Pieces that are left.
    pub stock: Quantity,
    /// What one piece costs.
    pub price: Amount,
}

/// Reads what [`find_item`] found.
///
/// # Errors
/// The values are not what this build writes.
pub fn read_item(reply: &Reply) -> Result<Option<Item>, UnexpectedReply> {
    match reply.get(0) {
        None => Ok(None),
        Some(_) => Ok(Some(Item { stock: reply.parse(0)?, price: reply.parse(1)? })),
    }
}
