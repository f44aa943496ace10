//! `checkout auditor`: follows the stream of a running platform and tells, in its log and as metrics, what can never be.
//!
//! What that is decides [`::audit::history`]. It hears by a durable ([`nats::Broker::follow`]) whose floor is what was heard and told, so what
//! happens while it is gone is told later, and what was told is not told again. An auditor that stands still, or is gone, holds nothing back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::audit::history::{Figures, Historian, Patience, Place};
use ::audit::{Finding, Rule};
use axum::Router;
use common::event::Event;
use common::http::{bind, serve, with_common_routes};
use common::secret::Secret;
use common::service::wall_clock_ms;
use common::settings::{WrongSetting, read_login};
use metrics::{counter, gauge};
use nats::{Broker, Listen, Past};
use tokio_util::sync::CancellationToken;

use crate::dead::CONNECT;
use crate::failure::Failure;
use crate::signals::StopSignals;
use crate::traces::Traces;

/// Events after which it looks at what had time enough, although more are waiting: what has ended is forgotten then.
const SETTLE_AFTER: u64 = 20_000;

/// How long the last acknowledgement may take at the end, and then the traces that are left.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long the head of a request may take.
const HEAD_LIMIT: Duration = Duration::from_secs(20);

/// Follow the events of all checkouts and tell what can never be: two ends of a saga, an event without its cause, an order paid twice, a
/// refund of another amount.
///
/// Each finding is one line of the log and counted in /metrics by its rule, beside the sums of what ended sagas debited, refunded and reserved; it serves /health/live and /health/ready too. How far it has
/// heard and told stands at NATS, in the durable `auditor`: one that is started again goes on there, after it has read once more what
/// came just before. Of sagas that it did not hear from their beginning it tells only contradictions. There should be one of it: two
/// share the events between them.
///
/// NATS_USER and NATS_PASSWORD or NATS_PASSWORD_FILE say who one is: the user `auditor`, who may do no more than is needed.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// NATS servers, separated by commas
    #[arg(long, env = "NATS_URL", value_name = "URL")]
    nats: String,

    /// Address and port of /metrics and /health
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:9100", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Send each checkout as a trace to this collector or viewer, by OTLP over HTTP; such as http://localhost:4318
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp: Option<String>,

    /// Which part of all traces is sent: 0.01 for each hundredth
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value_t = 1.0, value_name = "SHARE")]
    otlp_share: f64,

    /// Events from before the place where it was that it reads once more, the newest
    #[arg(long, env = "AUDITOR_EVENTS", default_value_t = 100_000, value_name = "N")]
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
    let broker = Broker::connect(&url, "auditor", "checkout-auditor", CONNECT)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let traces = args.otlp.as_deref().map(|endpoint| Traces::start(endpoint, args.otlp_share)).transpose()?;
    let (traces, exports) = traces.unzip();
    let hears = Arc::new(AtomicBool::new(false));
    let ready = Arc::clone(&hears);
    let app = with_common_routes(Router::new(), move || vec![("stream", ready.load(Ordering::Relaxed))]);
    let end = CancellationToken::new();
    let pages = tokio::spawn(serve(listener, app, HEAD_LIMIT, end.clone()));
    tracing::info!(listen = %args.listen, "the auditor begins; of sagas that began before what it reads it tells only contradictions");
    let mut auditor = Auditor::new(hears, traces);
    tokio::select! {
        () = broker.follow(args.events, &mut auditor, end.clone()) => {}
        () = async { stop.next().await; } => {}
    }
    broker.close(FAREWELL).await;
    end.cancel();
    drop(auditor);
    if let Some(exports) = exports {
        // What is left goes out, if somebody takes it.
        let _ = tokio::time::timeout(FAREWELL, exports).await;
    }
    pages.await.map_err(|error| Failure::failed(error.to_string()))
}

/// The historian with its log and its metrics.
struct Auditor {
    historian: Historian,
    hears: Arc<AtomicBool>,
    /// Events since what had time enough was looked at.
    unsettled: u64,
    /// The time of the last message from before.
    recalled_ms: Option<u64>,
    traces: Option<Traces>,
}

impl Auditor {
    fn new(hears: Arc<AtomicBool>, traces: Option<Traces>) -> Self {
        for rule in Rule::ALL {
            counter!("auditor_findings_total", "rule" => rule.name()).absolute(0);
        }
        Self { historian: Historian::new(Patience::default()), hears, unsettled: 0, recalled_ms: None, traces }
    }

    /// What comes of one message.
    fn take(&mut self, past: &Past) -> Vec<Finding> {
        let place = Place { sequence: past.sequence, at_ms: past.at_ms };
        // One that cannot be read is a dead letter, and the service that met it has told so.
        let mut found = self.historian.hear(place, past.event.as_ref().ok());
        self.unsettled += 1;
        if self.unsettled >= SETTLE_AFTER {
            found.extend(self.settle(0));
        }
        found
    }

    fn settle(&mut self, now_ms: u64) -> Vec<Finding> {
        self.unsettled = 0;
        self.historian.settle(now_ms)
    }

    /// After the last message from before: what had time enough by then, its predecessor has told and counted.
    fn end_recall(&mut self) {
        if let Some(at_ms) = self.recalled_ms.take() {
            self.settle(at_ms);
            self.historian.count_from_here();
        }
    }
}

impl Listen for Auditor {
    fn recall(&mut self, past: Past) {
        // Its predecessor has told what comes of it.
        self.take(&past);
        counter!("auditor_recalled_total").increment(1);
        self.recalled_ms = Some(past.at_ms);
    }

    fn hear(&mut self, past: Past) {
        self.end_recall();
        counter!("auditor_events_total").increment(1);
        self.take(&past).iter().for_each(tell);
        if let (Some(traces), Ok(Event::Saga(event))) = (&self.traces, &past.event) {
            traces.hear(event);
        }
    }

    fn caught_up(&mut self) {
        self.end_recall();
        // Everything that was there was heard, so time has passed for what was not.
        self.settle(wall_clock_ms()).iter().for_each(tell);
        show(&self.historian.figures());
        self.hears.store(true, Ordering::Relaxed);
    }

    fn deaf(&mut self) {
        self.hears.store(false, Ordering::Relaxed);
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
    // Debited less refunded is what the completed ones cost, and reserved is what they were for, or each saga that differs is a finding.
    counter!("auditor_debited_credits_total").absolute(sum(figures.debited_amount));
    counter!("auditor_refunded_credits_total").absolute(sum(figures.refunded_amount));
    counter!("auditor_completed_credits_total").absolute(sum(figures.completed_amount));
    counter!("auditor_reserved_pieces_total").absolute(sum(figures.reserved_pieces));
    counter!("auditor_completed_pieces_total").absolute(sum(figures.completed_pieces));
}

/// As a metric. (It would take two thousand of the largest amounts to be more.)
fn sum(figure: i128) -> u64 {
    u64::try_from(figure).unwrap_or(u64::MAX)
}
