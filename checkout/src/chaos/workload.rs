//! What the clients of a run do: a shop's day, drawn by the seed.
//!
//! A visit is what one client does one after the other; visits arrive by schedule, whatever became of those before. Who, what and when is
//! drawn here, before anything is sent, so that one seed is one schedule; only ids are given by the platform.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Users with credit for everything.
pub const RICH: usize = 24;
/// Users with little credit.
pub const POOR: usize = 8;
/// Users whose credit only grows: of them no look may ever show less than one before.
pub const SAVERS: usize = 4;
/// Items of which there is plenty.
pub const PLENTY: usize = 16;
/// Items of which there is little.
pub const SCARCE: usize = 4;
/// Items whose stock only grows.
pub const DEPOTS: usize = 2;
/// Who comes again and again; what one of them has seen must not be taken back.
const CLIENTS: u32 = 48;

/// One client's visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// When it arrives, after the beginning of the load.
    pub at: Duration,
    /// Who.
    pub client: u32,
    /// What for.
    pub errand: Errand,
}

/// What a visit is for. Numbers of users and items are places in the lists that were made at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Makes an order and checks it out.
    Buy(Purchase),
    /// Credit comes or goes, possibly sent several times with one key.
    Credit {
        /// Whose.
        user: Payer,
        /// How much; negative is a payment.
        amount: i64,
        /// How often it is sent with one key; nothing is without a key.
        with_key: Option<u8>,
    },
    /// Stock comes or goes, likewise.
    Stock {
        /// Of what.
        item: Goods,
        /// How many pieces.
        pieces: i64,
        /// As for credit.
        with_key: Option<u8>,
    },
    /// Looks at a user and an item, several times.
    Look {
        /// Whom.
        user: Payer,
        /// What.
        item: Goods,
        /// How often.
        times: u8,
    },
}

/// An order and its checkouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// Who pays.
    pub user: Payer,
    /// What for.
    pub entries: Vec<(Goods, u64)>,
    /// Checkouts that are sent at the same time.
    pub together: u8,
    /// How often it is checked out again after that, whatever was told.
    pub again: u8,
    /// Whether checkouts have a key.
    pub with_key: bool,
    /// The client hangs up on its first checkout after so long.
    pub hangs_up_after: Option<Duration>,
    /// After a refusal, credit is added and the order checked out again.
    pub tops_up: bool,
    /// Whether a client that was told that nothing was started believes it for good.
    pub believes: bool,
}

/// Who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// One with credit for everything.
    Rich(usize),
    /// One with little.
    Poor(usize),
    /// One whose credit only grows.
    Saver(usize),
    /// One that nobody has made.
    Nobody,
}

/// What is bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goods {
    /// Of this there is plenty.
    Plenty(usize),
    /// Of this too, and everybody wants it.
    Hot,
    /// Of this there is little.
    Scarce(usize),
    /// Of this nobody buys.
    Depot(usize),
}

/// The visits of a run, without end.
#[derive(Debug)]
pub struct Visits {
    rng: StdRng,
    rate: f64,
    at: Duration,
}

