//! One small history that is right, and every way in which it could be wrong.

use checkout::checker::history::{Command, Exchange, History, Lost, Reply, Said, Thing};
use checkout::checker::{Rule, check};

use crate::right::{cast, step};
use crate::world::{Fate, Shop, Step};

/// Who and what the story is about. Items i3, i4 and i5 cost 1, 3 and 5.
const USER: &str = "u0";
const ITEM: &str = "i4";
const PAID: &str = "o6";
const REFUSED: &str = "o9";
const OPEN: &str = "o12";

fn funds(amount: u64) -> Command {
    Command::AddFunds { user: USER.to_owned(), amount }
}

fn stock(pieces: u64) -> Command {
    Command::AddStock { item: ITEM.to_owned(), pieces }
}

fn entry(order: &str, quantity: u64) -> Command {
    Command::AddItem { order: order.to_owned(), item: ITEM.to_owned(), quantity }
}

fn checkout(order: &str) -> Command {
    Command::Checkout { order: order.to_owned() }
}

fn find_user() -> Command {
    Command::FindUser { user: USER.to_owned() }
}

fn find_order(order: &str) -> Command {
    Command::FindOrder { order: order.to_owned() }
}

/// u0 has 100, there are 10 of i4. o6 (2 of them, 6) is paid; o9 (20 of them, 60) is refused; nobody knows of o12 (1 of them, 3), which
/// is paid. One deposit is sent twice with one key. In between u0 and the orders are looked at.
fn story() -> History {
    let mut script = cast();
    let commands = [
        funds(100),
        stock(10),
        entry(PAID, 2),
        entry(REFUSED, 20),
        entry(OPEN, 1),
        find_user(),
        checkout(PAID),
        find_user(),
        find_order(PAID),
        checkout(REFUSED),
        find_order(REFUSED),
        Command::Pay { user: USER.to_owned(), amount: 500 },
        checkout(PAID),
        find_user(),
        find_order(PAID),
    ];
    let times = (0..).map(|number| 1_000 + number * 10);
    script.extend(commands.into_iter().zip(times).map(|(command, at)| step(1, command, at, Fate::Answered)));
    script.push(step(2, checkout(OPEN), 2_000, Fate::AnswerLost));
    for start_us in [2_100, 2_200] {
        let key = Some("key".to_owned());
        script.push(Step { key, ..step(2, funds(7), start_us, Fate::Answered) });
    }
    script.push(step(1, find_user(), 2_300, Fate::Answered));
    script.push(step(1, find_user(), 2_310, Fate::Answered));
    Shop::play(&script)
}

/// The `index`-th request of this kind.
fn nth<'a>(history: &'a mut History, command: &Command, index: usize) -> &'a mut Exchange {
    let mut found = history.exchanges.iter_mut().filter(|it| it.command == *command);
    found.nth(index).expect("such a request")
}

fn last<'a>(history: &'a mut History, wanted: &str) -> &'a mut Thing {
    let id = |thing: &Thing| match thing {
        Thing::User { user: id, .. } | Thing::Item { item: id, .. } | Thing::Order { order: id, .. } => id.clone(),
        Thing::Gone { id } => id.clone(),
    };
    history.last.iter_mut().find(|thing| id(thing) == wanted).expect("such a thing")
}

fn credit(history: &mut History) -> &mut i64 {
    match last(history, USER) {
        Thing::User { credit, .. } => credit,
        other => panic!("{other:?}"),
    }
}

fn pieces(history: &mut History) -> &mut i64 {
    match last(history, ITEM) {
        Thing::Item { stock, .. } => stock,
        other => panic!("{other:?}"),
    }
}

fn paid<'a>(history: &'a mut History, order: &str) -> &'a mut bool {
    match last(history, order) {
        Thing::Order { paid, .. } => paid,
        other => panic!("{other:?}"),
    }
}

/// The credit that the `index`-th look showed.
fn look(history: &mut History, index: usize) -> &mut i64 {
    match nth(history, &find_user(), index).reply.said.as_mut().unwrap() {
        Said::Thing(Thing::User { credit, .. }) => credit,
        other => panic!("{other:?}"),
    }
}

fn look_at_order<'a>(history: &'a mut History, order: &str, index: usize) -> &'a mut bool {
    match nth(history, &find_order(order), index).reply.said.as_mut().unwrap() {
        Said::Thing(Thing::Order { paid, .. }) => paid,
        other => panic!("{other:?}"),
    }
}

fn refused(status: u16, problem: &str) -> Reply {
    Reply { status: Some(status), problem: Some(problem.to_owned()), ..Reply::default() }
}

type Plant = fn(&mut History);

