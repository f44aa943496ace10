//! Random sequences of effects, losses and redos do what the pure database of the simulator does, in outcomes, records and credits: what is
//! proved over that one holds for this one.

use common::amount::Amount;
use common::event::{Kind, Watermark};
use common::id::UserId;
use common::limits::{MAX_BUCKETS_PER_TRIM, OUTCOME_BUCKET_MS};
use common::redis::Library;
use payment::decision::Effect;
use payment::effect::{LIBRARY, add_funds, pay, redo, trim};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use protocol::database::{Changed, Payment as Model, PaymentTotals, Trimmed};
use protocol::planted::Planted;
use testing::database::{operation, with_bug};

use crate::redo::published;
use crate::support::{Payment, START_MS, saga, started_at};

const SAGAS: usize = 4;
const USERS: [&str; 3] = ["0", "1", "unknown"];

/// What payment publishes, with its reason.
const DECISIONS: [(Kind, &str); 3] = [
    (Kind::PaymentDebited, ""),
    (Kind::PaymentDeclined, "insufficient_credit:7"),
    (Kind::PaymentRefunded, "out_of_stock:1"),
];

/// How many random cases are run.
const CASES: u32 = 300;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Act {
    Debit(usize, bool),
    Refund(usize, bool, &'static str),
    /// What was published about a saga comes once more, in whatever order, whether it is there or lost.
    Redo(usize, bool, Kind, &'static str),
    /// A replica falls behind from now on.
    Remember,
    /// It takes over: all that happened since is lost.
    GoBack,
    AddFunds(usize, u64),
    Pay(usize, u64),
    Trim(u64),
}

/// One case: the sagas' users and amounts, and what happens.
type Case = (Vec<(usize, u64)>, Vec<Act>);

fn cases() -> impl Strategy<Value = Case> {
    let twisted = || prop::bool::weighted(0.1);
    let act = prop_oneof![
        6 => (0..SAGAS, twisted()).prop_map(|(saga, twist)| Act::Debit(saga, twist)),
        5 => (0..SAGAS, twisted(), prop::sample::select(vec!["abandoned", "out_of_stock:1"]))
            .prop_map(|(saga, twist, reason)| Act::Refund(saga, twist, reason)),
        6 => (0..SAGAS, twisted(), prop::sample::select(DECISIONS.to_vec())).prop_map(|(saga, twist, (kind, reason))| Act::Redo(saga, twist, kind, reason)),
        1 => Just(Act::Remember),
        1 => Just(Act::GoBack),
        2 => (0..USERS.len(), 0..30_u64).prop_map(|(user, amount)| Act::AddFunds(user, amount)),
        2 => (0..USERS.len(), 0..30_u64).prop_map(|(user, amount)| Act::Pay(user, amount)),
        1 => (0..=SAGAS as u64).prop_map(Act::Trim),
    ];
    let sagas = prop::collection::vec((0..USERS.len(), 0..30_u64), SAGAS);
    (sagas, prop::collection::vec(act, 1..25))
}

/// What a command of the REST interface answers, as Redis does.
fn reply(changed: Changed) -> Vec<String> {
    match changed {
        Changed::Ok(credit) => vec!["ok".into(), credit.to_string()],
        Changed::Unknown => vec!["no_user".into()],
        Changed::Short(credit) => vec!["no_credit".into(), credit.to_string()],
        Changed::Overflow(credit) => vec!["overflow".into(), credit.to_string()],
    }
}

async fn agree(payment: &mut Payment, (sagas, acts): Case) {
    payment.db.clear();
    let mut model = Model::new(Planted::default());
    for user in &USERS[..2] {
        payment.put_user(user, 40);
        model.put_user(user.parse().unwrap(), 40);
    }
    payment.db.remember();
    let mut replica = model.clone();
    let of = |n: usize, twisted: bool| {
        let (user, amount) = sagas[n];
        // A twisted event carries other content under the same saga id.
        let known = saga(&format!("{n}.k.0"), USERS[user], amount + u64::from(twisted));
        started_at(known, START_MS + n as u64 * OUTCOME_BUCKET_MS)
    };
    for (n, act) in acts.iter().enumerate() {
        let key = operation(&n.to_string());
        let amount_of = |number: u64| Amount::try_from(number).unwrap();
        match act {
            Act::Debit(n, twisted) => {
                let saga = of(*n, *twisted);
                assert_eq!(payment.debit(&saga).await, model.apply(&saga, &Effect::Debit), "{act:?}");
            }
            Act::Refund(n, twisted, reason) => {
                let (saga, effect) = (of(*n, *twisted), Effect::Refund(reason.parse().unwrap()));
                assert_eq!(payment.apply(&saga, &effect).await, model.apply(&saga, &effect), "{act:?}");
            }
            Act::Redo(n, twisted, kind, reason) => {
                let event = published(of(*n, *twisted), *kind, (!reason.is_empty()).then_some(*reason));
                let expected = model.redo(&event).unwrap().texts();
                assert_eq!(payment.db.texts(redo(&event).unwrap()).await, expected, "{act:?}");
            }
            Act::Remember => {
                payment.db.remember();
                replica = model.clone();
            }
            Act::GoBack => {
                payment.db.go_back();
                model = replica.clone();
            }
            Act::AddFunds(user, amount) => {
                let user = USERS[*user].parse().unwrap();
                let call = add_funds(&key, &user, amount_of(*amount));
                assert_eq!(payment.db.texts(call).await, reply(model.add_funds(&user, *amount)), "{act:?}");
            }
            Act::Pay(user, amount) => {
                let user = USERS[*user].parse().unwrap();
                let call = pay(&key, &user, amount_of(*amount));
                assert_eq!(payment.db.texts(call).await, reply(model.pay(&user, *amount)), "{act:?}");
            }
            Act::Trim(buckets) => {
                let closed_before_ms = START_MS + buckets * OUTCOME_BUCKET_MS;
                let Trimmed { forgotten, left } = model.trim(closed_before_ms, MAX_BUCKETS_PER_TRIM);
                let expected = ["ok".to_owned(), forgotten.to_string(), left.to_string()];
                assert_eq!(payment.db.texts(trim(Watermark { closed_before_ms })).await, expected, "{act:?}");
            }
        }
    }
    for user in USERS {
        let credit = model.credits.get(&user.parse::<UserId>().unwrap());
        assert_eq!(payment.credit(user).map(u64::cast_signed), credit.copied(), "credit of {user}");
    }
    let records = model.outcomes.iter().map(|(id, record)| (id.to_string(), record.to_string())).collect();
    assert_eq!(payment.records(), records);
    let totals = ["deposited", "paid", "debited", "refunded", "uncovered"].map(|name| payment.total(name));
    let PaymentTotals { deposited, paid, debited, refunded, uncovered, .. } = model.totals;
    assert_eq!(totals, [deposited, paid, debited, refunded, uncovered].map(i128::from));
    model.audit().unwrap();
    payment.assert_books_balance();
}

/// One place of `payment.lua` each, and what stands there instead.
const BUGS: &[(&str, &str, &str)] = &[
    ("record-apart", "  record(keys[5], keys[4], args[1], 'debited ' .. content(args), indexed)\n", ""),
    (
        "no-tombstone",
        "  record(keys[5], keys[4], args[1], 'voided ' .. content(args) .. ' ' .. args[5], indexed)\n",
        "",
    ),
    (
        "refund-not-recorded",
        "    record(home, keys[4], args[1], 'refunded ' .. content(args) .. ' ' .. args[5], indexed)\n",
        "",
    ),
    (
        "decline-not-recorded",
        "    record(keys[5], keys[4], args[1], 'declined ' .. content(args) .. ' ' .. reason, indexed)\n",
        "",
    ),
    ("payment-redo-skipped", "    raise(keys[2], 'debited', args[4])\n    if missing", "    if missing"),
    ("redo twice", "  record(home, keys[4], args[1], entry, indexed)\n", ""),
    (
        "redo of a refund without its debit gives money",
        "  if outcome == 'debited' then\n    raise",
        "  if true then\n    raise",
    ),
    ("redo behind the watermark", "    return { 'too_old', is_forgotten(keys[3], args[2]) }\n", "    local _\n"),
    (
        "redo of other content",
        "    if rest ~= content(args) then\n      return { 'conflict', recorded }\n    elseif",
        "    if",
    ),
    (
        "redo goes below zero",
        "math.min(tonumber(redis.call('GET', keys[1]) or '0'), tonumber(args[4]))",
        "tonumber(args[4])",
    ),
];

/// Runs random cases against these functions.
fn check(library: Library, number: u32) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = std::cell::RefCell::new(runtime.block_on(Payment::start_with(library)));
    let config = Config {
        cases: number,
        failure_persistence: None,
        max_shrink_iters: if number == CASES { 1_000 } else { 0 },
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&cases(), |case| {
        runtime.block_on(agree(&mut database.borrow_mut(), case));
        Ok(())
    });
    checked.map_err(|failure| failure.to_string())
}

#[test]
fn any_sequence_of_effects_does_what_the_model_says() {
    check(LIBRARY, CASES).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn each_bug_that_is_planted_into_the_functions_is_caught() {
    let escaped: Vec<_> =
        BUGS.iter().filter(|(_, right, wrong)| check(with_bug(&LIBRARY, right, wrong), CASES - 1).is_ok()).collect();
    BUGS.iter().for_each(|(name, ..)| println!("| payment.lua | {name} |"));
    assert!(escaped.is_empty(), "{escaped:?}");
}
