//! Each planted bug is caught by the simulator or by the exploration: if neither did, that would be the next test to write.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use protocol::explore::{CONFIGURATIONS, Report, explore};
use protocol::planted::Bug;
use protocol::simulator::{Failure, Options, simulate_all};

/// Seeds within which the simulator has to find a bug.
const SEEDS: u64 = 3_000;

/// Situations of one configuration within which the exploration has to find a bug.
const STATES: usize = 30_000;

/// Situations that are explored where it cannot find the bug.
const FEW_STATES: usize = 2_000;

/// Why the exploration cannot find a bug; for the others it has to.
fn is_beyond_exploration(bug: Bug) -> Option<&'static str> {
    match bug {
        Bug::AckBeforePublish => Some("no acknowledgements: each letter may come again or be lost"),
        Bug::NeverAbandons | Bug::WatermarkIgnoresRetries | Bug::TrimWithoutRefusing => Some("no clock"),
        Bug::TimeoutToldAsFailure => Some("no waiting clients"),
        Bug::OrderRedoSkipped => Some("no clock, so no watermark that passes what was forgotten"),
        Bug::WaitUnchecked => Some("no replicas: what is lost is drawn"),
        Bug::ReplacedOrderForgotten => Some("no order is replaced"),
        _ => None,
    }
}

fn simulated(bug: Bug) -> Option<Failure> {
    simulate_all(0..SEEDS, Options { planted: bug.into(), ..Options::default() }).err()
}

/// The first configuration that shows the bug.
fn explored(bug: Bug, most_states: usize) -> Option<(&'static str, Report)> {
    let reports = CONFIGURATIONS.iter().map(|of| (of.name, explore(*of, Some(bug), 100, most_states)));
    reports.into_iter().find(|(_, report)| report.broken.is_some())
}

#[test]
fn every_planted_bug_is_caught() {
    let mut escaped = Vec::new();
    println!("| planted bug | simulator | exploration |\n|---|---|---|");
    for bug in Bug::ALL.iter().copied() {
        let beyond = is_beyond_exploration(bug);
        let simulated = simulated(bug);
        let explored = explored(bug, if beyond.is_some() { FEW_STATES } else { STATES });
        let by_seed = simulated.as_ref().map_or("no".to_owned(), |failure| format!("seed {}", failure.seed));
        let by_steps = match (&explored, beyond) {
            (Some((name, report)), _) => {
                let steps = report.broken.as_ref().map_or(0, |broken| broken.way.len());
                format!("{name}, {steps} steps, {} situations", report.states)
            }
            (None, Some(why)) => format!("beyond it: {why}"),
            (None, None) => "no".to_owned(),
        };
        println!("| {bug} | {by_seed} | {by_steps} |");
        if simulated.is_none() || explored.is_some() == beyond.is_some() {
            escaped.push(bug);
        }
    }
    assert!(
        escaped.is_empty(),
        "not caught where they should be, or caught where that was thought to be impossible: {escaped:?}"
    );
}

#[test]
fn bugs_are_named_as_on_the_command_line() {
    for bug in Bug::ALL {
        assert_eq!(bug.to_string().parse(), Ok(*bug));
    }
    assert_eq!(Bug::AckBeforePublish.to_string(), "ack-before-publish");
    assert!("nothing".parse::<Bug>().unwrap_err().contains("record-apart"));
}
