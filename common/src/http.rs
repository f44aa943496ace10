//! What the HTTP side of every service shares: parameters, idempotency keys, health. How it is served stands in [`server`].

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, FromRequestParts, OriginalUri, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::de::DeserializeOwned;

use crate::limits::MAX_IDEMPOTENCY_KEY_BYTES;
use crate::problem::{Code, Problem};
use crate::redis::{Call, CallError, Database, Operation, Reply, UnexpectedReply};
use crate::service::ServiceSettings;
use crate::trace::TraceParent;

mod server;

pub use server::{bind, serve, serve_on};

/// The client's key for a request that may be repeated: the same key is the same request, answered from the record.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The gateway's id of a request, under which it asks a second instance when the first one dies with the request in hand. Whoever sends it
/// to a service directly can repeat requests of its own with it, no more.
pub const REQUEST_ID: &str = "checkout-request-id";

/// Adds what every service answers beside its own routes: health, metrics, and problems for unknown paths.
///
/// `ready` names each thing the service needs and whether it has it.
pub fn with_common_routes(
    router: Router,
    ready: impl Fn() -> Vec<(&'static str, bool)> + Send + Sync + 'static,
) -> Router {
    let ready = Arc::new(ready);
    router
        .route("/health/live", get(|| async { "live" }))
        .route("/health/ready", get(move || async move { readiness(&ready()) }))
        .route("/metrics", get(|| async { crate::telemetry::render_metrics() }))
        .fallback(|OriginalUri(uri): OriginalUri| async move {
            Problem::new(Code::NoSuchRoute, format!("there is no {}", shorten(uri.path())))
        })
        .method_not_allowed_fallback(|parts: Parts| async move {
            Problem::new(Code::MethodNotAllowed, format!("{} {}", parts.method, shorten(parts.uri.path())))
        })
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

fn readiness(needs: &[(&'static str, bool)]) -> Response {
    let missing: Vec<&str> = needs.iter().filter(|(_, ready)| !ready).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        "ready".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}", missing.join(", "))).into_response()
    }
}

/// Path parameters whose rejection is a [`Problem`].
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S, T> FromRequestParts<S> for Params<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::new(Code::Malformed, rejection.body_text())),
        }
    }
}

/// Reads a path parameter as what it should be.
///
/// # Errors
/// [`Code::Malformed`], with the parameter's name and the beginning of its value.
pub fn parameter<T>(name: &str, value: &str) -> Result<T, Problem>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|why| Problem::malformed(name, value, why))
}

/// How long replies of requests with an `Idempotency-Key` are kept, in seconds. A part of each service's state.
#[derive(Debug, Clone, Copy)]
pub struct IdempotencyTtl(pub u64);

/// What the handlers of every service share: its database and its settings. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The service's own database.
    pub database: Database,
    /// The settings that every service has.
    pub settings: Arc<ServiceSettings>,
}

impl App {
    /// Handlers on this database.
    pub fn new(database: Database, settings: &ServiceSettings) -> Self {
        Self { database, settings: Arc::new(settings.clone()) }
    }

    /// Runs a command within the request's time limit. `location` is where the client can look what became of it.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn run(&self, call: Call, location: impl Into<String>) -> Result<Reply, Problem> {
        let reply = self.database.call(call, Some(self.settings.deadline())).await;
        reply.map_err(|error| trouble(error, location))
    }

    /// Runs something long to its end, also when its client goes away in the middle, and answers with how it ended. Should the
    /// database stop to answer for longer than a request may take, the client is told that it is not known yet, and it goes on
    /// when the database is back.
    ///
    /// # Errors
    /// How it ended, or that this is not known yet.
    pub async fn run_to_its_end(
        &self,
        work: impl Future<Output = Result<(), Problem>> + Send + 'static,
    ) -> Result<(), Problem> {
        let mut work = tokio::spawn(work);
        loop {
            tokio::select! {
                ended = &mut work => {
                    return ended.unwrap_or_else(|error| {
                        tracing::error!(%error, "a long request broke off");
                        Err(Problem::not_known_yet("it broke off in the middle; repeat the request", None))
                    });
                }
                () = tokio::time::sleep(self.settings.request_limit) => {
                    if !self.database.wait_until_connected(self.settings.request_limit).await && !work.is_finished() {
                        let detail = "the database has stopped to answer; this instance goes on when it is back: repeat the request \
                                      to hear the end";
                        return Err(Problem::not_known_yet(detail, None));
                    }
                }
            }
        }
    }

    /// Reads something within the request's time limit.
    ///
    /// # Errors
    /// The database did not answer. A read has no effect, so nothing was started in any sense that matters.
    pub async fn read(&self, call: Call) -> Result<Reply, Problem> {
        let reply = self.database.call(call, Some(self.settings.deadline())).await;
        reply.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))
    }
}

