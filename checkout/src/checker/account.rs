//! What a balance can have been at any time, given what its clients were told.
//!
//! Every change has a time from which it *may* have taken effect (its request was sent), possibly one until which it may have been in effect
//! (the request was refused: what a saga took is given back), and possibly one from which it *must* be (its client was told so). A look at
//! the balance must lie between what all of them allow; so must the way from one look of a client to its next.

/// A change of a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// By how much; always positive, the direction is that of the list it is in.
    pub amount: i128,
    /// It may be in effect from here on.
    pub may_from_us: u64,
    /// And until here, if it was taken back.
    pub may_until_us: Option<u64>,
    /// It is certainly in effect from here on.
    pub must_from_us: Option<u64>,
}

/// A balance that began with nothing.
#[derive(Debug, Clone, Default)]
pub struct Account {
    ups: Vec<Change>,
    downs: Vec<Change>,
    /// Direct changes of which nobody knows whether they happened, up positive.
    unknown: Vec<i128>,
    /// Changes that certainly happened by the end.
    sure: i128,
}

/// The bounds of an account at any time.
#[derive(Debug, Clone)]
pub struct Bounds {
    ups: Side,
    downs: Side,
}

impl Account {
    /// A change by a client's own command.
    pub fn command(&mut self, amount: i128, may_from_us: u64, must_from_us: Option<u64>) {
        match must_from_us {
            Some(_) => self.sure += amount,
            None => self.unknown.push(amount),
        }
        let change = Change { amount: amount.abs(), may_from_us, may_until_us: None, must_from_us };
        if amount >= 0 { self.ups.push(change) } else { self.downs.push(change) }
    }

    /// What a checkout took or may have taken, for good or for a while.
    pub fn checkout(&mut self, change: Change) {
        self.downs.push(change);
    }

    /// What an order took that is paid at the end.
    pub fn paid(&mut self, amount: i128) {
        self.sure -= amount;
    }

    /// Whether the account may end with this balance: what surely happened, and any of what may have.
    #[must_use]
    pub fn may_end_with(&self, balance: i128) -> bool {
        // All sums of any of the unknown changes. They are few, and their sums fewer than their sets.
        let mut sums = std::collections::BTreeSet::from([self.sure]);
        for amount in &self.unknown {
            let more: Vec<i128> = sums.iter().map(|sum| sum + amount).collect();
            sums.extend(more);
        }
        sums.contains(&balance)
    }

    /// What surely happened, in sum, and how many more changes may have.
    #[must_use]
    pub fn expected(&self) -> (i128, usize) {
        (self.sure, self.unknown.len())
    }

    /// The bounds of this account.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds { ups: Side::new(&self.ups), downs: Side::new(&self.downs) }
    }
}

impl Bounds {
    /// The least and the most that the balance can have been at some instant between the two.
    #[must_use]
    pub fn between(&self, start_us: u64, end_us: u64) -> (i128, i128) {
        let least = self.ups.certain(start_us) - self.downs.possible(start_us, end_us);
        let most = self.ups.possible(start_us, end_us) - self.downs.certain(start_us);
        (least, most)
    }

    /// By how much, down and up, the balance can have changed between a look that began at `first_us` and one that ended at `second_us`.
    #[must_use]
    pub fn drift(&self, first_us: u64, second_us: u64) -> (i128, i128) {
        let down = self.downs.possible(first_us, second_us) - self.downs.certain(first_us);
        let up = self.ups.possible(first_us, second_us) - self.ups.certain(first_us);
        // What a saga had taken may be given back, so what can go down can also come up.
        (down, up + down)
    }
}

/// One direction, ready to be asked.
#[derive(Debug, Clone)]
struct Side {
    begins: Sums,
    ends: Sums,
    musts: Sums,
}

impl Side {
    fn new(changes: &[Change]) -> Self {
        let all = |time: fn(&Change) -> Option<u64>| {
            Sums::new(changes.iter().filter_map(|change| Some((time(change)?, change.amount))).collect())
        };
        Self {
            begins: all(|change| Some(change.may_from_us)),
            ends: all(|change| change.may_until_us),
            musts: all(|change| change.must_from_us),
        }
    }

    /// What may be in effect at some instant of an interval.
    fn possible(&self, start_us: u64, end_us: u64) -> i128 {
        // What has ended has also begun before.
        self.begins.until(end_us) - self.ends.before(start_us)
    }

    /// What is certainly in effect from an instant on.
    fn certain(&self, at_us: u64) -> i128 {
        self.musts.before(at_us)
    }
}

/// Sums over time.
#[derive(Debug, Clone)]
struct Sums(Vec<(u64, i128)>);

impl Sums {
    fn new(mut all: Vec<(u64, i128)>) -> Self {
        all.sort_unstable_by_key(|(at, _)| *at);
        let mut sum = 0;
        for (_, amount) in &mut all {
            sum += *amount;
            *amount = sum;
        }
        Self(all)
    }

    fn before(&self, at_us: u64) -> i128 {
        self.first(self.0.partition_point(|(at, _)| *at < at_us))
    }

    fn until(&self, at_us: u64) -> i128 {
        self.first(self.0.partition_point(|(at, _)| *at <= at_us))
    }

    fn first(&self, count: usize) -> i128 {
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
