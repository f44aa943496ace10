//! Every order of steps of the small shops, within their bounds, leaves every property whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use protocol::explore::{CONFIGURATIONS, explore};

#[test]
fn every_order_of_steps_keeps_the_invariants_and_can_be_brought_to_an_end() {
    let mut states = 0;
    for configuration in CONFIGURATIONS {
        let report = explore(*configuration, None, 100, 1_000_000);
        println!("{}: {} situations, up to {} steps", configuration.name, report.states, report.depth);
        if let Some(broken) = report.broken {
            panic!("{}: {broken}", configuration.name);
        }
        assert!(report.is_complete, "{}: not all was explored: {report:?}", configuration.name);
        assert_eq!(report.seen.len(), 3, "{}: only seen: {:?}", configuration.name, report.seen);
        states += report.states;
    }
    println!("{states} situations");
    assert!(states > 150_000, "only {states} situations");
}
