//! What cannot be understood, or cannot be, is put aside with the reason, and everything else flows on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};
use testing::books::Books;
use testing::load::{Load, Seed};
use testing::platform::{Options, Platform};
use testing::stream::{DEAD_LETTERS, Nats, Stored};
use testing::wait::until;

/// Each subject that a service takes, with the services that do.
const TAKEN: [(&str, &[&str]); 8] = [
    ("checkout.started", &["payment"]),
    ("stock.failed", &["payment"]),
    ("payment.debited", &["stock"]),
    ("checkout.abandoned", &["stock"]),
    ("payment.declined", &["order"]),
    ("stock.reserved", &["order"]),
    ("payment.refunded", &["order"]),
    ("checkout.watermark", &["payment", "stock"]),
];

/// The largest message that the server takes.
const MAX_PAYLOAD: usize = 1 << 20;

fn good() -> Value {
    json!({
        "version": 1, "saga_id": "x1.k.0", "order_id": "x1", "started_at_ms": 1, "user_id": "0", "amount": 1, "items": [["0", 1]],
        "reason": "abandoned",
    })
}

/// The good event with one field changed.
fn with(field: &str, value: Value) -> Bytes {
    let mut event = good();
    event[field] = value;
    event.to_string().into()
}

/// Bodies that are wrong for every event, and a word of the reason why.
fn poison() -> Vec<(Bytes, &'static str)> {
    let mut all: Vec<(Bytes, &'static str)> = vec![
        ("no JSON".into(), "does not fit"),
        ("".into(), "does not fit"),
        ("null".into(), "does not fit"),
        ("[1,2]".into(), "does not fit"),
        ("{}".into(), "missing field"),
        (Bytes::from_static(b"\xff\xfe\x00{"), "does not fit"),
        (vec![b'x'; MAX_PAYLOAD].into(), "does not fit"),
        ("[".repeat(100_000).into(), "does not fit"),
    ];
    all.push((with("version", json!("1")), "does not fit"));
    all
}

