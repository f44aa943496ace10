//! Operation keys: what makes a command of the REST interface happen once, however often it is sent.

use uuid::Uuid;

/// How long the record of a request without an `Idempotency-Key` is kept: only our own repeats, and the gateway's, within the
/// request's time limit can meet it.
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
    /// A token of the one request that runs the command: another one with the same key is turned away for as long as it runs, its
    /// repeat by the gateway is not.
    pub request: String,
}

impl Operation {
    /// The operation of a request that carries an `Idempotency-Key`.
    pub fn from_client(key: &str, fingerprint: String, ttl_s: u64) -> Self {
        Self { key: format!("operation:client:{key}"), fingerprint, ttl_s, is_from_client: true, request: token() }
    }

    /// The same, asked for by the request that has this id at the gateway, which may repeat it.
    #[must_use]
    pub fn asked_by(self, request: &str) -> Self {
        Self { request: request.to_owned(), ..self }
    }

    /// The operation of a request without one that came through the gateway, which may repeat it under the same id.
    pub fn from_gateway(request: &str, fingerprint: String) -> Self {
        let key = format!("operation:request:{request}");
        Self { key, fingerprint, ttl_s: INTERNAL_TTL_S, is_from_client: false, request: request.to_owned() }
    }

    /// The operation of any other request: our own repeats after a broken connection must not apply it twice.
    pub fn internal(fingerprint: String) -> Self {
        let request = token();
        let key = format!("operation:{request}");
        Self { key, fingerprint, ttl_s: INTERNAL_TTL_S, is_from_client: false, request }
    }
}

fn token() -> String {
    Uuid::new_v4().simple().to_string()
}
