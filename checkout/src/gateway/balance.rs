//! Which instance a request goes to, and what happens when it cannot be reached.
//!
//! The forwarding itself (headers, bodies, connection pool) is the library's `ReverseProxy`, one per instance. Its own
//! `BalancedProxy` is not used: it goes round the instances whether they live or not, and its `RetryLayer` asks the round again, so
//! under concurrency a retry may meet the same dead instance each time. The choice is therefore made here: the instance with the
//! fewest requests in flight among those that are usable, and after a failed connection another one. Its `RetryLayer` moreover only
//! repeats what was never sent; what was sent may be repeated here, because [`repeat`] has made it safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum_reverse_proxy::{ProxyError, ProxyPolicy, ReverseProxy, XForwardedFor};
use bytes::Bytes;
use http::request::Parts;
use http::{StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::gateway::{Upstream, problem, repeat};
use crate::limits::{
    GATEWAY_ANSWER, GATEWAY_ASK_AGAIN, GATEWAY_BODY, GATEWAY_BODY_BYTES, GATEWAY_PROBE, GATEWAY_PROBE_ANSWER,
    GATEWAY_PROBES_MISSED, GATEWAY_REPEAT_PATIENCE, GATEWAY_REPEAT_POLL, GATEWAY_REPEATS, SCALE_MAX,
};
use crate::service::Service;

/// The instances of one service.
#[derive(Debug)]
pub struct Balancer {
    service: Service,
    instances: Vec<Arc<Instance>>,
    /// Where the search for the least busy instance begins, so that equally busy ones take turns.
    turn: AtomicUsize,
}

struct Instance {
    proxy: ReverseProxy<HttpConnector>,
    health: Uri,
    in_flight: AtomicUsize,
    /// Cleared by a failed connection and by a readiness answer other than 200; set only by a readiness answer of 200. It only
    /// orders the choice: when no instance is usable, all are tried all the same.
    usable: AtomicBool,
    /// How many looks at its readiness it has left without an answer, one after the other.
    missed: watch::Sender<u32>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Instance")
            .field("target", &self.proxy.target())
            .field("in_flight", &self.in_flight)
            .field("usable", &self.usable)
            .finish_non_exhaustive()
    }
}

/// Counts a request as in flight for as long as it lives, also when the client goes away in the middle.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Balancer {
    /// The instances of `service` at these base URLs.
    ///
    /// # Errors
    /// When one is not a URL like `http://127.0.0.1:8001`, or there are more than [`SCALE_MAX`].
    pub fn new(service: Service, urls: &[String], client: &Upstream) -> Result<Self, Failure> {
        // The set of those already tried is the bits of one number.
        if urls.len() > usize::from(SCALE_MAX) {
            return Err(Failure::usage(format!("--{service}: at most {SCALE_MAX} instances")));
        }
        let instances =
            urls.iter().map(|url| Instance::new(url, client).map(Arc::new)).collect::<Option<_>>().ok_or_else(
                || Failure::usage(format!("--{service} {}: write URLs like http://127.0.0.1:8001", urls.join(" "))),
            )?;
        Ok(Self { service, instances, turn: AtomicUsize::new(0) })
    }

    /// Asks every instance for its readiness from now on, each in a task of its own so that a hanging one delays no other.
    pub fn watch(&self, client: &Upstream) {
        for instance in &self.instances {
            let (instance, client) = (Arc::clone(instance), client.clone());
            tokio::spawn(async move { instance.watch(&client).await });
        }
    }

    /// How many instances are usable now.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.instances.iter().filter(|it| it.is_usable()).count()
    }

    /// Passes a request on and the answer back. Where an instance dies with the request in hand, another one is asked for the same
    /// (see [`repeat`]), or the same one when it is back.
    pub async fn forward(&self, request: Request) -> Response {
        let (mut parts, body) = request.into_parts();
        let body = match read_body(body).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        repeat::identify(&mut parts);
        let mut tried = 0_u64;
        // How often it reached an instance that did not answer, and until when another answer is looked for.
        let (mut lost, mut deadline) = (0, None);
        loop {
            let Some((index, instance)) = self.choose(tried) else {
                match deadline {
                    None => return problem::unavailable(self.service),
                    Some(deadline) if self.somebody_is_back(deadline).await => tried = 0,
                    Some(_) => return repeat::open(self.service, &parts),
                }
                continue;
            };
            tried |= 1 << index;
            let response = tokio::select! {
                response = instance.send(&parts, body.clone()) => response,
                () = instance.falls_silent(), if repeat::may_move(&parts) => {
                    tracing::warn!(instance = instance.proxy.target(), path = parts.uri.path(), "an instance has the request and stands still");
                    lost += 1;
                    let until = *deadline.get_or_insert_with(|| Instant::now() + GATEWAY_REPEAT_PATIENCE);
                    if lost > GATEWAY_REPEATS || Instant::now() >= until {
                        return repeat::open(self.service, &parts);
                    }
                    continue;
                }
            };
            let Some(error) = response.extensions().get::<ProxyError>() else {
                if lost == 0 {
                    return response;
                }
                if repeat::is_of_this_try_only(&parts, response.status()) {
                    if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
                        return repeat::open(self.service, &parts);
                    }
                    tokio::time::sleep(GATEWAY_ASK_AGAIN).await;
                    continue;
                }
                match repeat::settle(&mut parts, response).await {
                    Some(refusal) if repeat::is_no_last_word(&parts, refusal.status()) => {
                        return repeat::open(self.service, &parts);
                    }
                    Some(response) => return response,
                    None => tried = 0,
                }
                continue;
            };
            // The one failure after which the request certainly reached nobody.
            if error.is_connect() {
                instance.pass_over();
                continue;
            }
            let (instance, path) = (instance.proxy.target(), parts.uri.path());
            tracing::warn!(instance, error = error.message(), path, "an instance had the request and did not answer");
            lost += 1;
            deadline.get_or_insert_with(|| Instant::now() + GATEWAY_REPEAT_PATIENCE);
            if lost > GATEWAY_REPEATS || response.status() == StatusCode::GATEWAY_TIMEOUT {
                return repeat::open(self.service, &parts);
            }
        }
    }

    /// Waits until an instance is usable, and says whether one is before the deadline.
    async fn somebody_is_back(&self, deadline: Instant) -> bool {
        while self.usable() == 0 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(GATEWAY_REPEAT_POLL).await;
        }
        Instant::now() < deadline
    }

    /// The least busy instance that is not in the set `tried`, usable ones first.
    fn choose(&self, tried: u64) -> Option<(usize, &Instance)> {
        let count = self.instances.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .map(|step| (turn.wrapping_add(step)) % count)
            .filter(|index| tried & (1 << index) == 0)
            .map(|index| (index, &*self.instances[index]))
            .min_by_key(|(_, instance)| (!instance.is_usable(), instance.in_flight.load(Ordering::Relaxed)))
    }
}

