//! Random sequences of begin, close and claim agree with the undo log's one transition, and with what an order may do.

use std::collections::BTreeMap;
use std::time::Duration;

use common::event::Kind;
use common::reason::FailureReason;
use common::saga::Saga;
use common::undo::{Illegal, State, Transition, transition};
use order::decision::Outcome;
use order::effect::{Begun, add_item};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use testing::database::operation;

use crate::support::{Orders, settings};

const ORDERS: [&str; 3] = ["0", "1", "missing"];
const REASONS: [&str; 2] = ["out_of_stock:a", "abandoned"];

/// One thing that happens.
#[derive(Debug, Clone)]
enum Act {
    /// A checkout, from one of two instances.
    Begin(usize, bool),
    /// An event for one of the sagas there were, with its reason; for its content as begun, or for other.
    Close(prop::sample::Index, Kind, &'static str, bool),
    /// The reconciler's claim.
    Claim,
    AddItem(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let ends = vec![Kind::StockReserved, Kind::PaymentDeclined, Kind::PaymentRefunded, Kind::PaymentRefunded];
    let act = prop_oneof![
        5 => (0..ORDERS.len(), any::<bool>()).prop_map(|(order, inbox)| Act::Begin(order, inbox)),
        5 => (any::<prop::sample::Index>(), prop::sample::select(ends), prop::sample::select(REASONS.to_vec()),
            prop::bool::weighted(0.1)).prop_map(|(saga, kind, reason, twist)| Act::Close(saga, kind, reason, twist)),
        2 => Just(Act::Claim),
        1 => (0..ORDERS.len()).prop_map(Act::AddItem),
    ];
    prop::collection::vec(act, 1..25)
}

/// An undo entry.
struct Entry {
    saga: Saga,
    state: State,
    inboxes: Vec<String>,
    round: u32,
}

/// What the order service is, without a database.
#[derive(Default)]
struct Model {
    /// In the order in which they were begun.
    entries: Vec<Entry>,
    /// How much each order costs.
    totals: BTreeMap<&'static str, u64>,
}

impl Model {
    fn of<'a>(&'a self, order: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.saga.order_id.as_str() == order)
    }

    fn open(&mut self, order: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.saga.order_id.as_str() == order && entry.state == State::Started)
    }

    fn is_paid(&self, order: &str) -> bool {
        self.of(order).any(|entry| entry.state == State::Completed)
    }

    fn attempt(&self, order: &str) -> usize {
        self.of(order).filter(|entry| matches!(entry.state, State::Failed(_))).count()
    }

    /// Checks what a checkout answered, and does it too.
    fn begin(&mut self, order: &'static str, inbox: &str, begun: Begun) {
        if !self.totals.contains_key(order) {
            assert_eq!(begun, Begun::NoOrder);
        } else if self.is_paid(order) {
            assert_eq!(begun, Begun::Paid);
        } else if let Some(entry) = self.open(order) {
            assert_eq!(begun, Begun::Joined(entry.saga.saga_id.clone()));
            if !entry.inboxes.iter().any(|known| known == inbox) {
                entry.inboxes.push(inbox.to_owned());
            }
        } else {
            let Begun::Started(saga) = begun else { panic!("not started: {begun:?}") };
            assert_eq!(saga.saga_id.to_string(), format!("{order}.k.{}", self.attempt(order)));
            assert_eq!(saga.amount.get(), self.totals[order]);
            let inboxes = vec![inbox.to_owned()];
            self.entries.push(Entry { saga: *saga, state: State::Started, inboxes, round: 0 });
        }
    }
}

impl Entry {
    /// Closes the entry by the pure transition. Says what the database must answer.
    fn close(&mut self, kind: Kind, reason: &FailureReason) -> Outcome {
        match transition(&self.state, kind, Some(reason)) {
            Ok(Transition::Close(state)) => {
                self.state = state;
                Outcome::Closed(self.inboxes.clone())
            }
            // Both change nothing; the database tells the state that stands.
            Ok(Transition::Repeat | Transition::Ignore) => Outcome::Repeat(self.state.clone()),
            Err(Illegal::EndedTwice { state, .. }) => Outcome::EndedTwice(state.to_owned()),
            Err(illegal @ Illegal::NotClosing(_)) => unreachable!("{illegal}"),
        }
    }
}

