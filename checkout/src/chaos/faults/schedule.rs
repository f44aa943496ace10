//! Which faults happen, drawn by the seed: for each lane its own sequence, so that what one lane has to wait for changes nothing in another.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chaos::faults::kind::{Act, Kind, Lane, Victim};

/// One fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The pause before it, after the lane is whole.
    pub after: Duration,
    /// What.
    pub kind: Kind,
    /// Whom of several, modulo their number.
    pub pick: usize,
    /// How long, where it lasts.
    pub lasts: Duration,
    /// How much, where that can be chosen; each fault reads it as it needs.
    pub dose: u64,
}

/// The faults of one lane, without end.
#[derive(Debug)]
pub struct Schedule {
    rng: StdRng,
    lane: Lane,
    kinds: Vec<Kind>,
    pause: Duration,
}

impl Schedule {
    /// The faults of a lane, on average `pause` apart; nothing if none of `kinds` happens there.
    #[must_use]
    pub fn new(seed: u64, lane: Lane, kinds: &[Kind], pause: Duration) -> Option<Self> {
        let mut kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| lane.takes(*kind)).collect();
        kinds.sort();
        let number = match lane {
            Lane::Gateway => 1,
            Lane::Sentinels => 2,
            Lane::Nats => 3,
            Lane::Platform => 4,
            Lane::Redis(service) => 5 + service as u64,
            Lane::Instance(service, number) => 8 + service as u64 + 3 * number as u64,
        };
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
        (!kinds.is_empty()).then_some(Self { rng, lane, kinds, pause })
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        // First the act: there are many links, and what is done to processes is not to become rare because of them.
        let acts: BTreeSet<Act> = self.kinds.iter().map(|kind| kind.act).collect();
        let act = acts.iter().nth(self.rng.random_range(0..acts.len())).copied();
        let kinds: Vec<Kind> = self.kinds.iter().copied().filter(|kind| Some(kind.act) == act).collect();
        let kind = kinds[self.rng.random_range(0..kinds.len())];
        let average = if kind.act == Act::Roll { self.pause * 20 } else { self.pause };
        let after = average.mul_f64(self.rng.random_range(0.3..1.7));
        let drawn = self.rng.random_range(0..1_000);
        let pick = if let Lane::Instance(_, number) = self.lane { number } else { drawn };
        // Long enough that the others miss it, and now and then not quite.
        let (shortest, longest) = match kind.victim {
            Victim::Primary(_) | Victim::Replica(_) => (1_000, 7_000),
            Victim::Leader | Victim::Nats | Victim::Link(_) => (1_000, 12_000),
            _ => (300, 6_000),
        };
        let lasts = Duration::from_millis(self.rng.random_range(shortest..longest));
        let dose = self.rng.random_range(0..1_000_000);
        Some(Planned { after, kind, pick, lasts, dose })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Service;

    #[test]
    fn one_seed_is_one_schedule_for_each_lane() {
        let kinds = Kind::all(true);
        let of = |seed, lane| {
            let schedule = Schedule::new(seed, lane, &kinds, Duration::from_secs(5));
            schedule.into_iter().flat_map(|it| it.take(100)).collect::<Vec<_>>()
        };
        let lane = Lane::Redis(Service::Payment);
        assert_eq!(of(1, lane), of(1, lane));
        assert_ne!(of(1, lane), of(2, lane));
        let acts = |lane| of(1, lane).into_iter().map(|it| it.kind.act).collect::<Vec<_>>();
        assert_ne!(acts(lane), acts(Lane::Redis(Service::Stock)));
    }

    #[test]
    fn every_kind_happens_in_its_lane() {
        for ha in [false, true] {
            let kinds = Kind::all(ha);
            for kind in &kinds {
                let lanes = Lane::all(|_| 2).into_iter().filter(|lane| lane.takes(*kind));
                let mut schedules = lanes.map(|lane| Schedule::new(5, lane, &kinds, Duration::from_secs(5)));
                let happens = |it: Option<Schedule>| it.is_some_and(|mut it| it.any(|it| it.kind == *kind));
                assert!(schedules.all(happens), "{kind}");
            }
        }
    }

    #[test]
    fn each_instance_is_hurt_by_a_schedule_of_its_own() {
        let kinds = Kind::all(true);
        let of = |service, number| {
            let lane = Lane::Instance(service, number);
            let schedule = Schedule::new(3, lane, &kinds, Duration::from_secs(5));
            schedule.into_iter().flat_map(|it| it.take(100)).collect::<Vec<_>>()
        };
        let (first, second) = (of(Service::Order, 0), of(Service::Order, 1));
        assert!(first.iter().all(|it| it.pick == 0) && second.iter().all(|it| it.pick == 1));
        let acts = |planned: &[Planned]| planned.iter().map(|it| it.kind.act).collect::<Vec<_>>();
        assert_ne!(acts(&first), acts(&second));
        assert_ne!(acts(&first), acts(&of(Service::Payment, 0)));
    }

    #[test]
    fn a_lane_in_which_nothing_happens_has_no_schedule() {
        assert!(Schedule::new(1, Lane::Sentinels, &Kind::all(false), Duration::from_secs(1)).is_none());
    }
}
