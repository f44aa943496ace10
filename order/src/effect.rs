//! The order service's effects: the only file that talks to its database.
//!
//! | key | type | value | lifetime |
//! |---|---|---|---|
//! | `order:<id>` | hash | `user`, `items` (`id:quantity,…` as added), `total`, `paid`, `incarnation`, `attempt`, `saga` (the open one, or empty) | for ever |
//! | `undo:<saga>` | hash | the undo entry: `state`, `order`, `user`, `amount`, `items`, `started_ms`, `inboxes`, `traceparent`; where there are any `round`, `operations`; once closed `steps`, `closed_ms`, and of a failure `reason` | open: for ever; closed: `UNDO_RETENTION_S` |
//! | `open` | sorted set | saga → when it started (ms), for open sagas that were never claimed | while open |
//! | `retry` | sorted set | saga → when it is due again (ms), for open sagas that were claimed | while open |
//! | `retry_started` | sorted set | saga → when it started (ms), for the same sagas | while open |
//! | `totals` | hash | sagas started, completed, failed, recovered; amounts completed and failed | for ever |
//! | `watermark` | string | every saga started before this time (ms) is closed | for ever |
//! | `replaced:<id>.<incarnation>` | hash | the record of an order that `batch_init` replaced and that had sagas, or what is known of one that was lost: `incarnation`, `attempt`, `paid` say which of its sagas are over | until the watermark has passed them by its margin |
//! | `replaced` | sorted set | key of such a record → no saga of it started later (ms) | as they |
//! | `operation:<key>` | string | JSON: fingerprint and reply of a REST command, or the saga of a checkout and how it ended | its own TTL |
//! | `redo:mark` | string | the position in the stream up to which inputs are taken, see `common::redis`; likewise `redo:recovered`, `redo:lock` | for ever |
//! | `replication:mark` | string | `1`: the last word of every group of calls where replicas are waited for, see `common::redis` | for ever |

use common::amount::{Amount, MAX, Quantity};
use common::event::{Kind, SagaEvent};
use common::id::{ItemId, OrderId, UserId};
use common::limits::{MAX_ENTRIES_PER_ORDER, MAX_REPLACED_FORGOTTEN, MAX_SAGAS_PER_CLAIM};
use common::redis::{BatchChunk, Call, Library, Operation, Reply, UnexpectedReply};
use common::saga::{Items, Saga, SagaId, parse_entries};
use common::trace::TraceParent;
use common::undo::State;

use crate::config::ReconcileSettings;
use crate::decision::Outcome;
use crate::undo::{read_state, write_steps};

/// The functions that the service loads into its database.
pub const LIBRARY: Library = Library::new("order", include_str!("order.lua"));

fn order_key(order: impl std::fmt::Display) -> String {
    format!("order:{order}")
}

fn undo_key(saga: &SagaId) -> String {
    format!("undo:{saga}")
}

/// A checkout that was begun, in whichever way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The undo entry is written: the saga is to be told.
    Started(Box<Saga>),
    /// A saga of the order is open already.
    Joined(SagaId),
    /// The order is paid.
    Paid,
    /// There is no such order.
    NoOrder,
    /// The first request with this operation key is still running.
    Running(SagaId),
    /// How the first request with this operation key ended.
    Ended(State),
    /// The operation key belongs to another request.
    KeyMismatch,
    /// Too many sagas are open. Nothing is written, and the operation key is free.
    Overloaded,
}

/// The call that opens a saga for an order, or joins the open one. `operation` is the client's key, where it has one; `request` tells this
/// request from another one under the same key, should the writer have to send the call again. None is opened where `most_open` are.
pub fn begin(
    operation: Option<&Operation>,
    order: &OrderId,
    inbox: &str,
    trace: &TraceParent,
    request: &str,
    most_open: u64,
) -> Call {
    let (key, fingerprint, ttl_s) =
        operation.map_or(("", "", 0), |operation| (&*operation.key, &*operation.fingerprint, operation.ttl_s));
    Call::function(&LIBRARY, "order_begin", &[key, &order_key(order), "open", "totals", "watermark", "retry"])
        .arg(fingerprint)
        .arg(ttl_s)
        .arg(inbox)
        .arg(trace.as_str())
        .arg(order.as_str())
        .arg(request)
        .arg(most_open)
}

/// Reads what [`begin`] did.
///
/// # Errors
/// The functions in the database are not those of this build.
pub fn read_begun(order: &OrderId, reply: &Reply) -> Result<Begun, UnexpectedReply> {
    Ok(match reply.code() {
        "started" => Begun::Started(Box::new(Saga {
            saga_id: reply.parse(1)?,
            order_id: order.clone(),
            started_at_ms: reply.parse(2)?,
            user_id: reply.parse(3)?,
            amount: reply.parse(4)?,
            items: read_items(reply, 5)?,
        })),
        "joined" => Begun::Joined(reply.parse(1)?),
        "paid" => Begun::Paid,
        "no_order" => Begun::NoOrder,
        "running" => Begun::Running(reply.parse(1)?),
        "recorded" if reply.text(1) == "no_order" => Begun::NoOrder,
        "recorded" => Begun::Ended(read_state(reply.text(1), reply.text(3), reply)?),
        "key_mismatch" => Begun::KeyMismatch,
        "overloaded" => Begun::Overloaded,
        _ => return Err(reply.unexpected()),
    })
}

