//! The exploration: every order of events of a small shop, up to bounds, with `stateright`.
//!
//! A [`Situation`] is the three databases, the letters (events that are stored and not lost) and what is left of the bounds. A
//! letter stays after its delivery, so that it comes again, late and in any order, as often as one likes; between an effect
//! and its publication an instance may crash; claims of two reconcilers are published when they like; the stream may be lost
//! as a whole or by single letters. There is no clock: a saga is replayed or abandoned at any time.

mod model;
mod situation;

pub use model::Exploration;
pub use situation::{Situation, Step};

use std::collections::BTreeSet;
use std::fmt;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::planted::{Bug, Planted};

/// What the orders of a small shop want, and how much may happen.
#[derive(Debug, Clone, Copy)]
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// The user of each order.
    pub orders: &'static [&'static str],
    /// Credit of every user.
    pub credit: u64,
    /// Pieces of the two items that every order wants.
    pub pieces: [u64; 2],
    /// How often clients ask for a checkout.
    pub asks: u8,
    /// How often a reconciler claims.
    pub claims: u8,
    /// How often the stream loses something.
    pub losses: u8,
    /// How often missing pieces or credit are brought.
    pub trades: u8,
    /// How often the order database forgets that a saga was opened.
    pub undo_losses: u8,
    /// How often payment's or stock's database forgets its last decision about a saga.
    pub tail_losses: u8,
}

/// What an order costs: less than the credit of two orders.
const COST: u64 = 2;

/// All configurations.
pub const CONFIGURATIONS: &[Configuration] = &[
    Configuration {
        name: "two-attempts",
        about: "one order, whose second item comes into stock between two attempts",
        orders: &["u"],
        credit: 2,
        pieces: [1, 0],
        asks: 2,
        claims: 2,
        losses: 1,
        trades: 1,
        undo_losses: 0,
        tail_losses: 0,
    },
    Configuration {
        name: "no-credit",
        about: "one order, whose user gets credit between two attempts",
        orders: &["u"],
        credit: 1,
        pieces: [1, 1],
        asks: 2,
        claims: 2,
        losses: 2,
        trades: 1,
        undo_losses: 0,
        tail_losses: 0,
    },
    Configuration {
        name: "one-item",
        about: "two orders of two users that want the same piece",
        orders: &["u", "v"],
        credit: 2,
        pieces: [1, 1],
        asks: 2,
        claims: 1,
        losses: 2,
        trades: 0,
        undo_losses: 0,
        tail_losses: 0,
    },
    Configuration {
        name: "one-user",
        about: "two orders of one user who can pay one",
        orders: &["u", "u"],
        credit: 3,
        pieces: [2, 2],
        asks: 2,
        claims: 1,
        losses: 2,
        trades: 0,
        undo_losses: 0,
        tail_losses: 0,
    },
    Configuration {
        name: "two-reconcilers",
        about: "one order, which two instances claim in turn",
        orders: &["u"],
        credit: 2,
        pieces: [1, 1],
        asks: 1,
        claims: 5,
        losses: 4,
        trades: 0,
        undo_losses: 0,
        tail_losses: 0,
    },
    Configuration {
        name: "lost-undo",
        about: "one order, whose undo entry the order database forgets",
        orders: &["u"],
        credit: 4,
        pieces: [2, 2],
        asks: 3,
        claims: 2,
        losses: 1,
        trades: 0,
        undo_losses: 2,
        tail_losses: 0,
    },
    Configuration {
        name: "lost-tails",
        about: "one order, whose debit and reservation are forgotten by their databases",
        orders: &["u"],
        credit: 2,
        pieces: [1, 1],
        asks: 1,
        claims: 3,
        losses: 2,
        trades: 0,
        undo_losses: 0,
        tail_losses: 3,
    },
    Configuration {
        name: "lost-tails-short",
        about: "two orders of one user that want the same piece, whose decisions are forgotten",
        orders: &["u", "u"],
        credit: 3,
        pieces: [1, 1],
        asks: 2,
        claims: 1,
        losses: 0,
        trades: 0,
        undo_losses: 0,
        tail_losses: 1,
    },
];

/// What an exploration has found.
#[derive(Debug)]
pub struct Report {
    /// Different situations.
    pub states: usize,
    /// Situations, counted each time that they were reached.
    pub reached: usize,
    /// Steps of the longest way.
    pub depth: usize,
    /// Whether there was nothing more within the bounds.
    pub is_complete: bool,
    /// What should happen in some situation, and did.
    pub seen: BTreeSet<&'static str>,
    /// A broken property, and a short way to it.
    pub broken: Option<Broken>,
}

/// A broken property.
#[derive(Debug)]
pub struct Broken {
    /// Which.
    pub property: &'static str,
    /// How one gets there.
    pub way: Vec<String>,
    /// What is wrong there.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "broken: {}", self.property)?;
        for (n, step) in self.way.iter().enumerate() {
            writeln!(f, "  {:>2}. {step}", n + 1)?;
        }
        write!(f, "{}", self.why)
    }
}

/// Explores a configuration to this depth, but not beyond about so many states.
pub fn explore(configuration: Configuration, planted: Option<Bug>, depth: usize, most_states: usize) -> Report {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = Exploration { configuration, planted: Planted(planted) };
    let checker = model
        .checker()
        .threads(threads)
        .target_max_depth(depth)
        .target_state_count(most_states)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let is_example = |name| checker.model().property(name).expectation == Expectation::Sometimes;
    let (examples, found): (Vec<_>, Vec<_>) = checker.discoveries().into_iter().partition(|(name, _)| is_example(name));
    let found = found.into_iter().min_by_key(|(_, path)| path.clone().into_actions().len());
    let broken = found.map(|(property, path)| {
        let last = path.last_state().clone();
        let why = last.what_is_wrong(checker.model()).unwrap_or_default();
        Broken { property, way: path.into_actions().iter().map(Step::to_string).collect(), why }
    });
    let is_complete = broken.is_none() && checker.max_depth() < depth && checker.state_count() < most_states;
    Report {
        states: checker.unique_state_count(),
        reached: checker.state_count(),
        depth: checker.max_depth(),
        is_complete,
        seen: examples.into_iter().map(|(name, _)| name).collect(),
        broken,
    }
}
