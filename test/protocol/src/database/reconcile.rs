//! What the reconciler asks of the order service's database: claims, and the watermark.

use std::collections::BTreeMap;

use common::id::OrderId;
use common::limits::{MAX_REPLACED_FORGOTTEN, MAX_SAGAS_PER_CLAIM};
use common::saga::SagaId;
use common::trace::TraceParent;
use common::undo::State;
use order::config::ReconcileSettings;
use order::effect::Claimed;

use super::Order;
use crate::planted::Bug;

/// How sagas are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimLimits {
    /// Most sagas of one claim.
    pub most: usize,
    /// Age at which a saga is due for the first time; also the first backoff.
    pub first_ms: u64,
    /// Longest backoff.
    pub longest_ms: u64,
}

impl From<&ReconcileSettings> for ClaimLimits {
    fn from(settings: &ReconcileSettings) -> Self {
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let most = usize::try_from(MAX_SAGAS_PER_CLAIM).unwrap_or(usize::MAX);
        Self { most, first_ms: ms(settings.replay_first), longest_ms: ms(settings.replay_longest) }
    }
}

/// The watermark as it was raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised {
    /// Every saga started before this time (ms) is closed.
    pub watermark_ms: u64,
    /// Sagas that are open.
    pub open: usize,
    /// Age of the oldest of them.
    pub oldest_ms: u64,
}

impl Order {
    /// Claims sagas that are due: `order_claim`. `jitter` gives numbers from 0 to 1. Says whether there may be more.
    pub fn claim(&mut self, now_ms: u64, limits: ClaimLimits, mut jitter: impl FnMut() -> f64) -> (Vec<Claimed>, bool) {
        let mut due = until(&self.retry, now_ms, limits.most);
        let fresh = until(&self.open, now_ms.saturating_sub(limits.first_ms), limits.most - due.len());
        // `now - first` can lie before the epoch only where nothing is open.
        for (saga, started_ms) in fresh {
            self.open.remove(&saga);
            if !self.planted.is(Bug::ClaimIsNoLease) {
                self.retry_started.insert(saga.clone(), started_ms);
            }
            due.push((saga, started_ms));
        }
        let more = due.len() >= limits.most;
        let claimed = due.into_iter().filter_map(|(saga, _)| self.lease(now_ms, &saga, limits, &mut jitter));
        (claimed.collect(), more)
    }

    fn lease(
        &mut self,
        now_ms: u64,
        saga: &SagaId,
        limits: ClaimLimits,
        jitter: &mut impl FnMut() -> f64,
    ) -> Option<Claimed> {
        let Some(entry) = self.undo.get_mut(saga).filter(|entry| entry.state == State::Started) else {
            // Closed or expired: nothing is left to do.
            self.retry.remove(saga);
            self.retry_started.remove(saga);
            return None;
        };
        entry.round += 1;
        let exponent = i32::try_from(entry.round - 1).unwrap_or(i32::MAX);
        let backoff = (limits.longest_ms as f64).min(limits.first_ms as f64 * 2_f64.powi(exponent));
        let wait_ms = (backoff * (0.5 + jitter() / 2.0)).round() as u64;
        if !self.planted.is(Bug::ClaimIsNoLease) {
            self.retry.insert(saga.clone(), now_ms + wait_ms);
        }
        Some(Claimed {
            saga: entry.saga.clone(),
            age_ms: now_ms.saturating_sub(entry.saga.started_at_ms),
            round: entry.round,
            traceparent: entry.trace.clone().unwrap_or_else(TraceParent::random),
        })
    }

    /// Raises the watermark to just before the oldest open saga: `order_raise_watermark`.
    pub fn raise_watermark(&mut self, now_ms: u64, margin_ms: u64) -> Raised {
        let retries = self.retry_started.values().copied().filter(|_| !self.planted.is(Bug::WatermarkIgnoresRetries));
        let oldest = self.open.values().copied().chain(retries).min().map_or(now_ms, |oldest| oldest.min(now_ms));
        self.watermark_ms = self.watermark_ms.max(oldest.saturating_sub(margin_ms));
        let passed = self
            .replaced
            .iter()
            .filter(|(_, order)| order.started_until_ms.saturating_add(margin_ms) < self.watermark_ms);
        let mut passed: Vec<_> = passed.map(|(key, order)| (order.started_until_ms, key.clone())).collect();
        passed.sort();
        let most = usize::try_from(MAX_REPLACED_FORGOTTEN).unwrap_or(usize::MAX);
        for (_, key) in passed.iter().take(most) {
            self.replaced.remove(key);
        }
        let open = self.open.len() + self.retry.len();
        Raised { watermark_ms: self.watermark_ms, open, oldest_ms: now_ms - oldest }
    }

    /// The watermark.
    pub fn watermark_ms(&self) -> u64 {
        self.watermark_ms
    }

    /// Orders of which something is kept although they were replaced or lost: id, incarnation, whether paid, failed checkouts.
    pub fn replaced(&self) -> Vec<(String, bool, u64)> {
        let name = |(id, incarnation): &(OrderId, String)| format!("{id}.{incarnation}");
        self.replaced.iter().map(|(key, order)| (name(key), order.paid, order.attempt)).collect()
    }

    /// When the next saga is due, by this database's clock.
    pub fn next_due_ms(&self, first_ms: u64) -> Option<u64> {
        let fresh = self.open.values().map(|started| started + first_ms);
        self.retry.values().copied().chain(fresh).min()
    }

    /// In which of the lists `open`, `retry` and `retry_started` a saga is.
    pub fn places(&self, saga: &SagaId) -> [bool; 3] {
        [&self.open, &self.retry, &self.retry_started].map(|list| list.contains_key(saga))
    }
}

/// The members of a sorted set with a score up to `most_ms`, by score and name.
fn until(set: &BTreeMap<SagaId, u64>, most_ms: u64, most: usize) -> Vec<(SagaId, u64)> {
    let mut due: Vec<_> = set.iter().filter(|(_, score)| **score <= most_ms).collect();
    due.sort_by_key(|(saga, score)| (**score, (*saga).clone()));
    due.into_iter().take(most).map(|(saga, score)| (saga.clone(), *score)).collect()
}
