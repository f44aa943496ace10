//! What the auditor sends to a collector: each checkout as a trace, under the one of the client's request.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use testing::platform::{Options, Platform};
use testing::wait::{eventually, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";

/// A collector that keeps what it is sent, as OTLP over HTTP says it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

impl Collector {
    /// The collector, and its address.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let kept = collector.clone();
        let take = async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            for of_resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
                let service = text(&of_resource.resource.unwrap_or_default().attributes, "service.name");
                let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                kept.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
            }
            StatusCode::OK
        };
        tokio::spawn(axum::serve(listener, Router::new().route("/v1/traces", post(take))).into_future());
        (collector, address)
    }

    /// The spans of a trace by their names, each with its service.
    fn trace(&self, trace: &str) -> BTreeMap<String, (String, Span)> {
        let all = self.0.lock().unwrap();
        let own = all.iter().filter(|(_, span)| hex(&span.trace_id) == trace);
        own.map(|(service, span)| (span.name.clone(), (service.clone(), span.clone()))).collect()
    }
}

fn text(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|it| it.key == key).and_then(|it| it.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{key}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_checkout_is_a_trace_of_what_the_services_did() {
    let (collector, address) = Collector::start().await;
    let setting = format!("auditor.OTEL_EXPORTER_OTLP_ENDPOINT={address}");
    let platform = Platform::start(Options::default().auditor().set(&setting)).await;
    let client = platform.client();
    let item = client.item(3, 5).await;
    let rich = client.order(&client.user(10).await, &[(&item, 2)]).await;
    let poor = client.order(&client.user(1).await, &[(&item, 1)]).await;
    let check_out = async |order: &str, trace: &str| {
        let traceparent = format!("00-{trace}-{CLIENT_SPAN}-01");
        client.post_with(&format!("/orders/checkout/{order}"), &[("traceparent", &traceparent)]).await
    };
    check_out(&rich, TRACE).await.expect_status(200);
    let other = TRACE.replace('0', "f");
    check_out(&poor, &other).await.expect_status(400);

    let trace = until("the trace of what succeeded", async || {
        let trace = collector.trace(TRACE);
        (trace.len() >= 3).then_some(trace)
    })
    .await;
    let shape: Vec<_> = trace.iter().map(|(name, (service, _))| (service.as_str(), name.as_str())).collect();
    assert_eq!(shape, [("order", "checkout"), ("payment", "debit"), ("stock", "reserve")]);
    let whole = &trace["checkout"].1;
    assert_eq!(hex(&whole.parent_span_id), CLIENT_SPAN);
    assert_eq!(text(&whole.attributes, "order.id"), rich);
    for part in ["debit", "reserve"] {
        let part = &trace[part].1;
        assert_eq!(part.parent_span_id, whole.span_id);
        assert!(part.start_time_unix_nano >= whole.start_time_unix_nano);
    }
    eventually("the trace of what failed", async || {
        collector.trace(&other).get("checkout").is_some_and(|(_, span)| {
            let status = span.status.clone().unwrap_or_default();
            status.message.starts_with("insufficient_credit")
        })
    })
    .await;
}
