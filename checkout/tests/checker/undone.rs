//! An order whose checkouts are told "not known yet", "undone" and at last nothing: what may have paid it, and what may not.

use checkout::checker::history::{Command, Exchange, History, Reply, Said, Thing};
use checkout::checker::{Breach, Rule, check};

use crate::right::{cast, step};
use crate::world::{Fate, Shop, Step};

/// Who and what the story is about. Item i4 costs 3.
const USER: &str = "u0";
const ITEM: &str = "i4";
const ORDER: &str = "o9";

/// The checkouts, by their start.
const GOES_ON: u64 = 20_000;
const JOINS: u64 = 20_010;
const ALONE: u64 = 20_100;
const PAYS: u64 = 20_300;

fn checkout() -> Command {
    Command::Checkout { order: ORDER.to_owned() }
}

fn place(attempt: u64) -> Option<String> {
    Some(format!("/orders/saga/{ORDER}.k.{attempt}"))
}

/// o9 wants 20 of i4, of which there are 10. Its first checkout is told that attempt 0 goes on; another one joins that, and is told that it is
/// undone; a third one by itself likewise, of attempt 1. Then pieces come, and a fourth one, attempt 2, pays, of which its client hears only
/// that it goes on.
fn story() -> History {
    let mut script = cast();
    let item = ITEM.to_owned();
    let commands = [
        Command::AddFunds { user: USER.to_owned(), amount: 100 },
        Command::AddStock { item: item.clone(), pieces: 10 },
        Command::AddItem { order: ORDER.to_owned(), item: item.clone(), quantity: 20 },
    ];
    script.extend(commands.into_iter().zip(1_000..).map(|(command, at)| step(1, command, at * 10, Fate::Answered)));
    let decided_late = |step: Step| Step { decision_us: 50, ..step };
    script.push(decided_late(step(1, checkout(), GOES_ON, Fate::NotKnownYet)));
    script.push(step(2, checkout(), JOINS, Fate::Answered));
    script.push(step(2, checkout(), ALONE, Fate::Answered));
    script.push(step(1, Command::AddStock { item, pieces: 30 }, 20_200, Fate::Answered));
    script.push(step(1, checkout(), PAYS, Fate::NotKnownYet));
    let mut history = Shop::play(&script);
    // The shop does not name all of them.
    at(&mut history, JOINS).reply.instance = place(0);
    at(&mut history, ALONE).reply.instance = place(1);
    history
}

/// The checkout that was asked for at this time.
fn at(history: &mut History, start_us: u64) -> &mut Exchange {
    let mut all = history.exchanges.iter_mut();
    all.find(|it| it.command == checkout() && it.start_us == start_us).expect("such a checkout")
}

/// Nobody asks for this one.
fn without(history: &mut History, start_us: u64) {
    history.exchanges.retain(|it| it.start_us != start_us);
}

fn nameless(history: &mut History, start_us: u64) {
    at(history, start_us).reply.instance = None;
}

/// Somebody sees the order paid at this time.
fn see_paid(history: &mut History, at_us: u64) {
    let last = history.last.iter().find(|it| matches!(it, Thing::Order { order, .. } if order == ORDER));
    let said = last.cloned().map(Said::Thing);
    let command = Command::FindOrder { order: ORDER.to_owned() };
    let reply = Reply { status: Some(200), said, ..Reply::default() };
    history.exchanges.push(Exchange { client: 3, command, key: None, start_us: at_us, end_us: at_us + 1, reply });
}

fn breaches(plant: impl FnOnce(&mut History)) -> Vec<Breach> {
    let mut history = story();
    plant(&mut history);
    check(&history).breaches
}

#[test]
fn the_story_is_what_it_says() {
    let mut history = story();
    assert_eq!(check(&history).breaches, []);
    let told = [GOES_ON, JOINS, ALONE, PAYS].map(|start_us| at(&mut history, start_us).reply.clone());
    assert_eq!(told.each_ref().map(|it| it.status), [Some(202), Some(400), Some(400), Some(202)]);
    assert_eq!((&told[0].location, &told[3].location), (&place(0), &place(2)));
    assert_eq!(check(&history).figures["orders paid"], 1);
}

#[test]
fn what_was_told_as_undone_has_not_paid() {
    type Plant = fn(&mut History);
    let planted: [(&str, Plant); 7] = [
        ("all were undone", |h| without(h, PAYS)),
        ("the only one that was told as open was joined by one that was told as undone", |h| {
            without(h, PAYS);
            without(h, ALONE);
        }),
        ("likewise, while the first one still waited", |h| {
            without(h, PAYS);
            without(h, ALONE);
            at(h, GOES_ON).end_us = 20_080;
        }),
        ("a later attempt was undone, so that all earlier ones were", |h| {
            without(h, PAYS);
            without(h, JOINS);
        }),
        ("a refusal without a name, asked for after what is open was told to go on", |h| {
            without(h, PAYS);
            without(h, JOINS);
            nameless(h, ALONE);
        }),
        ("it was seen as paid before the fourth one was asked for", |h| see_paid(h, 20_250)),
        ("what is told to go on is what was told as undone", |h| at(h, PAYS).reply.location = place(1)),
    ];
    for (name, plant) in planted {
        let found = breaches(plant);
        assert!(found.iter().any(|it| it.rule == Rule::RefusalIsKept), "{name} is not found: {found:#?}");
    }
}

#[test]
fn what_may_have_paid_is_not_accused() {
    type Plant = fn(&mut History);
    let right: [(&str, Plant); 7] = [
        ("nobody was refused", |h| {
            without(h, JOINS);
            without(h, ALONE);
        }),
        ("the fourth one was told nothing", |h| {
            at(h, PAYS).reply = Reply { lost: Some(checkout::checker::history::Lost::Broken), ..Reply::default() }
        }),
        ("the first one was told of no saga: it may have come late", |h| {
            without(h, PAYS);
            at(h, GOES_ON).reply.location = Some(format!("/orders/find/{ORDER}"));
        }),
        ("one without a name was under way together with what may have paid", |h| {
            nameless(h, ALONE);
            let pays = at(h, PAYS);
            (pays.start_us, pays.end_us) = (20_101, 20_102);
            see_paid(h, 20_250);
        }),
        ("one was told late of an earlier attempt", |h| {
            let late = at(h, ALONE);
            (late.start_us, late.end_us) = (20_301, 20_400);
        }),
        ("a key is told again, without a name, what its first request came to", |h| {
            at(h, ALONE).key = Some("key".to_owned());
            nameless(h, ALONE);
            let again = Exchange { start_us: 20_400, end_us: 20_401, ..at(h, ALONE).clone() };
            h.exchanges.push(again);
        }),
        ("it is seen as paid after the fourth one was asked for", |h| see_paid(h, 20_320)),
    ];
    for (name, plant) in right {
        let found = breaches(plant);
        assert!(!found.iter().any(|it| it.rule == Rule::RefusalIsKept), "{name}, and found is {found:#?}");
    }
}
