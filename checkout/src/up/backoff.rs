//! How long to wait before a process that died is started again.

use std::time::Duration;

use crate::limits::{RESTART_CAP, RESTART_FIRST, RESTART_HEALTHY};

/// Doubles from death to death, up to a cap, and starts anew after a healthy life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: RESTART_FIRST }
    }
}

impl Backoff {
    /// The pause after a process that had lived for `lived`.
    pub fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived >= RESTART_HEALTHY {
            self.next = RESTART_FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(RESTART_CAP);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_the_cap() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause_after(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn a_healthy_life_is_forgiven() {
        let mut backoff = Backoff::default();
        for _ in 0..9 {
            backoff.pause_after(Duration::from_secs(9));
        }
        assert_eq!(backoff.pause_after(Duration::from_secs(10)), RESTART_FIRST);
        assert_eq!(backoff.pause_after(Duration::ZERO), RESTART_FIRST * 2);
    }
}
