//! `checkout auditor`: follows the stream of a running platform and tells, in its log and as metrics, what can never be.
//!
//! What that is decides [`::audit::history`]. It reads as the observer does, a piece at a time, and leaves nothing at the server between
//! two pieces: an auditor that stands still, or is gone, holds nothing back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::audit::history::{Figures, Historian, Patience, Place};
use ::audit::{Finding, Rule};
use axum::Router;
use common::http::{bind, serve, with_common_routes};
use common::secret::Secret;
use common::service::wall_clock_ms;
use common::settings::{WrongSetting, read_login};
use metrics::{counter, gauge};
use nats::{Broker, Reached};
use tokio_util::sync::CancellationToken;

use crate::dead::CONNECT;
use crate::failure::Failure;
use crate::signals::StopSignals;

/// How often it looks for more once it has heard everything.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the head of a request may take.
const HEAD_LIMIT: Duration = Duration::from_secs(20);

/// Follow the events of all checkouts and tell what can never be: two ends of a saga, an event without its cause, an order paid twice.
///
/// Each finding is one line of the log and counted in /metrics by its rule; it serves /health/live and /health/ready too. It begins with
/// the newest events that the stream still has. Of sagas that it did not hear from their beginning it tells only contradictions. What it
/// knows is in its memory: after a restart it reads those events again, and tells again what is wrong in them.
///
/// NATS_USER and NATS_PASSWORD or NATS_PASSWORD_FILE say who one is; the user `observer` may do all that is needed.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// NATS servers, separated by commas
    #[arg(long, env = "NATS_URL", value_name = "URL")]
    nats: String,

    /// Address and port of /metrics and /health
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:9100", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Events of the past to begin with, the newest
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    events: u64,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When an argument is wrong, the port is taken, or NATS cannot be reached at the start.
pub async fn run(args: Args) -> Result<(), Failure> {
    let wrong = |error: WrongSetting| Failure::usage(error.to_string());
    common::telemetry::install().map_err(wrong)?;
    let login = read_login("NATS_USER", "NATS_PASSWORD", "NATS_PASSWORD_FILE").map_err(wrong)?;
    let url = login.map_or_else(|| Secret::new(&args.nats), |login| login.in_urls(&args.nats));
    nats::check_urls(&url).map_err(wrong)?;
    let mut stop = StopSignals::new()?;
    let listener =
        bind(args.listen).map_err(|error| Failure::failed(format!("cannot listen on {}: {error}", args.listen)))?;
    let broker = Broker::connect(&url, "audit", "checkout-auditor", CONNECT)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let hears = Arc::new(AtomicBool::new(false));
    let ready = Arc::clone(&hears);
    let app = with_common_routes(Router::new(), move || vec![("stream", ready.load(Ordering::Relaxed))]);
    let end = CancellationToken::new();
    let pages = tokio::spawn(serve(listener, app, HEAD_LIMIT, end.clone()));
    tracing::info!(listen = %args.listen, "the auditor begins; of sagas that began before what it reads it tells only contradictions");
    tokio::select! {
        () = follow(&broker, args.events, &hears) => {}
        () = async { stop.next().await; } => {}
    }
    end.cancel();
    pages.await.map_err(|error| Failure::failed(error.to_string()))
}

/// Hears everything, without end.
async fn follow(broker: &Broker, most_at_first: u64, hears: &AtomicBool) {
    for rule in Rule::ALL {
        counter!("auditor_findings_total", "rule" => rule.name()).absolute(0);
    }
    let mut historian = Historian::new(Patience::default());
    let mut reached: Option<Reached> = None;
    loop {
        let heard = broker.recall_since(reached, most_at_first, |past| {
            counter!("auditor_events_total").increment(1);
            let place = Place { sequence: past.sequence, at_ms: past.at_ms };
            // One that cannot be read is a dead letter, and the service that met it has told so.
            historian.hear(place, past.event.as_ref().ok()).iter().for_each(tell);
        });
        match heard.await {
            Ok(now) => {
                reached = Some(now);
                // Everything that was there was heard, so time has passed for what was not.
                historian.settle(wall_clock_ms()).iter().for_each(tell);
                show(&historian.figures());
                hears.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                // Told once per outage.
                if hears.swap(false, Ordering::Relaxed) || reached.is_none() {
                    tracing::warn!(%error, "the stream cannot be heard");
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn tell(finding: &Finding) {
    counter!("auditor_findings_total", "rule" => finding.rule.name()).increment(1);
    tracing::error!(rule = finding.rule.name(), "FINDING {finding}");
}

fn show(figures: &Figures) {
    let sagas = [
        ("remembered", figures.remembered),
        ("open", figures.open),
        ("overdue", figures.overdue),
        ("incomplete", figures.incomplete),
    ];
    for (state, count) in sagas {
        gauge!("auditor_sagas", "state" => state).set(u32::try_from(count).unwrap_or(u32::MAX));
    }
    for (name, count) in [("gap", figures.gaps), ("late", figures.late), ("dropped", figures.dropped)] {
        counter!("auditor_unheard_total", "kind" => name).absolute(count);
    }
    for (end, count) in [("completed", figures.completed), ("failed", figures.failed)] {
        counter!("auditor_ended_total", "end" => end).absolute(count);
    }
}
