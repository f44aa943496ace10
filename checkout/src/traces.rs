//! What the auditor hears, as traces: a collector or viewer that speaks OTLP (Jaeger, Tempo, …) shows how each checkout went.
//!
//! The services export nothing. An event that tells a saga's end carries the way that led there and the trace of the client's request, so
//! one event is one trace: the checkout, and within it what each service did and when. Times are those of the services' clocks, in
//! milliseconds. Ids are derived from the saga's, so an end that is heard twice is the same trace twice. What the collector does not take
//! in time is dropped and counted: traces are for looking, and hold nothing up.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::event::{Kind, SagaEvent, Step};
use common::trace::TraceParent;
use metrics::counter;
use nats::topology::Service;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// Ends that may wait for the collector. Some kilobytes each.
const QUEUE: usize = 4_096;

/// Ends that are exported together.
const BATCH: usize = 256;

/// How long the collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(5);

/// The path of traces in OTLP over HTTP (OTLP specification, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";

/// Where traces go.
pub struct Traces {
    queue: mpsc::Sender<Arc<SagaEvent>>,
    /// Which part of all traces is exported.
    share: f64,
}

impl Traces {
    /// Exports to the collector at `endpoint`, such as `http://localhost:4318`: this share of all traces, from 0 to 1. The task ends, after
    /// what is left, when the returned traces are dropped.
    ///
    /// # Errors
    /// The address is none, or the share is not from 0 to 1.
    pub fn start(endpoint: &str, share: f64) -> Result<(Self, JoinHandle<()>), Failure> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Failure::usage(format!("{share} is no share of all traces: expected a number from 0 to 1")));
        }
        let exporters = Exporters::new(endpoint)?;
        let (queue, ends) = mpsc::channel(QUEUE);
        Ok((Self { queue, share }, tokio::spawn(export(exporters, ends))))
    }

    /// Takes an event; those that tell no end are of no use here.
    pub fn hear(&self, event: &SagaEvent) {
        if !ends(event.kind) || !is_chosen(&event.traceparent, self.share) {
            return;
        }
        if self.queue.try_send(Arc::new(event.clone())).is_err() {
            count("dropped", 1);
        }
    }
}

fn count(result: &'static str, traces: usize) {
    counter!("auditor_traces_total", "result" => result).increment(traces as u64);
}

fn ends(kind: Kind) -> bool {
    matches!(kind, Kind::CheckoutCompleted | Kind::CheckoutFailed)
}

/// By the trace's id, so that everybody who samples so chooses the same ones (the `TraceIdRatioBased` sampler of OpenTelemetry).
fn is_chosen(trace: &TraceParent, share: f64) -> bool {
    let low = u64::from_str_radix(trace.trace_id().get(16..).unwrap_or_default(), 16).unwrap_or_default() >> 1;
    trace.may_be_recorded() && (low as f64) < share * (1_u64 << 63) as f64
}

/// A service's exporter each, because OTLP groups spans by what they come from.
struct Exporters(Vec<(Service, SpanExporter)>);

impl Exporters {
    fn new(endpoint: &str) -> Result<Self, Failure> {
        let wrong =
            |why: &dyn std::fmt::Display| Failure::usage(format!("{endpoint:?} is no address for traces: {why}"));
        let mut exporters = Vec::new();
        for service in Service::ALL {
            let mut exporter = SpanExporter::builder()
                .with_http()
                .with_http_client(HyperClient::with_default_connector(PATIENCE, None))
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(format!("{}{PATH}", endpoint.trim_end_matches('/')))
                .with_timeout(PATIENCE)
                .build()
                .map_err(|error| wrong(&error))?;
            exporter.set_resource(&Resource::builder_empty().with_service_name(service.name()).build());
            exporters.push((service, exporter));
        }
        Ok(Self(exporters))
    }

