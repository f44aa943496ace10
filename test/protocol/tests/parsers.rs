//! Every parser that meets the outside, on random input: none panics, each refuses or reads, and what it reads is written as it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Display;
use std::str::FromStr;

use common::amount::{Amount, MAX, Quantity};
use common::event::{Event, Kind, WATERMARK_SUBJECT};
use common::id::{ItemId, OrderId, UserId};
use common::problem::Code;
use common::reason::FailureReason;
use common::redis::{Operation, Reply};
use common::saga::{SagaId, parse_entries};
use common::settings::without_secrets;
use common::trace::TraceParent;
use order::command::{AddItem, BatchInit, Create};
use order::{effect, undo};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Texts of all kinds, and texts that are almost right.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[-+]?[0-9]{0,20}(\\.[0-9]{0,3})?(e[0-9]{1,2})?",
        "[A-Za-z0-9_.:,@-]{0,90}",
        "[0-9a-z]{1,5}\\.[0-9a-z]{1,5}\\.[0-9]{1,3}",
        "0?0-[0-9a-f]{30,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}",
        "(insufficient_credit|unknown_user|out_of_stock|unknown_item|abandoned):?[a-z0-9é]{0,4}",
        "([0-9a-z]{1,3}:[0-9]{1,17},?){0,5}",
    ]
}

/// What is read is written as it was, or it is refused.
fn reads_back<T: FromStr + Display>(text: &str) -> bool {
    text.parse::<T>().map_or(true, |read| read.to_string() == text)
}

/// A body of an event with some of its bytes changed, or cut, or none of it.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    const BODY: &str = r#"{"version":1,"saga_id":"5.k3.0","order_id":"5","started_at_ms":17,"user_id":"7","amount":20,"items":[["1",1],["2",1]],"at_ms":20,"reason":"abandoned","round":2,"trail":[{"event":"checkout.started","at_ms":18}]}"#;
    let changed = prop::collection::vec((0..BODY.len(), any::<u8>()), 0..4).prop_flat_map(|changes| {
        (0..=BODY.len()).prop_map(move |end| {
            let mut body = BODY.as_bytes().to_vec();
            changes.iter().for_each(|(at, byte)| body[*at] = *byte);
            // Mostly whole.
            body.truncate(if end % 3 == 0 { end } else { BODY.len() });
            body
        })
    });
    prop_oneof![8 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200), 1 => any::<u64>().prop_map(|ms| format!("{{\"closed_before_ms\":{ms}}}").into_bytes())]
}

fn subjects() -> impl Strategy<Value = String> {
    let known: Vec<_> =
        Kind::ALL.iter().map(|kind| kind.subject().to_owned()).chain([WATERMARK_SUBJECT.to_owned()]).collect();
    prop_oneof![9 => prop::sample::select(known), 1 => any::<String>()]
}

