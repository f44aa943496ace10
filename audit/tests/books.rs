//! Books that are right, and one thing of each kind that is not.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use audit::books::{Item, Order, Undo};
use audit::saga::{self, Verdict, View};
use audit::{Books, Rule};

fn undo(state: &str, reason: &str) -> Undo {
    Undo { state: state.into(), user: "7".into(), amount: 10, items: "a:1,a:1".into(), reason: reason.into() }
}

fn order(saga: &str, paid: bool) -> Order {
    Order { user: "7".into(), items: "a:1,a:1".into(), total: 10, paid, current_saga: saga.into(), in_flight: false }
}

/// Order 1 failed once and was then paid; order 2 was declined; order 3 was never checked out.
fn books() -> Books {
    let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(saga, record)| ((*saga).to_owned(), (*record).to_owned())).collect()
    };
    let totals = |pairs: &[(&str, i128)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    Books {
        credit: [("7".to_owned(), 90)].into(),
        items: [("a".to_owned(), Item { pieces: 3, price: 5 })].into(),
        orders: [("1", "1.k.1", true), ("2", "2.k.1", false), ("3", "3.k.0", false)]
            .map(|(id, saga, paid)| (id.to_owned(), order(saga, paid)))
            .into(),
        undo: [("1.k.0", "failed", "out_of_stock:a"), ("1.k.1", "completed", ""), ("2.k.0", "failed", "abandoned")]
            .map(|(saga, state, reason)| (saga.to_owned(), undo(state, reason)))
            .into(),
        open: Vec::new(),
        payments: text(&[
            ("1.k.0", "refunded 10 7 out_of_stock:a"),
            ("1.k.1", "debited 10 7"),
            ("2.k.0", "declined 10 7 insufficient_credit:7"),
        ]),
        reservations: text(&[("1.k.0", "failed a:2 out_of_stock:a"), ("1.k.1", "reserved a:2")]),
        totals: [
            ("order", totals(&[("started", 3), ("completed", 1), ("failed", 2), ("completed_amount", 10)])),
            ("payment", totals(&[("initial", 100), ("debited", 20), ("refunded", 10)])),
            ("stock", totals(&[("initial", 5), ("reserved", 2)])),
        ]
        .into(),
    }
}

type Damage = fn(&mut Books);

#[test]
fn right_books_are_right_and_each_damage_is_named() {
    assert_eq!(books().check(), []);
    let damages: &[(Damage, Rule, &str)] = &[
        (|it| *it.credit.get_mut("7").unwrap() += 1, Rule::Sum, "sum of credits"),
        (|it| it.items.get_mut("a").unwrap().pieces -= 1, Rule::Sum, "sum of pieces"),
        (|it| *it.credit.get_mut("7").unwrap() = -1, Rule::Negative, "user 7"),
        (|it| it.items.get_mut("a").unwrap().pieces = -1, Rule::Negative, "item a"),
        (|it| *it.totals.get_mut("payment").unwrap().get_mut("refunded").unwrap() = 9, Rule::Records, "refunded"),
        (|it| *it.totals.get_mut("order").unwrap().get_mut("failed").unwrap() = 1, Rule::OpenCount, "open sagas"),
        (|it| it.open.push("9.k.0".into()), Rule::Open, "saga 9.k.0"),
        (|it| drop(it.payments.remove("1.k.1")), Rule::Payment, "saga 1.k.1"),
        (|it| drop(it.payments.remove("2.k.0")), Rule::Payment, "saga 2.k.0"),
        (|it| drop(it.payments.insert("1.k.1".into(), "debited 11 7".into())), Rule::Payment, "saga 1.k.1"),
        (|it| drop(it.payments.insert("1.k.1".into(), "debited 10 8".into())), Rule::Payment, "saga 1.k.1"),
        (|it| drop(it.payments.insert("1.k.0".into(), "debited 10 7".into())), Rule::Payment, "saga 1.k.0"),
        (|it| drop(it.payments.insert("1.k.1".into(), "rubbish".into())), Rule::Unreadable, "saga 1.k.1"),
        (|it| drop(it.reservations.remove("1.k.1")), Rule::Stock, "saga 1.k.1"),
        (|it| drop(it.reservations.remove("1.k.0")), Rule::Commit, "saga 1.k.0"),
        (|it| drop(it.reservations.insert("1.k.1".into(), "reserved a:3".into())), Rule::Stock, "saga 1.k.1"),
        (|it| drop(it.reservations.insert("1.k.0".into(), "reserved a:2".into())), Rule::Stock, "saga 1.k.0"),
        (|it| drop(it.undo.remove("1.k.1")), Rule::Undo, "saga 1.k.1"),
        (|it| it.undo.get_mut("1.k.1").unwrap().state = "failed".into(), Rule::Order, "saga 1.k.1"),
        (|it| it.undo.get_mut("1.k.1").unwrap().state = "started".into(), Rule::Undo, "saga 1.k.1"),
        (|it| it.undo.get_mut("1.k.1").unwrap().amount = 11, Rule::Payment, "saga 1.k.1"),
        (|it| it.orders.get_mut("1").unwrap().paid = false, Rule::Order, "order 1"),
        (|it| it.orders.get_mut("3").unwrap().paid = true, Rule::Order, "order 3"),
        (|it| it.orders.get_mut("3").unwrap().in_flight = true, Rule::Order, "order 3"),
        (|it| it.items.get_mut("a").unwrap().price = 6, Rule::Worth, "saga 1.k.1"),
    ];
    for (number, (damage, rule, about)) in damages.iter().enumerate() {
        let mut damaged = books();
        damage(&mut damaged);
        let found = damaged.check();
        let named = found.iter().any(|it| it.rule == *rule && it.about.starts_with(about));
        assert!(named, "damage {number} should be {rule} of {about}: {found:?}");
    }
}

