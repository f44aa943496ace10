//! Trouble that lasts: one log line when it begins, one when it ends, however many tasks meet it and however often.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause: what everybody waits at most after the trouble is over.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One kind of trouble, shared by all who may meet it.
pub(crate) struct Outage {
    what: &'static str,
    /// Whether it lasts. Read on every success, so that must cost nothing.
    lasts: AtomicBool,
    since: Mutex<Option<Instant>>,
}

impl Outage {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, lasts: AtomicBool::new(false), since: Mutex::new(None) }
    }

    /// Something failed.
    pub(crate) fn failed(&self, why: &dyn Display) {
        if self.lasts.swap(true, Ordering::Relaxed) {
            tracing::debug!("{}: {why}", self.what);
        } else {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            tracing::warn!("{}: {why}; trying on", self.what);
        }
    }

    /// It works (again).
    pub(crate) fn over(&self) {
        if self.lasts.load(Ordering::Relaxed) && self.lasts.swap(false, Ordering::Relaxed) {
            let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).take();
            let seconds = since.map_or(0.0, |since| since.elapsed().as_secs_f32());
            tracing::info!(seconds, "{}: works again", self.what);
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