/// The saga of a recorded end, as [`begin`] answers a client's key. A key that found its order paid was bound to none.
pub fn recorded_saga(reply: &Reply) -> Option<SagaId> {
    reply.parse(2).ok()
}

fn read_items(reply: &Reply, index: usize) -> Result<Items, UnexpectedReply> {
    parse_entries(reply.text(index)).and_then(Items::sum).map_err(|_| reply.unexpected())
}

/// Incarnation and attempt, which a saga's id is made of.
fn parts_of(saga: &SagaId) -> (&str, &str) {
    let mut parts = saga.as_str().split('.').skip(1);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// The call that makes a start true again which this service has told.
pub fn redo_start(event: &SagaEvent) -> Call {
    let saga = &event.saga;
    let keys = [&*undo_key(&saga.saga_id), &*order_key(&saga.order_id), "open", "totals", "watermark"];
    let (incarnation, attempt) = parts_of(&saga.saga_id);
    Call::function(&LIBRARY, "order_redo_start", &keys)
        .arg(saga.saga_id.as_str())
        .arg(saga.order_id.as_str())
        .arg(saga.user_id.as_str())
        .arg(saga.amount.get())
        .arg(saga.items.to_string())
        .arg(saga.started_at_ms)
        .arg(incarnation)
        .arg(attempt)
        .arg(event.traceparent.as_str())
        .arg(event.round)
}

/// The call that makes a start or a closing true again which this service has published; nothing for other events.
pub fn redo(event: &SagaEvent, retention_s: u64) -> Option<Call> {
    let state = match (event.kind, &event.reason) {
        (Kind::CheckoutStarted, _) => return Some(redo_start(event)),
        (Kind::CheckoutCompleted, _) => State::Completed,
        (Kind::CheckoutFailed, Some(reason)) => State::Failed(reason.clone()),
        _ => return None,
    };
    Some(close(&event.saga, &state, &write_steps(&event.way(), event.saga.started_at_ms), retention_s))
}

/// The call that closes a saga's undo entry, once. `steps` is the way that led there.
pub fn close(saga: &Saga, state: &State, steps: &str, retention_s: u64) -> Call {
    let order = order_key(&saga.order_id);
    let (incarnation, attempt) = parts_of(&saga.saga_id);
    let reason = match state {
        State::Failed(reason) => reason.to_string(),
        State::Started | State::Completed => String::new(),
    };
    let keys = [&*undo_key(&saga.saga_id), &*order, "open", "retry", "retry_started", "totals", "watermark"];
    Call::function(&LIBRARY, "order_close", &keys)
        .arg(saga.saga_id.as_str())
        .arg(state.name())
        .arg(reason)
        .arg(steps)
        .arg(retention_s)
        .arg(incarnation)
        .arg(attempt)
        .arg(saga.order_id.as_str())
        .arg(saga.user_id.as_str())
        .arg(saga.amount.get())
        .arg(saga.items.to_string())
        .arg(saga.started_at_ms)
}

/// Reads what [`close`] did.
///
/// # Errors
/// The functions in the database are not those of this build.
pub fn read_closed(reply: &Reply) -> Result<Outcome, UnexpectedReply> {
    Ok(match reply.code() {
        "closed" => {
            Outcome::Closed(reply.text(1).split(',').filter(|inbox| !inbox.is_empty()).map(str::to_owned).collect())
        }
        "repeat" => Outcome::Repeat(read_state(reply.text(1), reply.text(2), reply)?),
        "ended_twice" => Outcome::EndedTwice(reply.text(1).to_owned()),
        "conflict" => Outcome::Conflict(reply.text(1).to_owned()),
        "too_old" => Outcome::TooOld(reply.parse(1)?),
        _ => return Err(reply.unexpected()),
    })
}

/// An open saga that the reconciler has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its facts.
    pub saga: Saga,
    /// How old it is, in milliseconds by the database's clock.
    pub age_ms: u64,
    /// Which replay this is; the first is 1.
    pub round: u32,
    /// The trace it belongs to.
    pub traceparent: TraceParent,
}

/// The call that claims sagas that are due.
pub fn claim(settings: &ReconcileSettings) -> Call {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Call::function(&LIBRARY, "order_claim", &["open", "retry", "retry_started"])
        .arg(MAX_SAGAS_PER_CLAIM)
        .arg(ms(settings.replay_first))
        .arg(ms(settings.replay_first))
        .arg(ms(settings.replay_longest))
        .arg(rand::random::<u32>() >> 1)
}

/// Fields of one claimed saga in the reply of [`claim`].
const CLAIM_FIELDS: usize = 9;