/// A name, the rule that must be found broken, and the error.
const PLANTED: &[(&str, Rule, Plant)] = &[
    ("a paid order is not paid", Rule::SuccessIsKept, |h| *paid(h, PAID) = false),
    ("a paid order is refused later", Rule::SuccessIsKept, |h| {
        nth(h, &checkout(PAID), 1).reply = refused(400, "out-of-stock");
    }),
    ("a refused order is paid", Rule::RefusalIsKept, |h| *paid(h, REFUSED) = true),
    ("an order that was never started is paid", Rule::RefusalIsKept, |h| {
        nth(h, &checkout(OPEN), 0).reply = refused(503, "unavailable");
    }),
    ("an order whose request was never sent is paid", Rule::RefusalIsKept, |h| {
        nth(h, &checkout(OPEN), 0).reply = Reply { lost: Some(Lost::NotSent), ..Reply::default() };
    }),
    ("an order that was turned away for overload is paid", Rule::RefusalIsKept, |h| {
        nth(h, &checkout(OPEN), 0).reply = refused(429, "overloaded");
    }),
    ("an order is debited twice", Rule::MoneyIsConserved, |h| *credit(h) -= 6),
    ("an order is not debited", Rule::MoneyIsConserved, |h| *credit(h) += 6),
    ("an order is debited with another amount", Rule::MoneyIsConserved, |h| *credit(h) -= 1),
    ("a refused order is not refunded", Rule::MoneyIsConserved, |h| *credit(h) -= 60),
    ("a deposit is lost", Rule::MoneyIsConserved, |h| *credit(h) -= 100),
    ("a deposit with a key counts twice", Rule::MoneyIsConserved, |h| *credit(h) += 7),
    ("an order is reserved twice", Rule::StockIsConserved, |h| *pieces(h) -= 2),
    ("an order is not reserved", Rule::StockIsConserved, |h| *pieces(h) += 2),
    ("another item is reserved", Rule::StockIsConserved, |h| {
        if let Thing::Item { stock, .. } = last(h, "i3") {
            *stock -= 2;
        }
    }),
    ("an unknown checkout took the money only", Rule::StockIsConserved, |h| *pieces(h) += 1),
    ("an unknown checkout took the pieces only", Rule::MoneyIsConserved, |h| *credit(h) += 3),
    ("an unknown checkout took both, and the order is not paid", Rule::MoneyIsConserved, |h| *paid(h, OPEN) = false),
    ("an order costs something else", Rule::OrderIsWhole, |h| {
        if let Thing::Order { total, .. } = last(h, PAID) {
            *total += 1;
        }
    }),
    ("an entry is lost", Rule::OrderIsWhole, |h| {
        if let Thing::Order { items, .. } = last(h, PAID) {
            items.clear();
        }
    }),
    ("an entry is there twice", Rule::OrderIsWhole, |h| {
        if let Thing::Order { items, .. } = last(h, PAID) {
            items.push(items[0].clone());
        }
    }),
    ("an entry is taken after the order was paid", Rule::OrderIsWhole, |h| {
        let mut late = nth(h, &entry(PAID, 2), 0).clone();
        (late.start_us, late.end_us) = (2_400, 2_410);
        h.exchanges.push(late);
    }),
    ("an order belongs to another user", Rule::NothingIsLost, |h| {
        if let Thing::Order { user, .. } = last(h, PAID) {
            *user = "u1".to_owned();
        }
    }),
    ("a user is gone", Rule::NothingIsLost, |h| *last(h, USER) = Thing::Gone { id: USER.to_owned() }),
    ("an order is gone", Rule::NothingIsLost, |h| *last(h, PAID) = Thing::Gone { id: PAID.to_owned() }),
    ("an item is not found", Rule::NothingIsLost, |h| nth(h, &stock(10), 0).reply = refused(404, "not-found")),
    ("an item costs something else", Rule::NothingIsLost, |h| {
        if let Thing::Item { price, .. } = last(h, ITEM) {
            *price += 1;
        }
    }),
    ("a look shows a negative balance", Rule::NeverNegative, |h| *look(h, 1) = -1),
    ("a balance ends negative", Rule::NeverNegative, |h| *credit(h) = -6),
    ("a look misses a deposit that was told", Rule::LooksShowWhatWasTold, |h| *look(h, 0) = 0),
    ("a look misses a debit that was told", Rule::LooksShowWhatWasTold, |h| *look(h, 1) = 100),
    ("a look shows a refused debit after the refusal", Rule::LooksShowWhatWasTold, |h| *look(h, 2) = 34),
    ("a look shows what nobody asked for", Rule::LooksShowWhatWasTold, |h| *look(h, 0) = 101),
    ("an order that was told as paid is shown as not paid", Rule::LooksShowWhatWasTold, |h| {
        *look_at_order(h, PAID, 0) = false;
    }),
    ("a refused order is shown as paid", Rule::LooksShowWhatWasTold, |h| *look_at_order(h, REFUSED, 0) = true),
    ("a debit of which nobody knows is seen, and then not", Rule::NeverBackInTime, |h| *look(h, 4) += 100),
    ("an order is seen as paid and then as not paid", Rule::NeverBackInTime, |h| *look_at_order(h, PAID, 1) = false),
    ("a deposit under way is seen, and then not", Rule::NeverBackInTime, |h| {
        // Its reply came late, so that both looks were in its time.
        nth(h, &funds(7), 0).end_us = 3_000;
        nth(h, &funds(7), 1).reply = refused(409, "idempotency-key-in-use");
        nth(h, &funds(7), 1).end_us = 3_000;
        *look(h, 4) -= 7;
    }),
    ("a payment is refused although there is enough", Rule::RefusalIsTrue, |h| {
        nth(h, &Command::Pay { user: USER.to_owned(), amount: 500 }, 0).command =
            Command::Pay { user: USER.to_owned(), amount: 30 };
    }),
    ("a checkout is refused although there is enough", Rule::RefusalIsTrue, |h| {
        nth(h, &checkout(REFUSED), 0).reply = refused(400, "insufficient-credit");
    }),
    ("a checkout is refused for a user who is there", Rule::RefusalIsTrue, |h| {
        nth(h, &checkout(REFUSED), 0).reply = refused(400, "unknown-user");
    }),
    ("a key has two answers", Rule::OneKeyOneEffect, |h| {
        nth(h, &funds(7), 1).reply.said = Some(Said::Text("another".to_owned()));
    }),
    ("a key is done and refused", Rule::OneKeyOneEffect, |h| nth(h, &funds(7), 1).reply = refused(400, "overflow")),
    ("a saga stays open", Rule::EverySagaCloses, |h| h.closed.as_mut().unwrap().1 = Some(1)),
    ("nobody looked whether sagas are open", Rule::EverySagaCloses, |h| h.closed = None),
    ("nobody could say whether sagas are open", Rule::EverySagaCloses, |h| h.closed.as_mut().unwrap().1 = None),
    ("a reply is 500", Rule::ContractIsKept, |h| nth(h, &checkout(REFUSED), 0).reply = refused(500, "internal")),
    ("a checkout is open and nobody says where to look", Rule::ContractIsKept, |h| {
        nth(h, &checkout(OPEN), 0).reply = Reply { status: Some(202), ..Reply::default() };
    }),
    ("a look is not known yet", Rule::ContractIsKept, |h| {
        nth(h, &find_user(), 0).reply = refused(202, "not-known-yet")
    }),
    ("a dead letter is found", Rule::PlatformIsClean, |h| {
        h.closed.as_mut().unwrap().3.push("a dead letter".to_owned())
    }),
];

