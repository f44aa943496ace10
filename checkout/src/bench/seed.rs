//! Users, items and fresh orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;

use crate::bench::Args;
use crate::bench::target::Target;
use crate::failure::Failure;
use crate::http_client;
use crate::service::Service;

/// Credit of each user and stock of each item: no run can use it up.
const PLENTY: u64 = 1_000_000_000;
/// Price of each item.
const PRICE: u64 = 1;
/// Checkouts per second that a step is at least prepared for; more when a step before was faster.
const EXPECTED_RATE: f64 = 12_000.0;
/// A step gets this many times the orders that it is expected to need.
const MARGIN: f64 = 1.25;
/// A seeding may take long on a slow machine; without an answer by then it has failed.
const SEED_DEADLINE: Duration = Duration::from_secs(300);

/// A range of orders that nobody has checked out, each given out once, in an order that has nothing to do with their ids.
#[derive(Debug)]
pub struct Fresh {
    count: u64,
    stride: u64,
    next: AtomicU64,
}

impl Fresh {
    fn new(count: u64) -> Self {
        Self { count, stride: stride_for(count), next: AtomicU64::new(0) }
    }

    /// The next order, or nothing when all are used up.
    pub fn take(&self) -> Option<u64> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        // In 128 bits, so that no range is too large for the product.
        (index < self.count).then(|| {
            let id = u128::from(index) * u128::from(self.stride) % u128::from(self.count);
            u64::try_from(id).unwrap_or_default()
        })
    }

    fn left(&self) -> u64 {
        self.count.saturating_sub(self.next.load(Ordering::Relaxed))
    }
}

/// A step size that visits every one of `count` ids once before it comes back: it has no divisor in common with `count`.
fn stride_for(count: u64) -> u64 {
    // A prime is such a number for every count that is no multiple of it.
    const PRIMES: [u64; 3] = [7_368_787, 15_485_863, 2_750_159];
    PRIMES.into_iter().find(|prime| !count.is_multiple_of(*prime)).unwrap_or(1)
}

/// Seeds, and knows what is still fresh.
#[derive(Debug)]
pub struct Seeder<'a> {
    target: &'a Target,
    args: &'a Args,
    fresh: Option<Arc<Fresh>>,
    /// Clients and rate of the step before.
    last: Option<(usize, f64)>,
    told: Vec<String>,
}

impl<'a> Seeder<'a> {
    /// Nothing seeded yet.
    #[must_use]
    pub fn new(target: &'a Target, args: &'a Args) -> Self {
        Self { target, args, fresh: None, last: None, told: Vec::new() }
    }

    /// Makes the users and the items.
    ///
    /// # Errors
    /// When a service refuses.
    pub async fn world(&mut self) -> Result<(), Failure> {
        let (users, items) = (self.args.users, self.args.items);
        let path = format!("/payment/batch_init/{users}/{PLENTY}");
        self.batch_init(Service::Payment, users, "users", &path).await?;
        let path = format!("/stock/batch_init/{items}/{PLENTY}/{PRICE}");
        self.batch_init(Service::Stock, items, "items", &path).await
    }

    /// What was seeded since the last time this was asked, in words.
    pub fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    /// Enough fresh orders for a warm-up and a measurement with this many clients.
    ///
    /// # Errors
    /// When the order service refuses.
    pub async fn orders_for_step(&mut self, clients: usize) -> Result<Arc<Fresh>, Failure> {
        let seconds = self.args.seconds + self.args.warmup_seconds;
        let needed = orders_needed(self.last, clients, seconds);
        self.orders_for(needed.max(1)).await
    }

    /// At least `needed` fresh orders: what is left of the last range, or a new range.
    ///
    /// # Errors
    /// When the order service refuses.
    pub async fn orders_for(&mut self, needed: u64) -> Result<Arc<Fresh>, Failure> {
        if let Some(fresh) = self.fresh.as_ref().filter(|fresh| fresh.left() >= needed) {
            return Ok(Arc::clone(fresh));
        }
        let mut count = needed.max(self.args.orders);
        let (items, users) = (self.args.items, self.args.users);
        loop {
            let path = format!("/orders/batch_init/{count}/{items}/{users}/{PRICE}");
            let done = self.batch_init(Service::Order, count, "fresh orders", &path).await;
            match done {
                Ok(()) => break,
                // On a slow machine a large range may take longer than a request may. A smaller one will do: if it runs out,
                // the step ends early.
                Err(_) if count > self.args.orders => count = (count / 2).max(self.args.orders),
                Err(failure) => return Err(failure),
            }
        }
        let fresh = Arc::new(Fresh::new(count));
        self.fresh = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Remembers how fast a step was.
    pub fn learn(&mut self, clients: usize, per_second: f64) {
        self.last = Some((clients, per_second));
    }

    async fn batch_init(&mut self, service: Service, count: u64, what: &str, path: &str) -> Result<(), Failure> {
        let began = Instant::now();
        let (status, body) = http_client::call(Method::POST, self.target.of(service), path, SEED_DEADLINE)
            .await
            .map_err(|why| Failure::failed(format!("cannot seed: {why}")))?;
        if status != 200 {
            let text = String::from_utf8_lossy(&body);
            return Err(Failure::failed(format!("cannot seed: POST {path} answers {status} {text}")));
        }
        self.told.push(format!("batch_init of {count} {what}: {:.2} s", began.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// How many orders a step may need: what its clients would do at the speed of the step before, each as fast, with a margin. A step that
/// runs out ends early and is still right, so this need not be.
fn orders_needed(last: Option<(usize, f64)>, clients: usize, seconds: u64) -> u64 {
    let (clients, seconds) = (clients as f64, seconds as f64);
    let rate = match last {
        None => EXPECTED_RATE.min(1_000.0 * clients),
        Some((before, rate)) => (rate * clients / before as f64).min(EXPECTED_RATE.max(rate * MARGIN)),
    };
    (rate * seconds * MARGIN) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_given_out_once_and_then_none() {
        for count in [1, 2, 10, 4_096, 99_999] {
            let fresh = Fresh::new(count);
            let mut seen: Vec<u64> = std::iter::from_fn(|| fresh.take()).collect();
            assert_eq!(fresh.left(), 0);
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..count), "{count}");
        }
    }

    #[test]
    fn a_step_is_prepared_for_what_the_step_before_lets_expect() {
        assert_eq!(orders_needed(None, 1, 12), 15_000);
        assert_eq!(orders_needed(Some((1, 500.0)), 2, 10), 12_500);
        assert_eq!(orders_needed(Some((1, 500.0)), 1024, 10), 150_000);
        assert_eq!(orders_needed(Some((256, 20_000.0)), 1024, 10), 312_500);
    }
}
