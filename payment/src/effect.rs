//! The payment service's effects: the only file that talks to its database.
//!
//! | key | type | value | lifetime |
//! |---|---|---|---|
//! | `user:<id>` | string | credit | for ever |
//! | `totals` | hash | sums of all credit ever created (`initial`), replaced, deposited, paid, debited, refunded; `uncovered`: redone debits for which there was no credit any more | for ever |
//! | `outcomes:<n>` | hash | saga id → outcome record, for sagas started in the n-th 20 s since the epoch | until the watermark has passed |
//! | `buckets` | set | the keys of all `outcomes:<n>` | for ever |
//! | `watermark` | string | every saga started before this time (ms) is closed | for ever |
//! | `operation:<key>` | string | JSON: fingerprint and reply of a REST command | its own TTL |
//! | `redo:mark` | string | the position in the stream up to which inputs are taken, see `common::redis`; likewise `redo:recovered`, `redo:lock` | for ever |
//! | `replication:mark` | string | `1`: the last word of every group of calls where replicas are waited for, see `common::redis` | for ever |
//!
//! At every instant: sum of all credits = initial - replaced + deposited - paid - debited + refunded + uncovered.

use common::amount::Amount;
use common::event::{Kind, SagaEvent, Watermark};
use common::id::UserId;
use common::limits::{MAX_BUCKETS_PER_TRIM, MAX_CLOCK_AHEAD_MS, OUTCOME_BUCKET_MS};
use common::redis::{BatchChunk, Call, Library, Operation, Reply, UnexpectedReply};
use common::saga::Saga;

use crate::decision::{Effect, Outcome};

/// The functions that the service loads into its database.
pub const LIBRARY: Library = Library::new("payment", include_str!("payment.lua"));

fn user_key(user: impl std::fmt::Display) -> String {
    format!("user:{user}")
}

/// The call that carries out a saga's effect.
pub fn apply(saga: &Saga, effect: &Effect) -> Call {
    let bucket = format!("outcomes:{}", saga.started_at_ms / OUTCOME_BUCKET_MS);
    let user = user_key(&saga.user_id);
    let keys = [user.as_str(), "totals", "watermark", "buckets", bucket.as_str()];
    let name = match effect {
        Effect::Debit => "payment_debit",
        Effect::Refund(_) => "payment_refund",
    };
    let call = Call::function(&LIBRARY, name, &keys)
        .arg(saga.saga_id.as_str())
        .arg(saga.started_at_ms)
        .arg(saga.user_id.as_str())
        .arg(saga.amount.get());
    match effect {
        Effect::Debit => call,
        Effect::Refund(reason) => call.arg(reason.to_string()),
    }
}

/// The call that makes a decision true again which this service has published; nothing for other events.
pub fn redo(event: &SagaEvent) -> Option<Call> {
    let outcome = match event.kind {
        Kind::PaymentDebited => "debited",
        Kind::PaymentDeclined => "declined",
        Kind::PaymentRefunded => "refunded",
        _ => return None,
    };
    let saga = &event.saga;
    let bucket = format!("outcomes:{}", saga.started_at_ms / OUTCOME_BUCKET_MS);
    let keys = [&*user_key(&saga.user_id), "totals", "watermark", "buckets", &*bucket];
    let call = Call::function(&LIBRARY, "payment_redo", &keys)
        .arg(saga.saga_id.as_str())
        .arg(saga.started_at_ms)
        .arg(saga.user_id.as_str())
        .arg(saga.amount.get())
        .arg(outcome);
    Some(call.arg(event.reason.as_ref().map(ToString::to_string).unwrap_or_default()))
}

/// Reads what [`apply`] recorded.
///
/// # Errors
/// The functions in the database are not those of this build.
pub fn read_outcome(reply: &Reply) -> Result<Outcome, UnexpectedReply> {
    Ok(match reply.code() {
        "debited" => Outcome::Debited,
        "declined" => Outcome::Declined(reply.parse(1)?),
        "refunded" => Outcome::Refunded(reply.parse(1)?),
        "voided" => Outcome::Voided(reply.parse(1)?),
        "conflict" => Outcome::Conflict(reply.text(1).to_owned()),
        "too_old" => Outcome::TooOld(reply.parse(1)?),
        _ => return Err(reply.unexpected()),
    })
}

/// The call that forgets outcome records behind the watermark, a bounded number at a time.
pub fn trim(watermark: Watermark) -> Call {
    Call::function(&LIBRARY, "payment_trim", &["watermark", "buckets"])
        .arg(watermark.closed_before_ms)
        .arg(OUTCOME_BUCKET_MS)
        .arg(MAX_BUCKETS_PER_TRIM)
        .arg(MAX_CLOCK_AHEAD_MS)
}

/// The call that creates a user.
pub fn create_user(operation: &Operation, user: &UserId) -> Call {
    Call::once(&LIBRARY, "payment_create_user", operation, &[&user_key(user)]).arg(user.as_str())
}

/// The call that adds credit.
pub fn add_funds(operation: &Operation, user: &UserId, amount: Amount) -> Call {
    Call::once(&LIBRARY, "payment_add_funds", operation, &[&user_key(user), "totals"]).arg(amount.get())
}

/// The call that takes credit outside of any saga.
pub fn pay(operation: &Operation, user: &UserId, amount: Amount) -> Call {
    Call::once(&LIBRARY, "payment_pay", operation, &[&user_key(user), "totals"]).arg(amount.get())
}

/// The call that creates or replaces some users of a `batch_init`.
pub fn batch_init(operation: &Operation, chunk: &BatchChunk, credit: Amount) -> Call {
    Call::chunk(&LIBRARY, "payment_batch_init", operation, chunk, &["totals"])
        .arg(chunk.first)
        .arg(chunk.count)
        .arg(credit.get())
}

/// The call that reads a user's credit.
pub fn find_user(user: &UserId) -> Call {
    Call::command("GET").arg(user_key(user))
}