#[test]
fn the_story_itself_is_right() {
    let mut history = story();
    let verdict = check(&history);
    assert_eq!(verdict.breaches, []);
    assert_eq!(verdict.figures["orders paid"], 2);
    assert_eq!(verdict.figures["credit debited"], 9);
    assert_eq!(verdict.figures["pieces reserved"], 3);
    assert_eq!(verdict.figures["repeats under one key"], 1);
    assert_eq!((*credit(&mut history), *pieces(&mut history)), (98, 7));
}

#[test]
fn every_planted_error_is_caught_by_the_rule_it_breaks() {
    for (name, rule, plant) in PLANTED {
        let mut history = story();
        plant(&mut history);
        let verdict = check(&history);
        assert!(verdict.breaks(*rule), "{name} is not found: {:#?}", verdict.breaches);
    }
}

#[test]
fn there_is_a_planted_error_for_every_rule() {
    let all = [
        Rule::SuccessIsKept,
        Rule::RefusalIsKept,
        Rule::MoneyIsConserved,
        Rule::StockIsConserved,
        Rule::OrderIsWhole,
        Rule::NothingIsLost,
        Rule::NeverNegative,
        Rule::LooksShowWhatWasTold,
        Rule::NeverBackInTime,
        Rule::RefusalIsTrue,
        Rule::OneKeyOneEffect,
        Rule::EverySagaCloses,
        Rule::ContractIsKept,
        Rule::PlatformIsClean,
    ];
    for rule in all {
        assert!(PLANTED.iter().any(|(_, broken, _)| *broken == rule), "{rule:?}");
    }
}

#[test]
fn a_history_reads_back_from_its_lines() {
    let history = story();
    let lines = history.exchanges.iter().cloned().map(checkout::checker::history::Line::Exchange);
    let things = history.last.iter().cloned().map(checkout::checker::history::Line::Final);
    let text: String = lines.chain(things).map(|line| serde_json::to_string(&line).unwrap() + "\n").collect();
    let read = History::read(text.as_bytes()).unwrap();
    assert_eq!((read.exchanges, read.last), (history.exchanges, history.last));
    let wrong = History::read("\n{\"line\":\"healed\",\"at_us\":1}\nnonsense\n".as_bytes()).unwrap_err();
    assert!(wrong.starts_with("line 3:"), "{wrong}");
}
