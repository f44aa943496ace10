//! `checkout gateway`: one port for all routes, spread over the instances of each service.
//!
//! A request comes in ([`drain`] accepts it), its first path segment names the service, [`balance`] chooses the instance and
//! forwards, again if it must ([`repeat`]); what the gateway itself has to say is said by [`problem`]. It changes neither path nor body.

mod balance;
mod drain;
mod problem;
mod repeat;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::failure::Failure;
use crate::gateway::balance::Balancer;
use crate::limits::{GATEWAY_CONNECT, GATEWAY_IDLE, GATEWAY_IDLE_PER_INSTANCE};
use crate::procs;
use crate::service::Service;
use crate::signals::StopSignals;

/// One port for all routes: passes /orders, /payment and /stock on to the instances of each service.
///
/// An instance that cannot be connected to, or that says that it is not ready, is passed over. Where one dies with a request in hand,
/// another one is asked again, under an id with which nothing is done twice; when none answers, the client is told 202, which
/// means that the outcome is not known yet. The gateway's own errors are application/problem+json.
///
/// It has /health/live and /health/ready itself. SIGTERM drains.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Base URLs of the order instances
    #[arg(long, required = true, num_args = 1.., value_name = "URL", value_delimiter = ',')]
    pub order: Vec<String>,

    /// Base URLs of the payment instances
    #[arg(long, required = true, num_args = 1.., value_name = "URL", value_delimiter = ',')]
    pub payment: Vec<String>,

    /// Base URLs of the stock instances
    #[arg(long, required = true, num_args = 1.., value_name = "URL", value_delimiter = ',')]
    pub stock: Vec<String>,

    /// Milliseconds that a client may take for the head of a request, or be idle before it
    #[arg(long, env = "HEAD_LIMIT_MS", default_value_t = 20_000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub head_limit_ms: u64,

    /// What to log: error, warn, info, debug, …; the proxy library would mention each refused connection, the gateway says once that an
    /// instance is passed over
    #[arg(long, env = "LOG", default_value = "info,axum_reverse_proxy=off", value_name = "FILTER")]
    pub log: String,
}

/// The client through which all requests leave.
type Upstream = Client<HttpConnector, Body>;

/// What every request sees.
#[derive(Debug)]
struct Gateway {
    services: BTreeMap<Service, Balancer>,
    draining: AtomicBool,
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// When an argument is wrong, the port is taken, or requests were cut off at the end.
pub async fn run(args: Args) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .map_err(|error| Failure::usage(format!("LOG={}: {error}", args.log)))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    procs::raise_open_files();
    let mut stop = StopSignals::new()?;
    let listener = drain::listen(args.listen)
        .map_err(|error| Failure::failed(format!("cannot listen on {}: {error}", args.listen)))?;
    let client = upstream();
    let mut services = BTreeMap::new();
    for (service, urls) in
        [(Service::Order, &args.order), (Service::Payment, &args.payment), (Service::Stock, &args.stock)]
    {
        services.insert(service, Balancer::new(service, urls, &client)?);
    }
    let gateway = Arc::new(Gateway { services, draining: AtomicBool::new(false) });
    for balancer in gateway.services.values() {
        balancer.watch(&client);
    }
    tracing::info!(listen = %args.listen, "the gateway is ready");
    let app = Router::new()
        .route("/health/live", axum::routing::get(|| async { "alive" }))
        .route("/health/ready", axum::routing::get(ready))
        .fallback(pass)
        .with_state(Arc::clone(&gateway));
    let asked = async {
        stop.next().await;
        gateway.draining.store(true, Ordering::Relaxed);
        tracing::info!("draining");
    };
    if drain::serve(listener, app, Duration::from_millis(args.head_limit_ms), asked).await {
        Ok(())
    } else {
        Err(Failure::failed("some requests were still running at the end of the drain"))
    }
}

/// The upstream client. `retry_canceled_requests` only covers what is safe: a request whose pooled connection turned out to be closed
/// *before a byte of it was written* (hyper gives such a request back whole) goes out again on another connection.
fn upstream() -> Upstream {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(GATEWAY_CONNECT));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(GATEWAY_IDLE)
        .pool_max_idle_per_host(GATEWAY_IDLE_PER_INSTANCE)
        .retry_canceled_requests(true)
        .build(connector)
}

async fn pass(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let path = request.uri().path();
    let balancer = Service::of_path(path).and_then(|service| gateway.services.get(&service));
    let mut response = match balancer {
        Some(balancer) => balancer.forward(request).await,
        None => problem::no_route(path),
    };
    if gateway.draining.load(Ordering::Relaxed) {
        // The client is told that this connection ends here, so it does not send its next request into a closing one.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Ready while every service has an instance that is, and this gateway is not on its way out.
async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let draining = gateway.draining.load(Ordering::Relaxed);
    let usable: BTreeMap<Service, usize> =
        gateway.services.iter().map(|(service, balancer)| (*service, balancer.usable())).collect();
    let ready = !draining && usable.values().all(|count| *count > 0);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": ready, "draining": draining, "usable_instances": usable });
    (status, axum::Json(body)).into_response()
}