impl Instance {
    fn new(url: &str, client: &Upstream) -> Option<Self> {
        // The library panics on a bad target; a person deserves a sentence.
        let uri: Uri = url.parse().ok()?;
        let sound = uri.scheme_str() == Some("http") && uri.port_u16().is_some() && uri.path() == "/";
        let health = format!("{}/health/ready", url.trim_end_matches('/')).parse().ok()?;
        let policy =
            ProxyPolicy::new().with_x_forwarded_for(XForwardedFor::Preserve).with_upstream_timeout(GATEWAY_ANSWER);
        sound.then(|| Self {
            proxy: ReverseProxy::new_with_client("/", url, client.clone()).with_policy(policy),
            health,
            in_flight: AtomicUsize::new(0),
            usable: AtomicBool::new(true),
            missed: watch::Sender::new(0),
        })
    }

    fn pass_over(&self) {
        if self.usable.swap(false, Ordering::Relaxed) {
            tracing::warn!(instance = self.proxy.target(), "cannot connect; passed over until it is ready");
        }
    }

    fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    async fn send(&self, parts: &Parts, body: Bytes) -> Response {
        let _in_flight = InFlight::new(&self.in_flight);
        let request = Request::from_parts(parts.clone(), Body::from(body));
        match self.proxy.proxy_request(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Resolves when it answers nothing any more, not even how it is. (One that drains, or has no database, says so.)
    async fn falls_silent(&self) {
        let mut missed = self.missed.subscribe();
        if missed.wait_for(|missed| *missed >= GATEWAY_PROBES_MISSED).await.is_err() {
            std::future::pending().await
        }
    }

    /// Keeps `usable` true to what the instance says of itself. A service that begins to drain says "not ready" at once and goes on
    /// accepting for a while: by the time it refuses connections, nobody here sends it anything.
    async fn watch(&self, client: &Upstream) {
        loop {
            let asked = tokio::time::timeout(GATEWAY_PROBE_ANSWER, client.get(self.health.clone())).await;
            self.missed.send_modify(|missed| *missed = if asked.is_err() { *missed + 1 } else { 0 });
            let usable = matches!(asked, Ok(Ok(ref response)) if response.status() == StatusCode::OK);
            if let Ok(Ok(response)) = asked {
                // Read to its end, so that the connection can be used again.
                let _ = Limited::new(response.into_body(), GATEWAY_BODY_BYTES).collect().await;
            }
            if self.usable.swap(usable, Ordering::Relaxed) != usable {
                tracing::info!(instance = self.proxy.target(), usable, "readiness changed");
            }
            tokio::time::sleep(GATEWAY_PROBE).await;
        }
    }
}

/// The whole body, so that it can be sent again to another instance. Almost every request has none.
async fn read_body(body: Body) -> Result<Bytes, Response> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // No route takes a body, so one that is too large by its own account need not be read to see it.
    if body.size_hint().lower() > GATEWAY_BODY_BYTES as u64 {
        return Err(problem::too_large());
    }
    match tokio::time::timeout(GATEWAY_BODY, Limited::new(body, GATEWAY_BODY_BYTES).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(problem::too_large()),
        Ok(Err(_)) => Err(problem::unreadable()),
        Err(_) => Err(problem::too_slow()),
    }
}
