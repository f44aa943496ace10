//! Random sequences of effects do what a model of a few lines says, in outcomes, records and pieces.

use std::collections::BTreeMap;

use common::amount::Quantity;
use common::event::Watermark;
use common::limits::OUTCOME_BUCKET_MS;
use common::reason::FailureReason;
use common::saga::Saga;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stock::decision::{Effect, Outcome};
use stock::effect::{add, subtract, trim};
use testing::database::operation;

use crate::support::{START_MS, Stock, saga, started_at};

const SAGAS: usize = 4;
const ITEMS: [&str; 4] = ["a", "b", "c", "unknown"];

/// One thing that happens.
#[derive(Debug, Clone)]
enum Act {
    Reserve(usize, bool),
    Abandon(usize, bool),
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
        2 => (item(), 0..10_u64).prop_map(|(item, pieces)| Act::Add(item, pieces)),
        2 => (item(), 0..10_u64).prop_map(|(item, pieces)| Act::Subtract(item, pieces)),
        1 => (0..=SAGAS as u64).prop_map(Act::Trim),
    ];
    // Entries may name an item twice: a saga carries the sum.
    let entries = prop::collection::vec((item(), 0..8_u64), 0..4);
    (prop::collection::vec(entries, SAGAS), prop::collection::vec(act, 1..25))
}

/// What stock is, without a database.
#[derive(Default)]
struct Model {
    pieces: BTreeMap<String, u64>,
    records: BTreeMap<String, (Saga, Outcome)>,
    watermark: u64,
}

impl Model {
    fn apply(&mut self, saga: &Saga, effect: &Effect) -> Outcome {
        let id = saga.saga_id.to_string();
        if let Some((of, outcome)) = self.records.get(&id) {
            return if of.items == saga.items { outcome.clone() } else { Outcome::Conflict(show(of, outcome)) };
        }
        if saga.started_at_ms < self.watermark {
            return Outcome::TooOld(self.watermark);
        }
        let outcome = match effect {
            Effect::Abandon => Outcome::Failed(FailureReason::Abandoned),
            Effect::Reserve => match self.obstacle(saga) {
                Some(reason) => Outcome::Failed(reason),
                None => {
                    for (item, quantity) in saga.items.iter() {
                        *self.pieces.entry(item.to_string()).or_default() -= quantity.get();
                    }
                    Outcome::Reserved
                }
            },
        };
        self.records.insert(id, (saga.clone(), outcome.clone()));
        outcome
    }

    /// The first item that keeps the saga from being reserved.
    fn obstacle(&self, saga: &Saga) -> Option<FailureReason> {
        saga.items.iter().find_map(|(item, quantity)| match self.pieces.get(item.as_str()) {
            None => Some(FailureReason::UnknownItem(item.clone())),
            Some(pieces) => (*pieces < quantity.get()).then(|| FailureReason::OutOfStock(item.clone())),
        })
    }

    fn trim(&mut self, watermark: u64) {
        self.watermark = self.watermark.max(watermark);
        let closed = self.watermark / OUTCOME_BUCKET_MS;
        self.records.retain(|_, (saga, _)| saga.started_at_ms / OUTCOME_BUCKET_MS >= closed);
    }

    fn add(&mut self, item: &str, pieces: u64) -> Vec<String> {
        let Some(stock) = self.pieces.get_mut(item) else { return vec!["no_item".into()] };
        *stock += pieces;
        vec!["ok".into(), stock.to_string()]
    }

    fn subtract(&mut self, item: &str, pieces: u64) -> Vec<String> {
        let Some(stock) = self.pieces.get_mut(item) else { return vec!["no_item".into()] };
        let Some(rest) = stock.checked_sub(pieces) else { return vec!["short".into(), stock.to_string()] };
        *stock = rest;
        vec!["ok".into(), rest.to_string()]
    }
}

/// An outcome as it is recorded.
fn show(saga: &Saga, outcome: &Outcome) -> String {
    let text = saga.items.to_string();
    let items = if text.is_empty() { "-" } else { &text };
    match outcome {
        Outcome::Reserved => format!("reserved {items}"),
        Outcome::Failed(reason) => format!("failed {items} {reason}"),
        Outcome::Conflict(_) | Outcome::TooOld(_) => unreachable!("never recorded"),
    }
}

async fn agree(stock: &mut Stock, (sagas, acts): Case) {
    stock.db.clear();
    let mut model = Model::default();
    for item in &ITEMS[..3] {
        stock.put_item(item, 10);
        model.pieces.insert((*item).to_owned(), 10);
    }
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
            Act::Add(item, pieces) => {
                let call = add(&key, &ITEMS[*item].parse().unwrap(), pieces_of(*pieces));
                assert_eq!(stock.db.texts(call).await, model.add(ITEMS[*item], *pieces), "{act:?}");
            }
            Act::Subtract(item, pieces) => {
                let call = subtract(&key, &ITEMS[*item].parse().unwrap(), pieces_of(*pieces));
                assert_eq!(stock.db.texts(call).await, model.subtract(ITEMS[*item], *pieces), "{act:?}");
            }
            Act::Trim(buckets) => {
                let closed_before_ms = START_MS + buckets * OUTCOME_BUCKET_MS;
                stock.db.call(trim(Watermark { closed_before_ms })).await;
                model.trim(closed_before_ms);
            }
        }
    }
    let pieces: BTreeMap<_, _> =
        ITEMS.iter().filter_map(|item| Some(((*item).to_owned(), stock.pieces(item)?))).collect();
    assert_eq!(pieces, model.pieces);
    let records = model.records.iter().map(|(id, (saga, outcome))| (id.clone(), show(saga, outcome))).collect();
    assert_eq!(stock.records(), records);
    stock.assert_books_balance();
}

#[test]
fn any_sequence_of_effects_does_what_the_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stock = std::cell::RefCell::new(runtime.block_on(Stock::start()));
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&cases(), |case| {
        runtime.block_on(agree(&mut stock.borrow_mut(), case));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}