/// Bodies that are wrong for an event about a saga.
fn saga_poison() -> Vec<(Bytes, &'static str)> {
    vec![
        (with("amount", json!(-1)), "does not fit"),
        (with("amount", json!(1.5)), "does not fit"),
        (with("amount", json!(9_007_199_254_740_992_u64)), "does not fit"),
        (with("user_id", json!("a b")), "does not fit"),
        (with("saga_id", json!("x1")), "does not fit"),
        (with("saga_id", json!("x2.k.0")), "does not belong"),
        (with("items", json!([["b", 1], ["a", 1]])), "does not fit"),
        (with("items", json!([["0", -1]])), "does not fit"),
        (with("reason", json!("because")), "does not fit"),
        // An event that nobody knows would be no poison there, and a newer version none at all: see `nats/tests/newer.rs`.
        (with("trail", json!([{ "event": "checkout.started" }])), "does not fit"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_put_aside_with_its_reason_and_the_rest_flows_on() {
    let platform = Platform::start(Options::default().scale("payment", 2)).await;
    let nats = Nats::of(&platform).await;
    Seed::scarce(2_000).fill(&platform.client()).await;
    let load = Load::start(&platform, 2_000, 16);
    let mut expected = BTreeMap::<(String, String), (Bytes, &str, &str)>::new();
    for (subject, takers) in TAKEN {
        let mut bodies = poison();
        if subject == "checkout.watermark" {
            bodies.retain(|(body, _)| !body.starts_with(b"{\"version\""));
        } else {
            bodies.extend(saga_poison());
            let mut silent = good();
            silent.as_object_mut().unwrap().remove("reason");
            if !matches!(subject, "checkout.started" | "payment.debited" | "stock.reserved") {
                bodies.push((silent.to_string().into(), "must say its reason"));
            }
        }
        for (body, why) in bodies {
            let mut headers = HeaderMap::new();
            headers.insert("ce-id", "poison");
            // A body of the largest size leaves no room for headers.
            let headers = if body.len() == MAX_PAYLOAD { HeaderMap::new() } else { headers };
            let sequence = nats.publish(subject, headers, body.clone()).await;
            for taker in takers {
                expected.insert(((*taker).to_owned(), sequence.to_string()), (body.clone(), subject, why));
            }
        }
    }
    let of = |letter: &Stored| (letter.header("dead-consumer").to_owned(), letter.header("dead-sequence").to_owned());
    let letters = until("all are put aside", async || {
        let letters = nats.messages(DEAD_LETTERS).await;
        let there: BTreeSet<_> = letters.iter().map(of).collect();
        expected.keys().all(|key| there.contains(key)).then_some(letters)
    })
    .await;
    assert_eq!(letters.len(), expected.len());
    for letter in &letters {
        let key = of(letter);
        let (body, subject, why) = expected.remove(&key).unwrap_or_else(|| panic!("put aside twice: {key:?}"));
        assert_dead(letter, &body, subject, why);
    }
    let answers = load.all().await;
    assert_eq!(answers.unknown(), [] as [&str; 0]);
    let books = Books::closed_with_dead_letters(&platform).await;
    answers.assert_true(&books);
    assert_eq!(books.undo.len(), 2_000);
}

fn assert_dead(letter: &Stored, body: &Bytes, subject: &str, why: &str) {
    assert_eq!(letter.subject, format!("dead.{}", letter.header("dead-consumer")));
    assert_eq!(letter.header("dead-subject"), subject);
    assert_eq!(letter.header("dead-stream"), "CHECKOUT");
    assert!(letter.header("dead-time").ends_with('Z'));
    let reason = letter.header("dead-reason");
    assert!(reason.contains(why), "{subject} {:?}: {reason}", &body[..body.len().min(200)]);
    if body.len() == MAX_PAYLOAD {
        assert_eq!(letter.header("dead-truncated-from-bytes"), MAX_PAYLOAD.to_string());
        assert!(body.starts_with(&letter.payload) && letter.payload.len() > MAX_PAYLOAD / 2);
    } else {
        assert_eq!(letter.header("ce-id"), "poison", "the original headers are kept");
        assert_eq!(&letter.payload, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_contradict_what_is_recorded_are_put_aside_and_change_nothing() {
    let platform = Platform::start(Options::default()).await;
    let (nats, client) = (Nats::of(&platform).await, platform.client());
    let (user, item) = (client.user(10).await, client.item(2, 5).await);
    let order = client.order(&user, &[(&item, 1)]).await;
    client.checkout(&order).await.expect_status(200);
    let before = Books::closed(&platform).await;
    let events = nats.events().await;
    let body = events.iter().find(|event| event.subject == "checkout.started").unwrap().json();
    let changed = |field: &str, value: Value| {
        let mut body = body.clone();
        body["reason"] = json!("abandoned");
        body[field] = value;
        body.to_string()
    };
    // Same saga, different content; and an end that contradicts the one that was.
    let lies = [
        ("checkout.started", changed("amount", json!(1)), "different content"),
        ("checkout.started", changed("user_id", json!("0")), "different content"),
        ("stock.failed", changed("amount", json!(1)), "different content"),
        ("payment.debited", changed("items", json!([[item, 2]])), "different content"),
        ("checkout.abandoned", changed("items", json!([])), "different content"),
        ("stock.reserved", changed("amount", json!(1)), "different content"),
        ("payment.refunded", changed("round", json!(0)), "ended twice"),
        ("payment.declined", changed("round", json!(0)), "ended twice"),
    ];
    for (subject, body, why) in lies {
        let letter = nats.dead_letter_of(nats.publish(subject, HeaderMap::new(), body).await).await;
        let reason = letter.header("dead-reason");
        assert!(reason.contains(why), "{subject}: {reason}");
    }
    assert_eq!(Books::closed_with_dead_letters(&platform).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_nobody_listens_to_has_no_stream() {
    let platform = Platform::start(Options::default()).await;
    let nats = Nats::of(&platform).await;
    for subject in ["checkout.invented", "payment.debited.x", "checkout"] {
        let sent = nats.jetstream.publish(subject, "{}".into()).await.expect("sent");
        assert!(sent.await.is_err(), "{subject} was stored");
    }
}