async fn close(orders: &Orders, entry: &mut Entry, kind: Kind, reason: &str, twisted: bool) {
    let reason: FailureReason = reason.parse().unwrap();
    let told = if kind == Kind::StockReserved { State::Completed } else { State::Failed(reason.clone()) };
    if twisted {
        let other = Saga { user_id: "8".parse().unwrap(), ..entry.saga.clone() };
        let conflict = Outcome::Conflict(format!("7 {}", entry.saga.amount));
        assert_eq!(orders.close(&other, &told).await, conflict);
    } else {
        let answer = orders.close(&entry.saga, &told).await;
        assert_eq!(answer, entry.close(kind, &reason), "{kind} for {}", entry.saga.saga_id);
    }
}

async fn claim(orders: &Orders, model: &mut Model) {
    let due_at_once = settings(Duration::ZERO, Duration::ZERO);
    let (claimed, more) = orders.claim(&due_at_once).await;
    assert!(!more);
    let claimed: BTreeMap<_, _> =
        claimed.into_iter().map(|claimed| (claimed.saga.saga_id.clone(), (claimed.saga, claimed.round))).collect();
    let mut open = BTreeMap::new();
    for entry in model.entries.iter_mut().filter(|entry| entry.state == State::Started) {
        entry.round += 1;
        open.insert(entry.saga.saga_id.clone(), (entry.saga.clone(), entry.round));
    }
    assert_eq!(claimed, open, "exactly the open sagas are claimed");
}

async fn agree(orders: &mut Orders, acts: Vec<Act>) {
    orders.db.clear();
    let mut model = Model::default();
    for order in &ORDERS[..2] {
        orders.put_order(order, "k");
        model.totals.insert(order, 20);
    }
    for (n, act) in acts.iter().enumerate() {
        match act {
            Act::Begin(order, second) => {
                let inbox = if *second { "inbox-2" } else { "inbox-1" };
                let begun = orders.begin(ORDERS[*order], inbox, None).await;
                model.begin(ORDERS[*order], inbox, begun);
            }
            Act::Close(..) if model.entries.is_empty() => {}
            Act::Close(which, kind, reason, twisted) => {
                let which = which.index(model.entries.len());
                close(orders, &mut model.entries[which], *kind, reason, *twisted).await;
            }
            Act::Claim => claim(orders, &mut model).await,
            Act::AddItem(order) => {
                let order = ORDERS[*order];
                let (id, item) = (order.parse().unwrap(), "c".parse().unwrap());
                let (one, three) = (1.try_into().unwrap(), 3.try_into().unwrap());
                let answer = orders.db.texts(add_item(&operation(&n.to_string()), &id, &item, one, three)).await;
                let expected = if model.is_paid(order) {
                    vec!["paid".to_owned()]
                } else if let Some(entry) = model.open(order) {
                    vec!["in_flight".to_owned(), entry.saga.saga_id.to_string()]
                } else if let Some(total) = model.totals.get_mut(order) {
                    *total += 3;
                    vec!["ok".to_owned(), total.to_string()]
                } else {
                    vec!["no_order".to_owned()]
                };
                assert_eq!(answer, expected, "{act:?}");
            }
        }
    }
    agree_in_the_end(orders, &mut model);
}

fn agree_in_the_end(orders: &mut Orders, model: &mut Model) {
    for order in &ORDERS[..2] {
        let paid = if model.is_paid(order) { "1" } else { "0" };
        let open = model.open(order).map(|entry| entry.saga.saga_id.to_string()).unwrap_or_default();
        assert_eq!((orders.order(order, "paid"), orders.order(order, "saga")), (paid.to_owned(), open));
        assert_eq!(orders.order(order, "attempt"), model.attempt(order).to_string());
    }
    for entry in &model.entries {
        let undo = orders.undo(&entry.saga);
        assert_eq!((&*undo["state"], undo["round"].parse()), (entry.state.name(), Ok(entry.round)));
        assert_eq!(orders.places(&entry.saga).is_empty(), entry.state != State::Started);
    }
    let count = |name| model.entries.iter().filter(|entry| entry.state.name() == name).count() as i128;
    assert_eq!(orders.total("started"), model.entries.len() as i128);
    assert_eq!((orders.total("completed"), orders.total("failed")), (count("completed"), count("failed")));
    assert_eq!(orders.total("recovered"), 0);
    orders.assert_books_balance();
}

#[test]
fn any_sequence_of_effects_does_what_the_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let orders = std::cell::RefCell::new(runtime.block_on(Orders::start()));
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&acts(), |acts| {
        runtime.block_on(agree(&mut orders.borrow_mut(), acts));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}
