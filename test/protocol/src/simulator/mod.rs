//! The simulator: the real decisions of all three services over pure databases and a modelled stream, in one thread, with every
//! choice drawn from one seed.
//!
//! A seed draws a [`scenario`] and a [`shop`], then steps: a client asks ([`request`]), an [`instance`] takes or moves a batch,
//! a [`reconciler`] claims, somebody trades outside of any saga, something goes wrong ([`faults`]), time passes. The observer
//! ([`crate::ledger`]) sees every change of credits and pieces and says at once when something is wrong. When the steps are over
//! the faults end ([`calm`]), everything must end, and the whole is checked ([`check`]).

mod calm;
mod check;
mod dice;
mod faults;
mod instance;
mod reconciler;
mod request;
mod scenario;
mod shop;
mod stream;
mod tails;

pub use scenario::{Extensions, Witness};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::trace::TraceParent;
use nats::topology::Durable;

use crate::glue::Databases;
use crate::ledger::{Ledger, Violation};
use crate::planted::{Bug, Planted};
use dice::Dice;
use instance::Instance;
use reconciler::Reconciling;
use request::Request;
use scenario::Scenario;
use shop::Shop;
use stream::{Stream, place};
use tails::Replica;

/// When all simulations begin: the clock decides nothing by itself, so any time will do.
const START_MS: u64 = 1_700_000_000_000;

/// Instances of each service.
const INSTANCES: usize = 2;

/// How often what happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// How a simulation is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// A bug to find.
    pub planted: Planted,
    /// Further faults.
    pub extensions: Extensions,
    /// Whether each step is printed.
    pub trace: bool,
}