fn view<'a>(undo: Option<&'a Undo>, verdict: Verdict, payment: &'a str, stock: &'a str, forgotten: bool) -> View<'a> {
    let record = |text: &'a str| (!text.is_empty()).then_some(text);
    View {
        saga: "1.k.0",
        undo,
        verdict,
        payment: record(payment),
        payment_may_be_forgotten: forgotten,
        stock: record(stock),
        stock_may_be_forgotten: forgotten,
    }
}

#[test]
fn every_state_of_an_open_saga_is_allowed_and_what_is_forgotten_is_not_missed() {
    let open = undo("started", "");
    for (payment, stock) in [
        ("", ""),
        ("debited 10 7", ""),
        ("declined 10 7 unknown_user:7", ""),
        ("debited 10 7", "reserved a:2"),
        ("debited 10 7", "failed a:2 abandoned"),
        ("refunded 10 7 abandoned", "failed a:2 abandoned"),
        ("voided 10 7 abandoned", "failed a:2 abandoned"),
        ("", "failed a:2 abandoned"),
    ] {
        assert_eq!(saga::check(&view(Some(&open), Verdict::Open, payment, stock, false)), [], "{payment} {stock}");
        // The order was replaced and the undo entry has expired: only the records are left.
        assert_eq!(saga::check(&view(None, Verdict::Unknown, payment, stock, false)), [], "{payment} {stock}");
    }
    let (completed, failed) = (undo("completed", ""), undo("failed", "abandoned"));
    for (undo, verdict) in [(&completed, Verdict::Completed), (&failed, Verdict::Failed)] {
        assert_eq!(saga::check(&view(Some(undo), verdict, "", "", true)), []);
        assert_ne!(saga::check(&view(Some(undo), verdict, "", "", false)), []);
    }
}

#[test]
fn what_no_open_saga_can_be_is_found() {
    let open = undo("started", "");
    for (payment, stock, rule) in [
        ("", "reserved a:2", Rule::Commit),
        ("declined 10 7 unknown_user:7", "reserved a:2", Rule::Commit),
        ("refunded 10 7 abandoned", "reserved a:2", Rule::Commit),
        ("voided 10 7 abandoned", "reserved a:2", Rule::Commit),
        ("refunded 10 7 abandoned", "", Rule::Commit),
        ("debited 9 7", "", Rule::Payment),
        ("debited 10 7", "reserved a:1", Rule::Stock),
    ] {
        let found = saga::check(&view(Some(&open), Verdict::Open, payment, stock, false));
        assert!(found.iter().any(|it| it.rule == rule), "{payment} {stock}: {found:?}");
    }
    let orphan = saga::check(&view(None, Verdict::Open, "debited 10 7", "", false));
    assert_eq!(orphan[0].rule, Rule::Undo);
}

#[test]
fn an_order_tells_what_became_of_its_sagas() {
    let now = order("5.k.2", true);
    assert_eq!(saga::verdict("5.k.1", Some(&now)), Verdict::Failed);
    assert_eq!(saga::verdict("5.k.2", Some(&now)), Verdict::Completed);
    assert_eq!(saga::verdict("5.k.2", Some(&order("5.k.2", false))), Verdict::Open);
    assert_eq!(saga::verdict("5.j.1", Some(&now)), Verdict::Unknown);
    assert_eq!(saga::verdict("5.k.1", None), Verdict::Unknown);
}

#[test]
fn what_a_later_version_has_added_to_a_record_is_no_finding() {
    use audit::saga::{Payment, Reservation};
    for record in ["debited 20 7", "declined 20 7 unknown_user:7", "refunded 20 7 abandoned"] {
        assert!(Payment::read(record).is_some());
        assert_eq!(Payment::read(&format!("{record} later=1 more=x:y")), Payment::read(record));
        assert_eq!(Payment::read(&format!("{record} more words")), None);
    }
    for record in ["reserved a:2,b:5", "failed - abandoned"] {
        assert!(Reservation::read(record).is_some());
        assert_eq!(Reservation::read(&format!("{record} later=1")), Reservation::read(record));
    }
}
