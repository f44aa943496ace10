//! Figures from single observations.

use std::collections::BTreeMap;
use std::time::Duration;

/// What one client, or all together, saw.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Latency of each request, in microseconds. Kept whole: four bytes each are cheaper than a histogram per client.
    latencies_us: Vec<u32>,
    /// Number of answers by status; what broke without an answer is under [`NO_ANSWER`].
    statuses: BTreeMap<u16, u64>,
    /// Answers 200 that came before the end of the measured time.
    in_time: u64,
}

/// In place of a status: the connection could not be opened, or broke.
pub const NO_ANSWER: u16 = 0;

impl Observed {
    /// Counts a request.
    pub fn add(&mut self, status: u16, latency: Duration, in_time: bool) {
        *self.statuses.entry(status).or_default() += 1;
        self.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        self.in_time += u64::from(in_time && status == 200);
    }

    /// Takes in what another client saw.
    pub fn merge(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.in_time += other.in_time;
    }

    /// All requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Answers 200 within the measured time.
    #[must_use]
    pub fn in_time(&self) -> u64 {
        self.in_time
    }

    /// Answers other than 200, by status.
    #[must_use]
    pub fn not_ok(&self) -> BTreeMap<u16, u64> {
        let mut others = self.statuses.clone();
        others.remove(&200);
        others
    }

    /// The latencies in milliseconds that these shares of the requests did not exceed.
    #[must_use]
    pub fn percentiles_ms<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        shares.map(|share| f64::from(percentile(&sorted, share)) / 1_000.0)
    }
}

/// The smallest value that at least `share` of the sorted values do not exceed (nearest rank); 0 of none.
fn percentile(sorted: &[u32], share: f64) -> u32 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(rank.saturating_sub(1).min(last)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 0.5), 50);
        assert_eq!(percentile(&hundred, 0.99), 99);
        assert_eq!(percentile(&hundred, 0.999), 100);
        assert_eq!(percentile(&hundred, 1.0), 100);
        assert_eq!(percentile(&hundred, 0.0), 1);
        assert_eq!(percentile(&[7], 0.5), 7);
        assert_eq!(percentile(&[], 0.5), 0);
    }

    #[test]
    fn what_clients_saw_adds_up() {
        let mut all = Observed::default();
        let mut one = Observed::default();
        one.add(200, Duration::from_millis(3), true);
        one.add(200, Duration::from_millis(9), false);
        one.add(202, Duration::from_millis(5), true);
        all.merge(one.clone());
        all.merge(one);
        assert_eq!((all.count(), all.in_time()), (6, 2));
        assert_eq!(all.not_ok(), BTreeMap::from([(202, 2)]));
        assert_eq!(all.percentiles_ms([0.5, 1.0]), [5.0, 9.0]);
    }
}