    async fn export(&self, ends: &[Arc<SagaEvent>]) -> Result<(), String> {
        let mut spans: Vec<_> = ends.iter().flat_map(|end| spans(end)).collect();
        for (service, exporter) in &self.0 {
            let own: Vec<_> = spans.extract_if(.., |(of, _)| of == service).map(|(_, span)| span).collect();
            if !own.is_empty() {
                exporter.export(own).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

async fn export(exporters: Exporters, mut queue: mpsc::Receiver<Arc<SagaEvent>>) {
    let mut works = true;
    let mut ends = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut ends, BATCH).await > 0 {
        match exporters.export(&ends).await {
            Ok(()) => {
                if !std::mem::replace(&mut works, true) {
                    tracing::info!("traces are taken again");
                }
                count("exported", ends.len());
            }
            Err(error) => {
                // Told once per outage.
                if std::mem::replace(&mut works, false) {
                    tracing::warn!(error, "traces are not taken; they are dropped meanwhile");
                }
                count("failed", ends.len());
            }
        }
        ends.clear();
    }
}

/// Who did it, and what that is called in a trace.
fn deed(kind: Kind) -> (Service, &'static str) {
    match kind {
        Kind::CheckoutStarted => (Service::Order, "start"),
        Kind::PaymentDebited => (Service::Payment, "debit"),
        Kind::PaymentDeclined => (Service::Payment, "decline"),
        Kind::StockReserved => (Service::Stock, "reserve"),
        Kind::StockFailed => (Service::Stock, "fail"),
        Kind::PaymentRefunded => (Service::Payment, "refund"),
        Kind::CheckoutAbandoned => (Service::Order, "abandon"),
        Kind::CheckoutCompleted | Kind::CheckoutFailed => (Service::Order, "checkout"),
    }
}

/// The spans of a saga that has ended, with the service that each belongs to; the whole checkout comes first.
fn spans(end: &SagaEvent) -> Vec<(Service, SpanData)> {
    let saga = &end.saga;
    let id = |number: usize| {
        let mut hasher = DefaultHasher::new();
        (saga.saga_id.as_str(), number).hash(&mut hasher);
        // Zero is no id.
        SpanId::from(hasher.finish().max(1))
    };
    let of =
        |number: usize, parent: SpanId, name: &'static str, from_ms: u64, to_ms: u64, attributes, status| SpanData {
            span_context: SpanContext::new(
                TraceId::from_hex(end.traceparent.trace_id()).unwrap_or(TraceId::INVALID),
                id(number),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: number == 0,
            span_kind: if number == 0 { SpanKind::Server } else { SpanKind::Consumer },
            name: name.into(),
            // Clocks of different machines differ a little; nothing lasts less than no time.
            start_time: at(from_ms.min(to_ms)),
            end_time: at(to_ms),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: InstrumentationScope::builder("checkout").build(),
        };
    let mut about = vec![
        KeyValue::new("saga.id", saga.saga_id.to_string()),
        KeyValue::new("order.id", saga.order_id.to_string()),
        KeyValue::new("user.id", saga.user_id.to_string()),
        KeyValue::new("amount", i64::try_from(saga.amount.get()).unwrap_or(i64::MAX)),
        KeyValue::new("round", i64::from(end.round)),
    ];
    about.extend(end.reason.as_ref().map(|reason| KeyValue::new("reason", reason.to_string())));
    let client = SpanId::from_hex(end.traceparent.span_id()).unwrap_or(SpanId::INVALID);
    let status = end.reason.as_ref().map_or(Status::Ok, |reason| Status::error(reason.to_string()));
    let (service, name) = deed(end.kind);
    let mut spans = vec![(service, of(0, client, name, saga.started_at_ms, end.at_ms, about, status))];
    let mut from_ms = saga.started_at_ms;
    for (index, Step { event, at_ms }) in end.trail.iter().enumerate() {
        let (service, name) = deed(*event);
        // The start is where the checkout begins, not something that lasts.
        if *event != Kind::CheckoutStarted {
            let attributes = vec![KeyValue::new("event", event.subject())];
            spans.push((service, of(index + 1, id(0), name, from_ms, *at_ms, attributes, Status::Unset)));
        }
        from_ms = *at_ms;
    }
    spans
}

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use common::saga::{Items, Saga, parse_entries};

    const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn started() -> SagaEvent {
        let saga = Saga {
            saga_id: "5.k.0".parse().unwrap(),
            order_id: "5".parse().unwrap(),
            started_at_ms: 1_000,
            user_id: "7".parse().unwrap(),
            amount: "20".parse().unwrap(),
            items: parse_entries("1:1,2:1").and_then(Items::sum).unwrap(),
        };
        SagaEvent::first(Kind::CheckoutStarted, saga, 0, CLIENT.parse().unwrap())
    }

    /// Service, name, start and end of each span.
    fn shape(end: &SagaEvent) -> Vec<(&'static str, String, u128, u128)> {
        let ms = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let one = |(service, span): (Service, SpanData)| {
            (service.name(), span.name.to_string(), ms(span.start_time), ms(span.end_time))
        };
        spans(end).into_iter().map(one).collect()
    }

    #[test]
    fn a_checkout_is_a_trace_of_what_each_service_did() {
        let reserved = started().then(Kind::PaymentDebited, None, 1_004).then(Kind::StockReserved, None, 1_009);
        let end = reserved.then(Kind::CheckoutCompleted, None, 1_011);
        let expected = [
            ("order", "checkout".to_owned(), 1_000, 1_011),
            ("payment", "debit".to_owned(), 1_000, 1_004),
            ("stock", "reserve".to_owned(), 1_004, 1_009),
        ];
        assert_eq!(shape(&end), expected);
        let all = spans(&end);
        assert!(all.iter().all(|(_, span)| span.span_context.trace_id().to_string() == CLIENT[3..35]));
        assert_eq!(all[0].1.parent_span_id.to_string(), CLIENT[36..52], "the client's own span is its parent");
        assert!(all[1..].iter().all(|(_, span)| span.parent_span_id == all[0].1.span_context.span_id()));
        assert_eq!(all[0].1.status, Status::Ok);
        assert_eq!(spans(&end), all, "the same end is the same trace");
    }

    #[test]
    fn a_failure_says_why_and_a_clock_that_is_behind_makes_no_negative_time() {
        let reason = || Some("out_of_stock:1".parse().unwrap());
        let failed = started().then(Kind::PaymentDebited, None, 1_004).then(Kind::StockFailed, reason(), 990);
        let end = failed.then(Kind::PaymentRefunded, reason(), 1_020).then(Kind::CheckoutFailed, reason(), 1_021);
        let shape = shape(&end);
        let names: Vec<_> = shape.iter().map(|(_, name, ..)| name.as_str()).collect();
        assert_eq!(names, ["checkout", "debit", "fail", "refund"]);
        assert!(shape.iter().all(|(_, _, start, end)| start <= end), "{shape:?}");
        assert_eq!(spans(&end)[0].1.status, Status::error("out_of_stock:1"));
    }

    #[tokio::test]
    async fn what_is_no_share_or_no_address_is_refused() {
        let refused = |endpoint: &str, share: f64| Traces::start(endpoint, share).err().map(|error| error.to_string());
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(refused("http://localhost:4318", share).unwrap().contains("is no share"), "{share}");
        }
        assert!(refused("http://[", 1.0).unwrap().contains("is no address for traces"));
        assert_eq!(refused("http://localhost:4318", 0.01), None);
    }

    #[test]
    fn a_share_is_chosen_by_the_trace_and_what_is_not_sampled_is_not() {
        let low: TraceParent = "00-0af7651916cd43dd0448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        let high: TraceParent = "00-0af7651916cd43ddf448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        let unsampled: TraceParent = "00-0af7651916cd43dd0448eb211c80319c-b7ad6b7169203331-00".parse().unwrap();
        assert!(is_chosen(&low, 1.0) && is_chosen(&high, 1.0) && !is_chosen(&unsampled, 1.0));
        assert!(is_chosen(&TraceParent::random(), 1.0), "a trace that begins here is for us to choose");
        assert!(is_chosen(&low, 0.5) && !is_chosen(&high, 0.5) && !is_chosen(&low, 0.0));
    }
}
