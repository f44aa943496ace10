//! Random sequences of effects do what a model of a few lines says, in outcomes, records and credits.

use std::collections::BTreeMap;

use common::amount::Amount;
use common::event::Watermark;
use common::limits::OUTCOME_BUCKET_MS;
use common::reason::FailureReason;
use common::saga::Saga;
use payment::decision::{Effect, Outcome};
use payment::effect::{add_funds, pay, trim};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use testing::database::operation;

use crate::support::{Payment, START_MS, saga, started_at};

const SAGAS: usize = 4;
const USERS: [&str; 3] = ["0", "1", "unknown"];

/// One thing that happens.
#[derive(Debug, Clone)]
enum Act {
    Debit(usize, bool),
    Refund(usize, bool, &'static str),
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
        2 => (0..USERS.len(), 0..30_u64).prop_map(|(user, amount)| Act::AddFunds(user, amount)),
        2 => (0..USERS.len(), 0..30_u64).prop_map(|(user, amount)| Act::Pay(user, amount)),
        1 => (0..=SAGAS as u64).prop_map(Act::Trim),
    ];
    let sagas = prop::collection::vec((0..USERS.len(), 0..30_u64), SAGAS);
    (sagas, prop::collection::vec(act, 1..25))
}

/// What payment is, without a database.
#[derive(Default)]
struct Model {
    credits: BTreeMap<String, u64>,
    records: BTreeMap<String, (Saga, Outcome)>,
    watermark: u64,
}

impl Model {
    fn apply(&mut self, saga: &Saga, effect: &Effect) -> Outcome {
        let (id, user) = (saga.saga_id.to_string(), saga.user_id.to_string());
        let amount = saga.amount.get();
        if let Some((of, outcome)) = self.records.get(&id).cloned() {
            if (&of.user_id, of.amount) != (&saga.user_id, saga.amount) {
                return Outcome::Conflict(show(&of, &outcome));
            }
            return match (outcome, effect) {
                (Outcome::Debited, Effect::Refund(reason)) => {
                    *self.credits.entry(user).or_default() += amount;
                    self.record(id, saga, Outcome::Refunded(reason.clone()))
                }
                (recorded, _) => recorded,
            };
        }
        if saga.started_at_ms < self.watermark {
            return Outcome::TooOld(self.watermark);
        }
        let outcome = match (effect, self.credits.get_mut(&user)) {
            (Effect::Refund(reason), _) => Outcome::Voided(reason.clone()),
            (Effect::Debit, None) => Outcome::Declined(FailureReason::UnknownUser(saga.user_id.clone())),
            (Effect::Debit, Some(credit)) if *credit >= amount => {
                *credit -= amount;
                Outcome::Debited
            }
            (Effect::Debit, Some(_)) => Outcome::Declined(FailureReason::InsufficientCredit(saga.user_id.clone())),
        };
        self.record(id, saga, outcome)
    }

    fn record(&mut self, id: String, saga: &Saga, outcome: Outcome) -> Outcome {
        self.records.insert(id, (saga.clone(), outcome.clone()));
        outcome
    }

    fn trim(&mut self, watermark: u64) {
        self.watermark = self.watermark.max(watermark);
        let closed = self.watermark / OUTCOME_BUCKET_MS;
        self.records.retain(|_, (saga, _)| saga.started_at_ms / OUTCOME_BUCKET_MS >= closed);
    }

    fn add(&mut self, user: &str, amount: u64) -> Vec<String> {
        let Some(credit) = self.credits.get_mut(user) else { return vec!["no_user".into()] };
        *credit += amount;
        vec!["ok".into(), credit.to_string()]
    }

    fn pay(&mut self, user: &str, amount: u64) -> Vec<String> {
        let Some(credit) = self.credits.get_mut(user) else { return vec!["no_user".into()] };
        let Some(rest) = credit.checked_sub(amount) else { return vec!["no_credit".into(), credit.to_string()] };
        *credit = rest;
        vec!["ok".into(), rest.to_string()]
    }
}

/// An outcome as it is recorded.
fn show(saga: &Saga, outcome: &Outcome) -> String {
    let (name, reason) = match outcome {
        Outcome::Debited => ("debited", None),
        Outcome::Declined(reason) => ("declined", Some(reason)),
        Outcome::Refunded(reason) => ("refunded", Some(reason)),
        Outcome::Voided(reason) => ("voided", Some(reason)),
        Outcome::Conflict(_) | Outcome::TooOld(_) => unreachable!("never recorded"),
    };
    let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
    format!("{name} {} {}{reason}", saga.amount, saga.user_id)
}

async fn agree(payment: &mut Payment, (sagas, acts): Case) {
    payment.db.clear();
    let mut model = Model::default();
    for user in &USERS[..2] {
        payment.put_user(user, 40);
        model.credits.insert((*user).to_owned(), 40);
    }
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
            Act::AddFunds(user, amount) => {
                let call = add_funds(&key, &USERS[*user].parse().unwrap(), amount_of(*amount));
                assert_eq!(payment.db.texts(call).await, model.add(USERS[*user], *amount), "{act:?}");
            }
            Act::Pay(user, amount) => {
                let call = pay(&key, &USERS[*user].parse().unwrap(), amount_of(*amount));
                assert_eq!(payment.db.texts(call).await, model.pay(USERS[*user], *amount), "{act:?}");
            }
            Act::Trim(buckets) => {
                let closed_before_ms = START_MS + buckets * OUTCOME_BUCKET_MS;
                payment.db.call(trim(Watermark { closed_before_ms })).await;
                model.trim(closed_before_ms);
            }
        }
    }
    let credits: BTreeMap<_, _> =
        USERS.iter().filter_map(|user| Some(((*user).to_owned(), payment.credit(user)?))).collect();
    assert_eq!(credits, model.credits);
    let records = model.records.iter().map(|(id, (saga, outcome))| (id.clone(), show(saga, outcome))).collect();
    assert_eq!(payment.records(), records);
    payment.assert_books_balance();
}

#[test]
fn any_sequence_of_effects_does_what_the_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let payment = std::cell::RefCell::new(runtime.block_on(Payment::start()));
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&cases(), |case| {
        runtime.block_on(agree(&mut payment.borrow_mut(), case));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}