/// Reads what [`claim`] found, and whether there is more.
///
/// # Errors
/// The functions in the database are not those of this build.
pub fn read_claimed(reply: &Reply) -> Result<(Vec<Claimed>, bool), UnexpectedReply> {
    if reply.code() != "ok" || reply.len() % CLAIM_FIELDS != 2 {
        return Err(reply.unexpected());
    }
    let entries = (2..reply.len()).step_by(CLAIM_FIELDS).map(|at| {
        Ok(Claimed {
            age_ms: reply.parse(at + 1)?,
            round: reply.parse(at + 2)?,
            saga: Saga {
                saga_id: reply.parse(at)?,
                started_at_ms: reply.parse(at + 3)?,
                order_id: reply.parse(at + 4)?,
                user_id: reply.parse(at + 5)?,
                amount: reply.parse(at + 6)?,
                items: read_items(reply, at + 7)?,
            },
            traceparent: reply.parse(at + 8)?,
        })
    });
    Ok((entries.collect::<Result<_, _>>()?, reply.text(1) == "1"))
}

/// The call that raises the watermark.
pub fn raise_watermark(settings: &ReconcileSettings) -> Call {
    let margin_ms = u64::try_from(settings.watermark_margin.as_millis()).unwrap_or(u64::MAX);
    Call::function(&LIBRARY, "order_raise_watermark", &["open", "retry_started", "watermark", "retry", "replaced"])
        .arg(margin_ms)
        .arg(MAX_REPLACED_FORGOTTEN)
}

/// The call that creates an order.
pub fn create(operation: &Operation, order: &OrderId, user: &UserId, incarnation: &str) -> Call {
    Call::once(&LIBRARY, "order_create", operation, &[&order_key(order)])
        .arg(order.as_str())
        .arg(user.as_str())
        .arg(incarnation)
}

/// What an entry costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// So much.
    Of(Amount),
    /// More than the largest amount.
    TooMuch,
    /// Nobody knows: there is no such item.
    NoItem,
    /// Nobody says. Then only a repeat is answered, from its record.
    NotKnown,
}

/// The call that adds an entry that costs `cost` to an order.
pub fn add_item(operation: &Operation, order: &OrderId, item: &ItemId, quantity: Quantity, cost: Cost) -> Call {
    let cost = match cost {
        Cost::Of(cost) => cost.to_string(),
        Cost::TooMuch => (MAX + 1).to_string(),
        Cost::NoItem => String::new(),
        Cost::NotKnown => "?".to_owned(),
    };
    Call::once(&LIBRARY, "order_add_item", operation, &[&order_key(order)])
        .arg(item.as_str())
        .arg(quantity.get())
        .arg(cost)
        .arg(MAX_ENTRIES_PER_ORDER)
}

/// One order of a `batch_init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder {
    /// Who pays.
    pub user: UserId,
    /// Its two entries, `id:quantity,id:quantity`.
    pub items: String,
    /// Its incarnation.
    pub incarnation: String,
}

/// The call that creates or replaces some orders of a `batch_init`.
pub fn batch_init(operation: &Operation, chunk: &BatchChunk, total: Amount, orders: &[NewOrder]) -> Call {
    let call = Call::chunk(&LIBRARY, "order_batch_init", operation, chunk, &[]).arg(chunk.first).arg(total.get());
    orders.iter().fold(call, |call, order| call.arg(order.user.as_str()).arg(&order.items).arg(&order.incarnation))
}

/// The call that reads an order.
pub fn find(order: &OrderId) -> Call {
    let call = Call::command("HMGET").arg(order_key(order));
    ["user", "items", "total", "paid"].into_iter().fold(call, Call::arg)
}

/// An order as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Who pays.
    pub user_id: UserId,
    /// Its entries, as they were added.
    pub items: Vec<(ItemId, Quantity)>,
    /// What it costs.
    pub total: Amount,
    /// Whether it is paid.
    pub paid: bool,
}

/// Reads what [`find`] found.
///
/// # Errors
/// The values are not what this build writes.
pub fn read_order(reply: &Reply) -> Result<Option<Order>, UnexpectedReply> {
    if reply.get(0).is_none() {
        return Ok(None);
    }
    let items = parse_entries(reply.text(1)).map_err(|_| reply.unexpected())?;
    Ok(Some(Order { user_id: reply.parse(0)?, items, total: reply.parse(2)?, paid: reply.text(3) == "1" }))
}

/// The call that reads an undo entry.
pub fn find_undo(saga: &SagaId) -> Call {
    Call::command("HGETALL").arg(undo_key(saga))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_reads_back_all_its_sagas() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let reply = Reply::of(&["ok", "1", "5.k.0", "31000", "2", "17", "5", "7", "20", "2:1,1:1,2:1", trace]);
        let (claimed, more) = read_claimed(&reply).unwrap();
        assert!(more);
        assert_eq!(claimed[0].saga.items.to_string(), "1:1,2:2");
        assert_eq!((claimed[0].age_ms, claimed[0].round), (31_000, 2));
        assert!(read_claimed(&Reply::of(&["ok", "0", "5.k.0"])).is_err());
    }
}