/// Everything that there is in one simulation.
struct World {
    dice: Dice,
    now_ms: u64,
    /// How far the order database's clock is off.
    order_skew_ms: i64,
    databases: Databases,
    /// What a failover would make of each of them.
    replicas: [Replica; 3],
    /// Until when each database cannot be reached.
    database_away_until_ms: [u64; 3],
    stream: Stream,
    stream_away_until_ms: u64,
    messages_lost: usize,
    instances: Vec<Instance>,
    requests: Vec<Request>,
    arrivals: u64,
    ledger: Ledger,
    shop: Shop,
    scenario: Scenario,
    planted: Planted,
    traceparent: TraceParent,
    counts: Counts,
    trace: bool,
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut dice = Dice::new(seed);
        let mut extensions = options.extensions;
        // Only a failover makes it matter where a saga's id comes from.
        extensions.undo_loss |= options.planted.is(Bug::DrawnSagaId);
        extensions.late_undo_loss |= options.planted.is(Bug::OrderRedoSkipped);
        let mut scenario = Scenario::draw(&mut dice, extensions);
        if let Some(Bug::PaymentRedoSkipped | Bug::StockRedoSkipped | Bug::WaitUnchecked) = options.planted.0 {
            scenario.waits = options.planted.is(Bug::WaitUnchecked);
        }
        let shop = Shop::draw(&mut dice);
        let services = Durable::ALL.iter().flat_map(|durable| (1..=INSTANCES).map(move |n| (*durable, n)));
        let instances = services.map(|(durable, n)| Instance {
            durable,
            name: format!("{durable}-{n}"),
            away_until_ms: 0,
            batches: Vec::new(),
            reconciling: Reconciling::Idle,
            next_tick_ms: 0,
            next_watermark_ms: 0,
        });
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut world = Self {
            now_ms: START_MS,
            order_skew_ms: 0,
            replicas: Self::new_replicas(&Databases::new(options.planted)),
            databases: Databases::new(options.planted),
            database_away_until_ms: [0; 3],
            stream: Stream::new(options.planted.is(Bug::DedupWithoutRound)),
            stream_away_until_ms: 0,
            messages_lost: 0,
            instances: instances.collect(),
            requests: Vec::new(),
            arrivals: 0,
            ledger: Ledger::default(),
            shop,
            planted: options.planted,
            traceparent: trace.parse().unwrap_or_else(|_| TraceParent::random()),
            counts: Counts::new(),
            trace: options.trace,
            scenario,
            dice,
        };
        world.say(|world| format!("{:#?}", world.scenario));
        world.open_shop();
        world.replicas = Self::new_replicas(&world.databases);
        world
    }

    fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..self.scenario.steps {
            self.pass_time();
            match self.dice.below(100) {
                0..5 => self.arrive_somewhere(),
                5..8 => self.trade()?,
                8..30 if !self.requests.is_empty() => {
                    let index = self.dice.index(self.requests.len());
                    self.step_request(index)?;
                }
                30..85 => self.step_instance()?,
                _ => self.fault()?,
            }
        }
        self.calm_down()
    }

    /// Mostly little, now and then much.
    fn pass_time(&mut self) {
        self.now_ms += match self.dice.below(1_000) {
            0..700 => self.dice.below(3),
            700..970 => self.dice.below(30),
            970..997 => self.dice.below(500),
            _ => self.dice.below(30_000),
        };
        self.databases.order.expire(self.order_clock_ms());
    }

    fn arrive_somewhere(&mut self) {
        let (order, instance) = (self.shop.order(&mut self.dice), self.dice.index(INSTANCES));
        // The instances of order come first. One that is away takes nothing in.
        if self.is_up(instance) {
            self.arrive(order, instance);
        }
    }

    fn step_instance(&mut self) -> Result<(), Violation> {
        let instance = self.dice.index(self.instances.len());
        if !self.is_up(instance) {
            return Ok(());
        }
        if self.dice.chance(800) {
            self.keep_alive(instance);
        }
        let has_reconciler = self.instances[instance].durable == Durable::Order;
        match self.dice.below(10) {
            0..4 => {
                self.fetch(instance);
            }
            4..6 if has_reconciler => {
                self.step_reconciler(instance)?;
            }
            _ => {
                self.step_batch(instance)?;
            }
        }
        Ok(())
    }

    fn is_database_away(&self, durable: Durable) -> bool {
        self.database_away_until_ms[place(durable)] > self.now_ms
    }

    fn order_clock_ms(&self) -> u64 {
        self.now_ms.saturating_add_signed(self.order_skew_ms)
    }

    fn count(&mut self, what: &'static str) {
        self.count_by(what, 1);
    }

    fn count_by(&mut self, what: &'static str, by: usize) {
        *self.counts.entry(what).or_default() += by as u64;
    }

    /// Prints a step, where somebody wants to see it.
    fn say(&self, what: impl FnOnce(&Self) -> String) {
        if self.trace {
            crate::print_line(format_args!("{:>9} {}", self.now_ms - START_MS, what(self)));
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Runs one seed.
///
/// # Errors
/// An invariant that it violates.
pub fn simulate(seed: u64, options: Options) -> Result<Counts, Violation> {
    let mut world = World::new(seed, options);
    world.run().map(|()| {
        world.count(match world.witness() {
            Witness::Both => "seeds with both witnesses",
            Witness::Stream => "seeds with the stream alone",
            Witness::UndoLog => "seeds with the undo log alone",
        });
        world.counts
    })
}

/// A seed that violates an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which seed.
    pub seed: u64,
    /// Which invariant, and how.
    pub violation: Violation,
    /// How it was run.
    pub options: Options,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, violation, options } = self;
        writeln!(f, "seed {seed} violates an invariant: {}", violation.0)?;
        write!(f, "see how: cargo run --release -p protocol -- simulate --seed {seed} --trace")?;
        if let Some(bug) = options.planted.0 {
            write!(f, " --plant {bug}")?;
        }
        let Extensions { undo_loss, late_undo_loss } = options.extensions;
        let flags = [(undo_loss, "undo-loss"), (late_undo_loss, "late-undo-loss")];
        flags.iter().filter(|(is_set, _)| *is_set).try_for_each(|(_, flag)| write!(f, " --{flag}"))
    }
}

/// Runs many seeds, on all cores: each seed is a thread's own, so it runs as it would alone. Ends at the first failure; of
/// several found at once, it is the first seed's.
///
/// # Errors
/// The failure.
pub fn simulate_all(seeds: std::ops::Range<u64>, options: Options) -> Result<Counts, Failure> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut counts = Counts::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(counts);
            }
            match simulate(seed, options) {
                Ok(of_seed) => of_seed.into_iter().for_each(|(what, by)| *counts.entry(what).or_default() += by),
                Err(violation) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    return Err(Failure { seed, violation, options });
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result<Counts, Failure>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut all = Counts::new();
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(counts) => counts.into_iter().for_each(|(what, by)| *all.entry(what).or_default() += by),
            Err(failure) => failures.push(failure),
        }
    }
    failures.into_iter().min_by_key(|failure| failure.seed).map_or(Ok(all), Err)
}
