//! What payment and stock share (`common/src/redis/prelude.lua`): outcome records in buckets, and the watermark behind which
//! they are forgotten and nothing may begin.

use std::collections::BTreeMap;

use common::limits::OUTCOME_BUCKET_MS;
use common::saga::{Saga, SagaId};

use crate::planted::{Bug, Planted};

/// Outcome records, one per saga.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outcomes<R> {
    /// Number of the bucket → saga → record.
    buckets: BTreeMap<u64, BTreeMap<SagaId, R>>,
    /// Every saga started before this time (ms) is closed.
    watermark_ms: u64,
    planted: Planted,
}

/// What a trim did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Records that are gone.
    pub forgotten: usize,
    /// Buckets that are still to be removed.
    pub left: usize,
}

impl<R> Outcomes<R> {
    /// None yet.
    pub fn new(planted: Planted) -> Self {
        Self { buckets: BTreeMap::new(), watermark_ms: 0, planted }
    }

    /// What is recorded about a saga, in whichever bucket. That of the saga's start is looked at first, as in Redis.
    pub fn get(&self, saga: &Saga) -> Option<&R> {
        self.buckets.get(&self.home(saga))?.get(&saga.saga_id)
    }

    /// The bucket that the saga's record is kept in; without a record, that of its start.
    fn home(&self, saga: &Saga) -> u64 {
        let own = bucket(saga);
        let has = |number: &u64| self.buckets.get(number).is_some_and(|records| records.contains_key(&saga.saga_id));
        if has(&own) || self.planted.is(Bug::ReplayStartsAnew) {
            return own;
        }
        self.buckets.keys().copied().find(has).unwrap_or(own)
    }

    /// Moves a record to the bucket of a later start, so that it is kept as long as a saga that was opened again can ask.
    pub fn keep(&mut self, saga: &Saga) {
        let (from, own) = (self.home(saga), bucket(saga));
        if from < own
            && let Some(record) = self.buckets.get_mut(&from).and_then(|records| records.remove(&saga.saga_id))
        {
            self.buckets.entry(own).or_default().insert(saga.saga_id.clone(), record);
        }
    }

    /// Records an outcome, over what there was.
    pub fn record(&mut self, saga: &Saga, record: R) {
        let home = self.home(saga);
        self.buckets.entry(home).or_default().insert(saga.saga_id.clone(), record);
    }

    /// Takes a record away, wherever it is.
    pub fn remove(&mut self, saga: &Saga) -> Option<R> {
        let home = self.home(saga);
        self.buckets.get_mut(&home)?.remove(&saga.saga_id)
    }

    /// The watermark, where the saga started before it: its record may have been forgotten, so nothing may begin.
    pub fn is_forgotten(&self, saga: &Saga) -> Option<u64> {
        let refuses = !self.planted.is(Bug::TrimWithoutRefusing);
        (refuses && saga.started_at_ms < self.watermark_ms).then_some(self.watermark_ms)
    }

    /// Raises the watermark, and forgets at most `most` whole buckets that lie behind it.
    pub fn trim(&mut self, closed_before_ms: u64, most: u64) -> Trimmed {
        self.watermark_ms = self.watermark_ms.max(closed_before_ms);
        let behind: Vec<u64> = self.buckets.keys().copied().filter(|n| self.is_behind(*n)).collect();
        let mut trimmed = Trimmed::default();
        for (n, number) in (0..).zip(behind) {
            if n < most {
                trimmed.forgotten += self.buckets.remove(&number).map_or(0, |records| records.len());
            } else {
                trimmed.left += 1;
            }
        }
        trimmed
    }

    fn is_behind(&self, bucket: u64) -> bool {
        (bucket + 1) * OUTCOME_BUCKET_MS <= self.watermark_ms
    }

    /// The watermark.
    pub fn watermark_ms(&self) -> u64 {
        self.watermark_ms
    }

    /// All records, by the start of their sagas.
    pub fn iter(&self) -> impl Iterator<Item = (&SagaId, &R)> {
        self.buckets.values().flatten()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.buckets.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn bucket(saga: &Saga) -> u64 {
    saga.started_at_ms / OUTCOME_BUCKET_MS
}