/// Replies with codes that functions return, and others.
fn replies() -> impl Strategy<Value = Reply> {
    let code = prop::sample::select(vec![
        "ok",
        "started",
        "joined",
        "paid",
        "no_order",
        "running",
        "recorded",
        "key_mismatch",
        "closed",
        "repeat",
        "ended_twice",
        "conflict",
        "too_old",
        "debited",
        "declined",
        "refunded",
        "voided",
        "reserved",
        "failed",
        "state",
        "in_future",
        "",
    ]);
    let part =
        prop_oneof![texts(), "state|order|items|steps|completed|started|failed|amount".prop_map(|it: String| it)];
    (code, prop::collection::vec(part, 0..14)).prop_map(|(code, parts)| {
        let all: Vec<&str> = std::iter::once(code).chain(parts.iter().map(String::as_str)).collect();
        Reply::of(&all)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn ids_amounts_and_headers_are_refused_or_written_as_they_were(text in texts()) {
        prop_assert!(reads_back::<OrderId>(&text) && reads_back::<UserId>(&text) && reads_back::<ItemId>(&text));
        // A number may begin with zeros.
        let number = Some(text.trim_start_matches('0')).filter(|it| !it.is_empty()).unwrap_or("0");
        prop_assert!(text.parse::<Amount>().map_or(true, |it| it.to_string() == number));
        prop_assert!(text.parse::<Quantity>().map_or(true, |it| it.to_string() == number));
        prop_assert!(text.parse::<Amount>().map_or(true, |amount| amount.get() <= MAX));
        prop_assert!(reads_back::<SagaId>(&text));
        prop_assert!(reads_back::<FailureReason>(&text));
        prop_assert!(text.parse::<TraceParent>().map_or(true, |trace| trace.as_str() == text));
        if let Ok(id) = text.parse::<OrderId>() {
            // Safe in a key, a subject and a path.
            let unsafe_there = [':', '.', '/', ' ', '*', '>', '{', '\r', '\n', '\0', ','];
            prop_assert!(!id.as_str().contains(unsafe_there));
        }
        if let Ok(entries) = parse_entries(&text) {
            let written: Vec<String> = entries.iter().map(|(item, quantity)| format!("{item}:{quantity}")).collect();
            prop_assert_eq!(parse_entries(&written.join(",")).unwrap(), entries);
        }
    }

    #[test]
    fn the_parts_of_a_path_are_refused_as_malformed_or_taken(a in texts(), b in texts(), c in texts(), d in texts()) {
        let refused = |code: Code| matches!(code, Code::Malformed | Code::Overflow);
        prop_assert!(Create::parse(&a).map_or_else(|problem| refused(problem.code), |_| true));
        let add = AddItem::parse(&(a.clone(), b.clone(), c.clone()));
        prop_assert!(add.as_ref().map_or_else(|problem| refused(problem.code), |_| true));
        if let Ok(add) = add {
            // Whatever it costs, there is a call for it.
            for price in [None, Some(Amount::ZERO), Amount::try_from(MAX).ok()] {
                prop_assert_eq!(&add.call(&Operation::internal("x".to_owned()), price).words()[1], &order::effect::LIBRARY.versioned("order_add_item").to_string());
            }
        }
        prop_assert!(BatchInit::parse(&(a, b, c, d)).map_or_else(|problem| refused(problem.code), |_| true));
    }

    #[test]
    fn an_event_is_poison_with_a_reason_or_is_written_as_it_was(subject in subjects(), body in bodies(), trace in texts()) {
        match Event::decode(&subject, &body, Some(&trace)) {
            Err(poison) => prop_assert!(!poison.to_string().is_empty()),
            Ok(event) => {
                prop_assert_eq!(event.subject(), &subject);
                let written = event.encode().unwrap();
                let again = Event::decode(&subject, &written, event.traceparent().map(TraceParent::as_str)).unwrap();
                prop_assert_eq!(again, event);
            }
        }
    }

    #[test]
    fn the_reply_of_a_function_is_read_or_unexpected(reply in replies()) {
        let order: OrderId = "5".parse().unwrap();
        let saga: SagaId = "5.k.0".parse().unwrap();
        let _ = (effect::read_begun(&order, &reply), effect::read_closed(&reply), effect::read_claimed(&reply));
        let _ = (effect::read_order(&reply), undo::read_entry(&saga, &reply));
        let _ = (payment::effect::read_outcome(&reply), stock::effect::read_outcome(&reply), stock::effect::read_item(&reply));
        let known = ["debited", "declined", "refunded", "voided", "conflict", "too_old"];
        prop_assert!(known.contains(&reply.code()) || payment::effect::read_outcome(&reply).is_err());
    }

    #[test]
    fn no_password_is_shown(user in "[a-z]{1,8}", password in "[!-~]{0,30}", hosts in prop::collection::vec("[a-z0-9.:-]{1,20}", 1..4)) {
        // In a URL a password has its special characters encoded; these three would end it early.
        let password = format!("sEcReT{}", password.replace(['/', '?', '#'], "x"));
        let url = hosts.iter().map(|host| format!("nats://{user}:{password}@{host}")).collect::<Vec<_>>().join(",");
        prop_assert!(!without_secrets(&url).contains("sEcReT"), "{} of {url}", without_secrets(&url));
    }
}
