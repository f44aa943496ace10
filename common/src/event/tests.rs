//! What is written reads back, and what this version does not know is ignored, left to a newer one or refused, as it should be.

use super::*;

const BODY: &str = r#"{"version":1,"saga_id":"5.k3.0","order_id":"5","started_at_ms":17,"user_id":"7","amount":20,
    "items":[["1",1],["2",1]],"at_ms":20,"round":2,"trail":[{"event":"checkout.started","at_ms":18}],"a_later_field":true}"#;

#[test]
fn events_read_back_as_they_were_written() {
    let event = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap();
    let again = Event::decode(event.subject(), &event.encode().unwrap(), event.traceparent().map(|t| t.as_str()));
    assert_eq!(again.unwrap(), event);
    assert_eq!(event.id(), "5.k3.0/payment.debited/2");
    let fact = BODY.replace("\"round\":2", "\"round\":7");
    let fact = Event::decode("checkout.completed", fact.as_bytes(), None).unwrap();
    assert_eq!(fact.id(), "5.k3.0/checkout.completed", "an end has one id, in whatever round it is told");
    assert_eq!(event.about(), Some("5.k3.0"));
}

#[test]
fn what_cannot_be_understood_says_why() {
    let of = |subject: &str, body: &str| Event::decode(subject, body.as_bytes(), None).unwrap_err().to_string();
    assert_eq!(of("payment.invented", BODY), r#"unknown event "payment.invented""#);
    assert!(of("payment.debited", "no json").contains("does not fit"));
    assert!(of("payment.debited", "{}").contains("missing field `version`"));
    assert!(of("payment.debited", &BODY.replace("20", "-20")).contains("does not fit"));
    assert!(of("payment.debited", &BODY.replace("\"version\":1", "\"version\":99")).contains("newer than"));
    assert!(of("stock.failed", BODY).contains("must say its reason"));
    assert!(
        of("stock.reserved", &BODY.replace("\"order_id\":\"5\"", "\"order_id\":\"6\"")).contains("does not belong")
    );
    assert!(of("checkout.watermark", "{}").contains("closed_before_ms"));
}

#[test]
fn fields_that_only_a_later_version_knows_are_ignored_at_every_level() {
    let plain = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap();
    let trace = plain.traceparent().map(TraceParent::as_str);
    let later = BODY
        .replacen('{', r#"{"later":{"deep":[1,{"deeper":null}]},"#, 1)
        .replace(r#""at_ms":18}"#, r#""at_ms":18,"by":{"instance":"payment-3"}}"#);
    assert_ne!(later, BODY);
    assert_eq!(Event::decode("payment.debited", later.as_bytes(), trace).unwrap(), plain);
    for watermark in [r#"{"closed_before_ms":9}"#, r#"{"version":1,"closed_before_ms":9,"later":[{}]}"#] {
        let read = Event::decode("checkout.watermark", watermark.as_bytes(), None).unwrap();
        assert_eq!(read, Event::Watermark(Watermark { closed_before_ms: 9 }));
    }
}

#[test]
fn a_step_that_a_later_version_has_put_in_between_is_left_out_of_the_trail() {
    let later = BODY.replace("\"trail\":[", r#""trail":[{"event":"fraud.checked","at_ms":17,"score":3},"#);
    let plain = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap();
    let trace = plain.traceparent().map(TraceParent::as_str);
    assert_eq!(Event::decode("payment.debited", later.as_bytes(), trace).unwrap(), plain);
}

#[test]
fn optional_fields_may_be_missing_and_required_ones_may_not() {
    let whole: serde_json::Value = serde_json::from_str(BODY).unwrap();
    for field in whole.as_object().unwrap().keys() {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().remove(field);
        let read = Event::decode("payment.debited", body.to_string().as_bytes(), None);
        let is_optional = ["at_ms", "round", "trail", "a_later_field"].contains(&field.as_str());
        assert_eq!(read.is_ok(), is_optional, "{field}: {read:?}");
    }
}

#[test]
fn what_a_newer_build_could_understand_is_told_from_what_nobody_could() {
    let of = |subject: &str, body: &str| Event::decode(subject, body.as_bytes(), None).unwrap_err().is_newer();
    let newer = NEWEST_VERSION + 1;
    let of_newer = format!("\"version\":{newer}");
    assert!(of("payment.debited", &BODY.replace("\"version\":1", &of_newer)));
    // Its form may be quite another.
    assert!(of("payment.debited", &format!(r#"{{"version":{newer},"sagas":[]}}"#)));
    assert!(of("checkout.watermark", &format!(r#"{{"version":{newer},"closed_before":"noon"}}"#)));
    assert!(of("payment.frozen", BODY));
    for (subject, body) in [
        ("payment.debited", "no json"),
        ("payment.debited", "{}"),
        ("payment.debited", r#"{"version":1}"#),
        ("payment.declined", BODY),
        ("checkout.watermark", r#"{"version":1}"#),
        ("checkout.watermark", "[1,99]"),
    ] {
        assert!(!of(subject, body), "{subject} {body}");
    }
    // A reason decides what the client is told: one that is new needs a new version.
    assert!(!of("payment.declined", &BODY.replacen('{', r#"{"reason":"frozen:7","#, 1)));
}

#[test]
fn the_next_event_remembers_the_way() {
    let Event::Saga(event) = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap() else { unreachable!() };
    let next = event.then(Kind::StockReserved, None, 21);
    let way: Vec<_> = next.trail.iter().map(|step| (step.event.subject(), step.at_ms)).collect();
    assert_eq!(way, [("checkout.started", 18), ("payment.debited", 20)]);
    assert_eq!((next.at_ms, next.round, next.saga), (21, 2, event.saga));
}
