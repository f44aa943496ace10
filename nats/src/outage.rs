//! Trouble that lasts: one log line when it begins, one when it ends, and growing pauses between.

use std::time::{Duration, Instant};

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause: what everybody waits at most after the trouble is over.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The state of one kind of trouble.
pub(crate) struct Outage {
    what: &'static str,
    since: Option<Instant>,
    failures: u32,
}

impl Outage {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, since: None, failures: 0 }
    }

    /// Something failed: says so the first time, and how long to pause before the next try.
    pub(crate) fn failed(&mut self, why: &dyn std::fmt::Display) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!("{}: {why}; trying on", self.what);
        } else {
            tracing::debug!("{}: {why}", self.what);
        }
        self.failures = self.failures.saturating_add(1);
        pause(self.failures)
    }

    /// It works (again).
    pub(crate) fn over(&mut self) {
        self.failures = 0;
        if let Some(since) = self.since.take() {
            tracing::info!(seconds = since.elapsed().as_secs_f32(), "{}: over", self.what);
        }
    }
}

/// The pause after the `failures`-th failure in a row: doubled each time, capped, and spread over its second half so that
/// the instances of a service do not come back in step.
pub(crate) fn pause(failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    full.mul_f32(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_never_vanish() {
        for failures in 0..100 {
            let pause = pause(failures);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{failures}: {pause:?}");
        }
        assert!(pause(100) >= LONGEST_PAUSE / 2);
    }
}
