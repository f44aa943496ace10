//! Many clients that come at the same moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Barrier;

use crate::bench::load::Client;
use crate::bench::report::status_name;
use crate::bench::seed::Fresh;
use crate::bench::stats::{NO_ANSWER, Observed};
use crate::bench::target::Target;

/// How a burst went.
#[derive(Debug, Clone, Serialize)]
pub struct Burst {
    /// Clients that came.
    pub clients: u64,
    /// Clients that got an answer, whatever it was.
    pub answered: u64,
    /// Answers other than 200, by status.
    pub not_ok: Vec<(String, u64)>,
    /// Median and longest time from the first step of connecting to the last byte of the answer.
    pub p50_ms: f64,
    /// The slowest.
    pub slowest_ms: f64,
    /// From the first client's start to the last answer.
    pub took_ms: f64,
}

/// Lets `count` clients connect at once, each to check out one fresh order.
pub async fn run(target: &Target, count: usize, fresh: &Arc<Fresh>) -> Burst {
    let start = Arc::new(Barrier::new(count + 1));
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let (start, address, fresh) = (Arc::clone(&start), target.for_client(number), Arc::clone(fresh));
            tokio::spawn(async move {
                start.wait().await;
                let began = Instant::now();
                let status = match (Client::connect(address).await, fresh.take()) {
                    (Ok(mut client), Some(order)) => client.checkout(order).await,
                    _ => NO_ANSWER,
                };
                (status, began.elapsed())
            })
        })
        .collect();
    start.wait().await;
    let began = Instant::now();
    let mut observed = Observed::default();
    for task in tasks {
        let (status, latency) = task.await.unwrap_or((NO_ANSWER, Duration::ZERO));
        observed.add(status, latency, true);
    }
    let took = began.elapsed();
    let not_ok = observed.not_ok();
    let [p50_ms, slowest_ms] = observed.percentiles_ms([0.5, 1.0]);
    Burst {
        clients: observed.count(),
        answered: observed.count() - not_ok.get(&NO_ANSWER).copied().unwrap_or(0),
        not_ok: not_ok.into_iter().map(|(status, count)| (status_name(status), count)).collect(),
        p50_ms,
        slowest_ms,
        took_ms: took.as_secs_f64() * 1_000.0,
    }
}
