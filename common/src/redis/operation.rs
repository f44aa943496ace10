//! Operation keys: what makes a command of the REST interface happen once, however often it is sent.

use uuid::Uuid;

/// How long the record of a request without an `Idempotency-Key` is kept: only our own repeats within the request's time
/// limit can meet it.
const INTERNAL_TTL_S: u64 = 120;

/// The key under which a command's reply is recorded, in the same atomic function as its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The Redis key of the record.
    pub key: String,
    /// What the request was: method and path. The same key with another fingerprint is another request.
    pub fingerprint: String,
    /// How long the record is kept, in seconds.
    pub ttl_s: u64,
    /// Whether the client chose the key.
    pub is_from_client: bool,
}

impl Operation {
    /// The operation of a request that carries an `Idempotency-Key`.
    pub fn from_client(key: &str, fingerprint: String, ttl_s: u64) -> Self {
        Self { key: format!("operation:client:{key}"), fingerprint, ttl_s, is_from_client: true }
    }

    /// The operation of a request without one: our own repeats after a broken connection must not apply it twice.
    pub fn internal(fingerprint: String) -> Self {
        let key = format!("operation:{}", Uuid::new_v4().simple());
        Self { key, fingerprint, ttl_s: INTERNAL_TTL_S, is_from_client: false }
    }
}
