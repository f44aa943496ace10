//! The simulator finds nothing, and would.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use protocol::planted::Bug;
use protocol::simulator::{Extensions, Options, simulate, simulate_all};

/// `make simulate` runs more.
const SEEDS: u64 = 8_000;

/// What must happen in so many seeds, or the simulator would prove nothing.
const HAPPENS: &[&str] = &[
    "abandonments",
    "acks lost",
    "answered 200",
    "answered 202",
    "answered 4xx",
    "clock jumps",
    "closed before",
    "completed",
    "confirmations lost",
    "crashes",
    "database away",
    "dead letters",
    "debited",
    "declined",
    "deliveries lost",
    "duplicates",
    "failed",
    "joined",
    "not reserved",
    "notifications lost",
    "orders changed",
    "orders replaced",
    "outages",
    "pauses",
    "payment stays away",
    "records forgotten",
    "refunded",
    "replays",
    "reserved",
    "seeds with both witnesses",
    "seeds with the stream alone",
    "seeds with the undo log alone",
    "stream away",
    "the stream is deleted",
    "the stream is purged",
    "the stream loses a message",
    "the stream loses its tail",
    "too old",
    "voided",
];

#[test]
fn no_seed_violates_an_invariant() {
    let counts = simulate_all(0..SEEDS, Options::default());
    let counts = counts.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{counts:#?}");
    for what in HAPPENS {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count > 100, "{what:?} happens {count} times: too seldom to prove anything");
    }
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in 0..200 {
        assert_eq!(simulate(seed, Options::default()), simulate(seed, Options::default()), "seed {seed}");
    }
}

#[test]
fn a_saga_that_is_forgotten_and_opened_again_at_once_meets_its_records() {
    let extensions = Extensions { undo_loss: true, ..Extensions::default() };
    let counts = simulate_all(0..2_000, Options { extensions, ..Options::default() });
    let counts = counts.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(counts["undo entries lost"] > 300, "{counts:?}");
}

#[test]
fn a_saga_that_is_forgotten_and_opened_again_late_meets_its_records() {
    let extensions = Extensions { late_undo_loss: true, ..Extensions::default() };
    let counts = simulate_all(0..2_000, Options { extensions, ..Options::default() });
    let counts = counts.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(counts["starts redone"] > 300, "{counts:?}");
}

#[test]
fn a_violation_is_told_with_the_command_that_shows_it() {
    let plant = Bug::RefundNotRecorded.to_string();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_protocol")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = run(&["simulate", "--seeds", "1000", "--plant", &plant]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("violates an invariant"), "{told}");
    let command =
        told.lines().find_map(|line| line.strip_prefix("see how: cargo run --release -p protocol -- ")).unwrap();
    let (code, shown) = run(&command.split(' ').collect::<Vec<_>>());
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("Payment(Refunded") && shown.contains("violates an invariant"), "{shown}");
    assert_eq!(run(&["simulate", "--seeds", "20"]).0, Some(0));
}
