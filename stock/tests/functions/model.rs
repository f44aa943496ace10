//! Random sequences of effects, losses and redos do what the pure database of the simulator does, in outcomes, records and pieces: what is
//! proved over that one holds for this one.

use common::amount::Quantity;
use common::event::{Kind, Watermark};
use common::id::ItemId;
use common::limits::{MAX_BUCKETS_PER_TRIM, OUTCOME_BUCKET_MS};
use common::redis::Library;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use protocol::database::{Changed, Stock as Model, StockTotals, Trimmed};
use protocol::planted::Planted;
use stock::decision::Effect;
use stock::effect::{LIBRARY, add, redo, subtract, trim};
use testing::database::{operation, with_bug};

use crate::redo::published;
use crate::support::{START_MS, Stock, saga, started_at};

const SAGAS: usize = 4;
const ITEMS: [&str; 4] = ["a", "b", "c", "unknown"];

/// What stock publishes, with its reason.
const DECISIONS: [(Kind, &str); 3] =
    [(Kind::StockReserved, ""), (Kind::StockFailed, "out_of_stock:a"), (Kind::StockFailed, "abandoned")];

/// How many random cases are run.
const CASES: u32 = 300;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Act {
    Reserve(usize, bool),
    Abandon(usize, bool),
    /// What was published about a saga comes once more, in whatever order, whether it is there or lost.
    Redo(usize, bool, Kind, &'static str),
    /// A replica falls behind from now on.
    Remember,
    /// It takes over: all that happened since is lost.
    GoBack,
    Add(usize, u64),
    Subtract(usize, u64),
    Trim(u64),
}

/// One case: the sagas' entries, and what happens.
type Case = (Vec<Vec<(usize, u64)>>, Vec<Act>);

fn cases() -> impl Strategy<Value = Case> {
    let twisted = || prop::bool::weighted(0.1);
    let item = || prop_oneof![5 => 0..ITEMS.len() - 1, 1 => Just(ITEMS.len() - 1)];
    let act = prop_oneof![
        6 => (0..SAGAS, twisted()).prop_map(|(saga, twist)| Act::Reserve(saga, twist)),
        4 => (0..SAGAS, twisted()).prop_map(|(saga, twist)| Act::Abandon(saga, twist)),
        6 => (0..SAGAS, twisted(), prop::sample::select(DECISIONS.to_vec())).prop_map(|(saga, twist, (kind, reason))| Act::Redo(saga, twist, kind, reason)),
        1 => Just(Act::Remember),
        1 => Just(Act::GoBack),
        2 => (item(), 0..10_u64).prop_map(|(item, pieces)| Act::Add(item, pieces)),
        2 => (item(), 0..10_u64).prop_map(|(item, pieces)| Act::Subtract(item, pieces)),
        1 => (0..=SAGAS as u64).prop_map(Act::Trim),
    ];
    // Entries may name an item twice: a saga carries the sum.
    let entries = prop::collection::vec((item(), 0..8_u64), 0..4);
    (prop::collection::vec(entries, SAGAS), prop::collection::vec(act, 1..25))
}

/// What a command of the REST interface answers, as Redis does.
fn reply(changed: Changed) -> Vec<String> {
    match changed {
        Changed::Ok(pieces) => vec!["ok".into(), pieces.to_string()],
        Changed::Unknown => vec!["no_item".into()],
        Changed::Short(pieces) => vec!["short".into(), pieces.to_string()],
        Changed::Overflow(pieces) => vec!["overflow".into(), pieces.to_string()],
    }
}

async fn agree(stock: &mut Stock, (sagas, acts): Case) {
    stock.db.clear();
    let mut model = Model::new(Planted::default());
    for item in &ITEMS[..3] {
        stock.put_item(item, 10);
        model.put_item(item.parse().unwrap(), 10);
    }
    stock.db.remember();
    let mut replica = model.clone();
    let of = |n: usize, twisted: bool| {
        let mut entries: Vec<String> =
            sagas[n].iter().map(|(item, pieces)| format!("{}:{pieces}", ITEMS[*item])).collect();
        // A twisted event carries other content under the same saga id.
        entries.extend(twisted.then(|| "a:1".to_owned()));
        started_at(saga(&format!("{n}.k.0"), &entries.join(",")), START_MS + n as u64 * OUTCOME_BUCKET_MS)
    };
    for (n, act) in acts.iter().enumerate() {
        let key = operation(&n.to_string());
        let pieces_of = |number: u64| Quantity::try_from(number).unwrap();
        match act {
            Act::Reserve(n, twisted) => {
                let saga = of(*n, *twisted);
                assert_eq!(stock.reserve(&saga).await, model.apply(&saga, &Effect::Reserve), "{act:?}");
            }
            Act::Abandon(n, twisted) => {
                let saga = of(*n, *twisted);
                assert_eq!(stock.abandon(&saga).await, model.apply(&saga, &Effect::Abandon), "{act:?}");
            }
            Act::Redo(n, twisted, kind, reason) => {
                let event = published(of(*n, *twisted), *kind, (!reason.is_empty()).then_some(*reason));
                let expected = model.redo(&event).unwrap().texts();
                assert_eq!(stock.db.texts(redo(&event).unwrap()).await, expected, "{act:?}");
            }
            Act::Remember => {
                stock.db.remember();
                replica = model.clone();
            }
            Act::GoBack => {
                stock.db.go_back();
                model = replica.clone();
            }
            Act::Add(item, pieces) => {
                let item = ITEMS[*item].parse().unwrap();
                let call = add(&key, &item, pieces_of(*pieces));
                assert_eq!(stock.db.texts(call).await, reply(model.add(&item, *pieces)), "{act:?}");
            }
            Act::Subtract(item, pieces) => {
                let item = ITEMS[*item].parse().unwrap();
                let call = subtract(&key, &item, pieces_of(*pieces));
                assert_eq!(stock.db.texts(call).await, reply(model.subtract(&item, *pieces)), "{act:?}");
            }
            Act::Trim(buckets) => {
                let closed_before_ms = START_MS + buckets * OUTCOME_BUCKET_MS;
                let Trimmed { forgotten, left } = model.trim(closed_before_ms, MAX_BUCKETS_PER_TRIM);
                let expected = ["ok".to_owned(), forgotten.to_string(), left.to_string()];
                assert_eq!(stock.db.texts(trim(Watermark { closed_before_ms })).await, expected, "{act:?}");
            }
        }
    }
    for item in ITEMS {
        let pieces = model.pieces.get(&item.parse::<ItemId>().unwrap());
        assert_eq!(stock.pieces(item).map(u64::cast_signed), pieces.copied(), "pieces of {item}");
    }
    let records = model.outcomes.iter().map(|(id, record)| (id.to_string(), record.to_string())).collect();
    assert_eq!(stock.records(), records);
    let totals = ["added", "subtracted", "reserved", "uncovered"].map(|name| stock.total(name));
    let StockTotals { added, subtracted, reserved, uncovered, .. } = model.totals;
    assert_eq!(totals, [added, subtracted, reserved, uncovered].map(i128::from));
    model.audit().unwrap();
    stock.assert_books_balance();
}

/// One place of `stock.lua` each, and what stands there instead.
const BUGS: &[(&str, &str, &str)] = &[
    ("record-apart", "  record(keys[4], keys[3], args[1], 'reserved ' .. args[3], indexed)\n", ""),
    ("abandon-overrides-reserved", "  return answer or fail", "  return fail"),
    (
        "reservation-not-atomic",
        "      return fail(keys, args, 'out_of_stock:' .. id, indexed)\n    end\n",
        "      return fail(keys, args, 'out_of_stock:' .. id, indexed)\n    end\n    take(keys[n], quantity)\n",
    ),
    ("stock-redo-skipped", "      take(keys[n], digits(there))\n", "      there = 0\n"),
    ("redo twice", "  record(keys[4], keys[3], args[1], entry, indexed)\n", ""),
    ("redo of a failure takes pieces", "args[4] == 'reserved' and #keys or 0", "#keys"),
    ("redo behind the watermark", "    return { 'too_old', is_forgotten(keys[2], args[2]) }\n", "    local _\n"),
    ("redo against the record", "    elseif outcome ~= args[4] then\n      return { 'contradiction', recorded }\n", ""),
];

/// Runs random cases against these functions.
fn check(library: Library, number: u32) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = std::cell::RefCell::new(runtime.block_on(Stock::start_with(library)));
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
    BUGS.iter().for_each(|(name, ..)| println!("| stock.lua | {name} |"));
    assert!(escaped.is_empty(), "{escaped:?}");
}
