//! Logs on standard error and metrics for `/metrics`.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::settings::{WrongSetting, read};

/// What is logged by default. The NATS client would mention every attempt to connect during an outage; the broker says once
/// that it is away, and once that it is back.
pub const LOG_DEFAULT: &str = "info,async_nats=warn";

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the log writer (`LOG`, `LOG_FORMAT`) and the metrics recorder. Call once, first.
///
/// # Errors
/// `LOG` or `LOG_FORMAT` is wrong.
pub fn install() -> Result<(), WrongSetting> {
    let filter: String = read("LOG", LOG_DEFAULT)?;
    let filter = EnvFilter::try_new(&filter).map_err(|why| WrongSetting::new("LOG", &filter, why))?;
    let format: String = read("LOG_FORMAT", "text")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second installation (in tests) keeps the first.
    let _ = match format.as_str() {
        "text" => builder.with_ansi(false).try_init(),
        "json" => builder.json().flatten_event(true).try_init(),
        other => {
            return Err(WrongSetting::new("LOG_FORMAT", other, "expected text or json"));
        }
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        let _ = METRICS.set(handle);
    }
    Ok(())
}

/// All metrics in the Prometheus text format.
pub fn render_metrics() -> String {
    match METRICS.get() {
        Some(handle) => {
            handle.run_upkeep();
            handle.render()
        }
        None => String::new(),
    }
}