impl FromRef<App> for IdempotencyTtl {
    fn from_ref(app: &App) -> Self {
        Self(app.settings.idempotency_ttl_s)
    }
}

impl<S> FromRequestParts<S> for Operation
where
    IdempotencyTtl: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let fingerprint = format!("{} {}", parts.method, parts.uri.path());
        let request = key(&parts.headers, REQUEST_ID)?;
        let ttl_s = || IdempotencyTtl::from_ref(state).0;
        Ok(match (key(&parts.headers, IDEMPOTENCY_KEY)?, request) {
            (Some(key), Some(request)) => Self::from_client(key, fingerprint, ttl_s()).asked_by(request),
            (Some(key), None) => Self::from_client(key, fingerprint, ttl_s()),
            (None, Some(request)) => Self::from_gateway(request, fingerprint),
            (None, None) => Self::internal(fingerprint),
        })
    }
}

/// The one value of a header that is a key.
fn key<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let wrong = |why: &str| {
        Problem::new(
            Code::Malformed,
            format!("{}: {why}", if name == IDEMPOTENCY_KEY { "Idempotency-Key" } else { name }),
        )
    };
    if values.next().is_some() {
        return Err(wrong("given more than once"));
    }
    let key = value.to_str().map_err(|_| wrong("expected visible ASCII characters"))?;
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(wrong(&format!("expected 1 to {MAX_IDEMPOTENCY_KEY_BYTES} characters, found {}", key.len())));
    }
    Ok(Some(key))
}

impl<S: Send + Sync> FromRequestParts<S> for TraceParent {
    type Rejection = std::convert::Infallible;
    /// The client's trace, or a new one where the header is missing or broken.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let header = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
        Ok(header.and_then(|text| text.parse().ok()).unwrap_or_else(Self::random))
    }
}

/// A JSON reply.
pub fn json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The reply to a command that the database did not answer. `location` is where the client can look what became of it.
pub fn trouble(error: CallError, location: impl Into<String>) -> Problem {
    match error {
        CallError::NotSent(why) => Problem::new(Code::Unavailable, format!("the database is not reachable: {why}")),
        CallError::Unknown(why) => {
            let detail = format!(
                "the database did not answer in time ({why}); repeat the request with the same Idempotency-Key"
            );
            Problem::not_known_yet(detail, Some(location.into()))
        }
        CallError::Refused(why) => {
            tracing::error!(why, "the database refused a call");
            Problem::new(Code::Internal, "the database refused the call")
        }
    }
}

impl From<UnexpectedReply> for Problem {
    fn from(error: UnexpectedReply) -> Self {
        tracing::error!(%error, "the database answered what this build does not know");
        Self::new(Code::Internal, "the database answered what this build does not know")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        values
            .iter()
            .map(|v| (header::HeaderName::from_static(IDEMPOTENCY_KEY), HeaderValue::from_bytes(v).unwrap()))
            .collect()
    }

    #[test]
    fn idempotency_keys_are_short_visible_and_given_once() {
        let idempotency_key = |headers: &HeaderMap| key(headers, IDEMPOTENCY_KEY).map(|key| key.map(str::to_owned));
        assert_eq!(idempotency_key(&headers(&[])), Ok(None));
        assert_eq!(idempotency_key(&headers(&[b"\"a key\""])), Ok(Some("\"a key\"".to_owned())));
        let long = vec![b'x'; MAX_IDEMPOTENCY_KEY_BYTES + 1];
        for bad in [&[b"".as_slice()][..], &[b"a", b"a"], &[&long], &["é".as_bytes()]] {
            assert_eq!(idempotency_key(&headers(bad)).map_err(|p| p.code), Err(Code::Malformed), "{bad:?}");
        }
    }
}
