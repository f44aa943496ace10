//! The AsyncAPI document says what the code does.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;

use common::event::Kind;
use nats::topology::{CHANNELS, DEAD_LETTER_SUBJECTS, DROPPED_SUBJECT, Durable, PRICES_SUBJECT, REDRIVEN_SUBJECT};

const DOCUMENT: &str = include_str!("../asyncapi.yaml");

/// The lines of a top-level section.
fn section(name: &str) -> Vec<&'static str> {
    let lines = DOCUMENT.lines().skip_while(|line| *line != format!("{name}:")).skip(1);
    lines.take_while(|line| line.is_empty() || line.starts_with([' ', '#'])).collect()
}

#[test]
fn every_subject_is_a_channel_and_every_channel_a_subject() {
    let addresses: BTreeSet<_> =
        section("channels").iter().filter_map(|line| line.trim().strip_prefix("address: ")).collect();
    let subjects = CHANNELS.iter().map(|channel| channel.subject);
    let dead = "dead.{durable}";
    let log = "dead-log.{action}";
    assert_eq!(addresses, subjects.chain([PRICES_SUBJECT, dead, log]).collect());
    assert_eq!(dead.replace("{durable}", ">"), DEAD_LETTER_SUBJECTS);
    assert!(DOCUMENT.contains("        enum: [redriven, dropped]\n"));
    assert_eq!(
        ["redriven", "dropped"].map(|action| log.replace("{action}", action)),
        [REDRIVEN_SUBJECT, DROPPED_SUBJECT]
    );
}

#[test]
fn who_sends_and_who_receives_is_as_in_the_topology() {
    let mut expected = BTreeSet::new();
    for channel in CHANNELS {
        let sender = format!("{:?}", channel.published_by).to_lowercase();
        expected.insert(format!("{sender}.send.{}: {{action: send, ", channel.subject));
        for durable in channel.reacts {
            expected.insert(format!("{durable}.receive.{}: {{action: receive, ", channel.subject));
        }
    }
    let operations: BTreeSet<_> = section("operations")
        .iter()
        .filter(|line| line.contains("{action: ") && !line.contains(".send.dead"))
        .map(|line| line.trim().split("channel: ").next().unwrap().to_owned())
        .collect();
    assert_eq!(operations, expected);
    for channel in CHANNELS {
        assert!(DOCUMENT.contains(&format!("{{$ref: '#/channels/{}'}}", channel.subject)));
    }
}

#[test]
fn failures_and_only_failures_must_say_why() {
    for kind in Kind::ALL {
        let schema = if kind.needs_reason() { "FailedSagaEvent" } else { "SagaEvent" };
        let message = format!("    {kind}:\n      headers: {{$ref: '#/components/schemas/Headers'}}\n");
        let payload = format!("{message}      payload: {{$ref: '#/components/schemas/{schema}'}}\n");
        assert!(DOCUMENT.contains(&payload), "{kind}");
        assert!(DOCUMENT.contains(&format!("        - {kind}\n")), "{kind} is not among the names");
    }
    for durable in Durable::ALL {
        assert!(DOCUMENT.contains(durable.name()));
    }
}