impl Visits {
    /// Visits of this seed, `rate` a second.
    #[must_use]
    pub fn new(seed: u64, rate: f64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), rate, at: Duration::ZERO }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn purchase(&mut self, user: Payer, entries: Vec<(Goods, u64)>) -> Purchase {
        Purchase {
            user,
            entries,
            together: 1,
            again: u8::from(self.chance(10)),
            with_key: self.chance(20),
            hangs_up_after: None,
            tops_up: false,
            believes: self.chance(30),
        }
    }

    fn rich(&mut self) -> Payer {
        Payer::Rich(self.rng.random_range(0..RICH))
    }

    fn some(&mut self) -> (Goods, u64) {
        (Goods::Plenty(self.rng.random_range(0..PLENTY)), self.rng.random_range(1..=3))
    }

    fn errand(&mut self) -> Errand {
        let user = self.rich();
        match self.rng.random_range(0..100) {
            0..22 => {
                let entries = (0..self.rng.random_range(1..=2)).map(|_| self.some()).collect();
                Errand::Buy(self.purchase(user, entries))
            }
            22..32 => Errand::Buy(self.purchase(user, vec![(Goods::Hot, 1)])),
            32..39 => {
                let mut entries: Vec<_> = (0..4).map(|_| self.some()).collect();
                // One item twice: two entries, and the reservation is their sum.
                entries.push(entries[0]);
                Errand::Buy(self.purchase(user, entries))
            }
            39..47 => {
                let (user, entries) = (Payer::Poor(self.rng.random_range(0..POOR)), vec![self.some(), self.some()]);
                Errand::Buy(Purchase { tops_up: self.chance(60), ..self.purchase(user, entries) })
            }
            47..54 => {
                let scarce = Goods::Scarce(self.rng.random_range(0..SCARCE));
                let entries = vec![self.some(), (scarce, self.rng.random_range(1..=4))];
                Errand::Buy(self.purchase(user, entries))
            }
            54..60 => {
                let entries = vec![self.some()];
                let again = self.rng.random_range(2..=3);
                Errand::Buy(Purchase { again, ..self.purchase(user, entries) })
            }
            60..68 => {
                let entries = vec![self.some(), (Goods::Hot, 2)];
                let together = self.rng.random_range(2..=4);
                Errand::Buy(Purchase { together, ..self.purchase(user, entries) })
            }
            68..72 => {
                let entries = vec![self.some()];
                let hangs_up_after = Some(Duration::from_millis(self.rng.random_range(1..300)));
                Errand::Buy(Purchase { hangs_up_after, again: 1, ..self.purchase(user, entries) })
            }
            72..74 => {
                let entries = vec![self.some()];
                Errand::Buy(self.purchase(Payer::Nobody, entries))
            }
            74..82 => self.credit(),
            82..89 => self.stock(),
            _ => {
                let user = match self.rng.random_range(0..3) {
                    0 => Payer::Saver(self.rng.random_range(0..SAVERS)),
                    1 => Payer::Poor(self.rng.random_range(0..POOR)),
                    _ => user,
                };
                let item = match self.rng.random_range(0..3) {
                    0 => Goods::Depot(self.rng.random_range(0..DEPOTS)),
                    1 => Goods::Scarce(self.rng.random_range(0..SCARCE)),
                    _ => Goods::Hot,
                };
                Errand::Look { user, item, times: self.rng.random_range(2..=4) }
            }
        }
    }

    fn key(&mut self) -> Option<u8> {
        self.chance(60).then(|| self.rng.random_range(1..=3))
    }

    fn credit(&mut self) -> Errand {
        let amount = self.rng.random_range(1..=40);
        let (user, amount) = match self.rng.random_range(0..4) {
            0 | 1 => (Payer::Saver(self.rng.random_range(0..SAVERS)), amount),
            2 => (Payer::Poor(self.rng.random_range(0..POOR)), -amount),
            _ => (self.rich(), if self.chance(50) { amount } else { -amount }),
        };
        Errand::Credit { user, amount, with_key: self.key() }
    }

    fn stock(&mut self) -> Errand {
        let pieces = self.rng.random_range(1..=6);
        let (item, pieces) = match self.rng.random_range(0..5) {
            0 | 1 => (Goods::Depot(self.rng.random_range(0..DEPOTS)), pieces),
            2 => (Goods::Scarce(self.rng.random_range(0..SCARCE)), pieces),
            3 => (Goods::Scarce(self.rng.random_range(0..SCARCE)), -pieces),
            _ => (Goods::Plenty(self.rng.random_range(0..PLENTY)), if self.chance(50) { pieces } else { -pieces }),
        };
        Errand::Stock { item, pieces, with_key: self.key() }
    }
}

impl Iterator for Visits {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        // Arrivals that know nothing of each other: the time between two has an exponential distribution.
        let share: f64 = self.rng.random_range(f64::EPSILON..1.0);
        self.at += Duration::from_secs_f64(-share.ln() / self.rate);
        let client = 1 + self.rng.random_range(0..CLIENTS);
        Some(Visit { at: self.at, client, errand: self.errand() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_schedule_and_another_seed_is_another() {
        let of = |seed| Visits::new(seed, 100.0).take(500).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn visits_come_at_the_rate_that_was_asked_for() {
        let last = Visits::new(1, 50.0).nth(4_999).map(|visit| visit.at.as_secs_f64());
        assert!(last.is_some_and(|seconds| (90.0..110.0).contains(&seconds)), "5,000 visits in {last:?} s");
    }

    #[test]
    fn everything_happens() {
        let all: Vec<Errand> = Visits::new(3, 1.0).take(2_000).map(|visit| visit.errand).collect();
        let bought = |wanted: fn(&Purchase) -> bool| {
            all.iter().any(|errand| matches!(errand, Errand::Buy(purchase) if wanted(purchase)))
        };
        assert!(bought(|it| it.together > 1) && bought(|it| it.again > 1) && bought(|it| it.with_key));
        assert!(bought(|it| it.hangs_up_after.is_some()) && bought(|it| it.tops_up) && bought(|it| it.believes));
        assert!(bought(|it| it.user == Payer::Nobody) && bought(|it| it.entries.len() == 5));
        assert!(bought(|it| it.entries.iter().any(|(goods, _)| matches!(goods, Goods::Scarce(_)))));
        assert!(bought(|it| it.entries.iter().any(|(goods, _)| *goods == Goods::Hot)));
        for wanted in [None, Some(1), Some(3)] {
            let has = |errand: &Errand| matches!(errand, Errand::Credit { with_key, .. } | Errand::Stock { with_key, .. } if *with_key == wanted);
            assert!(all.iter().any(has), "{wanted:?}");
        }
        assert!(all.iter().any(|errand| matches!(errand, Errand::Look { .. })));
    }
}
