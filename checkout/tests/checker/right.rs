//! Right histories, drawn at random, are never found wrong; and a balance that is off by anything always is.

use checkout::checker::history::{Command, History, Thing};
use checkout::checker::{Rule, check};
use proptest::prelude::*;

use crate::world::{Fate, Shop, Step};

/// The cast of every script: users u0…u2, items i3…i5, orders o6…o13, made before anything else happens.
const USERS: usize = 3;
const ITEMS: usize = 3;
const ORDERS: usize = 8;
const BEGIN_US: u64 = 1_000;

fn user(number: usize) -> String {
    format!("u{}", number % USERS)
}

fn item(number: usize) -> String {
    format!("i{}", USERS + number % ITEMS)
}

fn order(number: usize) -> String {
    format!("o{}", USERS + ITEMS + number % ORDERS)
}

pub fn cast() -> Vec<Step> {
    let users = (0..USERS).map(|_| Command::CreateUser);
    let items = (0..ITEMS).map(|number| Command::CreateItem { price: 1 + number as u64 * 2 });
    let orders = (0..ORDERS).map(|number| Command::CreateOrder { user: user(number) });
    let commands = users.chain(items).chain(orders);
    commands.zip(0_u64..).map(|(command, at)| step(0, command, at * 10, Fate::Answered)).collect()
}

pub fn step(client: u32, command: Command, start_us: u64, fate: Fate) -> Step {
    Step { client, command, key: None, start_us, effect_us: 2, decision_us: 2, answer_us: 6, fate }
}

fn command() -> impl Strategy<Value = Command> {
    let (which, amount) = (0..64_usize, 1..9_u64);
    (0..16_u8, which.clone(), which, amount).prop_map(|(kind, a, b, amount)| match kind {
        0..=2 => Command::AddItem { order: order(a), item: item(b), quantity: amount % 3 + 1 },
        3..=6 => Command::Checkout { order: order(a) },
        7 | 8 => Command::AddFunds { user: user(a), amount: amount * 2 },
        9 => Command::Pay { user: user(a), amount },
        10 | 11 => Command::AddStock { item: item(a), pieces: amount },
        12 => Command::SubtractStock { item: item(a), pieces: amount },
        13 => Command::FindUser { user: user(a) },
        14 => Command::FindItem { item: item(a) },
        _ => Command::FindOrder { order: order(a) },
    })
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Answered),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::NotKnownYet),
        1 => Just(Fate::RequestLost),
        1 => Just(Fate::TurnedAway),
    ]
}

/// Requests that overlap in every way, some of them sent again under their key.
fn script() -> impl Strategy<Value = Vec<Step>> {
    let one =
        (0..4_u32, command(), 0..400_u64, 0..30_u64, 0..30_u64, 0..30_u64, fate(), prop::option::of(1..60_u64), fate());
    prop::collection::vec(one, 1..80).prop_map(|all| {
        let mut script = cast();
        for (number, (client, command, at, effect_us, decision_us, answer_us, fate, again, fate_again)) in
            all.into_iter().enumerate()
        {
            let start_us = BEGIN_US + at;
            // Looks have no key; checkouts repeat with one or without.
            let is_keyless = command.is_read() || matches!(command, Command::Checkout { .. }) && number % 2 == 0;
            let has_key = again.is_some() && !is_keyless;
            let key = has_key.then(|| format!("k{number}"));
            let first = Step { client, command, key, start_us, effect_us, decision_us, answer_us, fate };
            if let Some(later) = again {
                // A repeat is sent when the first one is over.
                let start_us = start_us + effect_us.max(answer_us) + later;
                script.push(Step { start_us, fate: fate_again, ..first.clone() });
            }
            script.push(first);
        }
        script
    })
}

fn shown(history: &History) -> String {
    let verdict = check(history);
    verdict.breaches.iter().map(|it| format!("{it}\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_history_is_never_found_wrong(script in script()) {
        let history = Shop::play(&script);
        prop_assert_eq!(shown(&history), "");
    }

    #[test]
    fn a_balance_that_is_off_is_always_found(script in script(), which in 0..USERS + ITEMS, by in prop_oneof![-9..0_i64, 1..9_i64]) {
        // Where nobody is left in doubt: what may or may not have happened could explain a difference.
        let script: Vec<Step> = script.into_iter().map(|step| Step { fate: Fate::Answered, ..step }).collect();
        let mut history = Shop::play(&script);
        let rule = match &mut history.last[which] {
            Thing::User { credit, .. } => { *credit += by; Rule::MoneyIsConserved }
            Thing::Item { stock, .. } => { *stock += by; Rule::StockIsConserved }
            other => panic!("{other:?} has no balance"),
        };
        prop_assert!(check(&history).breaks(rule), "{}", shown(&history));
    }
}
