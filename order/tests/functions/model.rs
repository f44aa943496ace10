//! Random sequences of begin, close, claim, watermark, loss and redo do what the pure database of the simulator does: what is proved
//! over that one holds for this one. And both do what the undo log's one transition says.

use std::collections::BTreeMap;
use std::time::Duration;

use common::event::Kind;
use common::reason::FailureReason;
use common::redis::{Library, Operation};
use common::saga::{Saga, SagaId};
use common::undo::{Illegal, State, Transition, transition};
use order::config::ReconcileSettings;
use order::decision::Outcome;
use order::effect::{Begun, Cost, LIBRARY, add_item, raise_watermark, redo_start};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use protocol::database::{AddItem, ClaimLimits, Order as Model, OrderRecord, Raised};
use protocol::planted::Planted;
use testing::database::{operation, with_bug};

use crate::redo::published;
use crate::support::{Orders, RETENTION_S, TRACE, settings};

const ORDERS: [&str; 3] = ["0", "1", "missing"];
const REASONS: [&str; 2] = ["out_of_stock:a", "abandoned"];

/// How many random cases are run.
const CASES: u32 = 1_000;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Act {
    /// A checkout, from one of two instances, with or without one of two keys.
    Begin(usize, bool, Option<u8>),
    /// An event for one of the sagas there were, with its reason; for its content as begun, or for other.
    Close(prop::sample::Index, Kind, &'static str, bool),
    /// The reconciler's claim.
    Claim,
    /// The reconciler's watermark.
    Watermark,
    AddItem(usize),
    /// An order is created in the place of another.
    Replace(usize),
    /// The published start of one of the sagas there were comes once more, whether it is there or lost; those of its end are `Close`.
    RedoStart(prop::sample::Index, bool),
    /// A replica falls behind from now on.
    Remember,
    /// It takes over: all that happened since is lost.
    GoBack,
    /// A failover forgets that an open saga was begun.
    Lose(prop::sample::Index),
    /// A closed undo entry has lived its time.
    Expire(prop::sample::Index),
    /// A client's key has lived its time.
    ExpireKey(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let ends = vec![Kind::StockReserved, Kind::PaymentDeclined, Kind::PaymentRefunded, Kind::PaymentRefunded];
    let order = || 0..ORDERS.len();
    let key = prop_oneof![1 => Just(None), 1 => (0..2_u8).prop_map(Some)];
    let saga = any::<prop::sample::Index>;
    let act = prop_oneof![
        10 => (order(), any::<bool>(), key).prop_map(|(order, inbox, key)| Act::Begin(order, inbox, key)),
        10 => (saga(), prop::sample::select(ends), prop::sample::select(REASONS.to_vec()), prop::bool::weighted(0.1))
            .prop_map(|(saga, kind, reason, twist)| Act::Close(saga, kind, reason, twist)),
        4 => Just(Act::Claim),
        2 => Just(Act::Watermark),
        2 => order().prop_map(Act::AddItem),
        1 => (0..2_usize).prop_map(Act::Replace),
        4 => (saga(), prop::bool::weighted(0.1)).prop_map(|(saga, twist)| Act::RedoStart(saga, twist)),
        1 => Just(Act::Remember),
        1 => Just(Act::GoBack),
        2 => saga().prop_map(Act::Lose),
        2 => saga().prop_map(Act::Expire),
        4 => (0..2_u8).prop_map(Act::ExpireKey),
    ];
    prop::collection::vec(act, 1..40)
}

/// The two databases, which must agree, and all sagas that there were.
struct Both<'a> {
    real: &'a mut Orders,
    model: Model,
    replica: Model,
    sagas: Vec<Saga>,
    incarnations: u32,
}

impl Both<'_> {
    async fn act(&mut self, n: usize, act: &Act) {
        let saga = |index: &prop::sample::Index| self.sagas.get(index.index(self.sagas.len().max(1))).cloned();
        match act {
            Act::Begin(order, second, key) => self.begin(ORDERS[*order], *second, *key).await,
            Act::Close(which, kind, reason, twisted) => {
                let Some(saga) = saga(which) else { return };
                self.close(&saga, *kind, &reason.parse().unwrap(), *twisted).await;
            }
            Act::Claim => self.claim().await,
            Act::Watermark => self.raise_watermark().await,
            Act::AddItem(order) => self.add_item(n, ORDERS[*order]).await,
            Act::Replace(order) => self.replace(ORDERS[*order]).await,
            Act::RedoStart(which, twisted) => {
                let Some(saga) = saga(which) else { return };
                let user = if *twisted { "8" } else { "7" }.parse().unwrap();
                let event = published(&Saga { user_id: user, ..saga }, Kind::CheckoutStarted, None);
                let expected = self.model.redo_start(&event).texts();
                assert_eq!(self.real.db.texts(redo_start(&event)).await, expected, "{act:?}");
            }
            Act::Remember => {
                self.real.db.remember();
                self.replica = self.model.clone();
            }
            Act::GoBack => {
                self.real.db.go_back();
                self.model = self.replica.clone();
            }
            Act::Lose(which) => saga(which).into_iter().for_each(|saga| self.lose(&saga)),
            Act::ExpireKey(key) => {
                let Operation { key, .. } = checkout(*key, "");
                self.model.expire_operation(&key);
                self.real.db.console.ask(&["DEL", &key]);
            }
            Act::Expire(which) => saga(which).into_iter().for_each(|saga| self.expire(&saga)),
        }
    }

    /// Until which start of a saga the record of a replaced order is kept: by it one knows the time at which that was decided.
    fn kept_until_ms(&mut self, order: &str, incarnation: &str) -> Option<u64> {
        self.real.scores("replaced").get(&format!("replaced:{order}.{incarnation}")).copied()
    }

    /// By a `batch_init` of this one order.
    async fn replace(&mut self, order: &str) {
        let incarnation = format!("k{}", self.incarnations);
        self.incarnations += 1;
        let replaced = self.model.orders.get(&order.parse().unwrap()).map(|record| record.incarnation.clone());
        self.real.replace(order, &incarnation).await;
        let now_ms = self.kept_until_ms(order, &replaced.unwrap_or_default()).unwrap_or_else(|| self.real.now_ms());
        let entry = |item: &str, quantity: u64| (item.parse().unwrap(), quantity.try_into().unwrap());
        let entries = vec![entry("b", 1), entry("a", 2), entry("b", 3)];
        let record = OrderRecord::new("7".parse().unwrap(), entries, 20.try_into().unwrap(), &incarnation);
        self.model.put_order(now_ms, order.parse().unwrap(), record);
    }

    async fn begin(&mut self, order: &str, second: bool, key: Option<u8>) {
        let inbox = if second { "inbox-2" } else { "inbox-1" };
        let operation = key.map(|key| checkout(key, order));
        let begun = self.real.begin(order, inbox, operation.as_ref()).await;
        let now_ms = if let Begun::Started(saga) = &begun { saga.started_at_ms } else { self.real.now_ms() };
        let (order, trace) = (order.parse().unwrap(), TRACE.parse().unwrap());
        assert_eq!(begun, self.model.begin(now_ms, operation.as_ref(), &order, inbox, &trace));
        if let Begun::Started(saga) = begun {
            self.sagas.retain(|known| known.saga_id != saga.saga_id);
            self.sagas.push(*saga);
        }
    }

    async fn close(&mut self, saga: &Saga, kind: Kind, reason: &FailureReason, twisted: bool) {
        let told = if kind == Kind::StockReserved { State::Completed } else { State::Failed(reason.clone()) };
        let saga = if twisted { Saga { user_id: "8".parse().unwrap(), ..saga.clone() } } else { saga.clone() };
        // Of other content nothing is said but that it is other content.
        let entry = self.model.undo.get(&saga.saga_id).filter(|entry| entry.saga.user_id == saga.user_id);
        let before = entry.map(|entry| entry.state.clone());
        let incarnation = saga.saga_id.as_str().split('.').nth(1).unwrap();
        let kept_before = self.kept_until_ms(saga.order_id.as_str(), incarnation);
        let outcome = self.real.close(&saga, &told).await;
        let kept = self.kept_until_ms(saga.order_id.as_str(), incarnation).filter(|_| kept_before.is_none());
        let now_ms = kept.unwrap_or_else(|| self.real.now_ms());
        assert_eq!(outcome, self.model.close(now_ms, &saga, &told, RETENTION_S), "{kind} for {}", saga.saga_id);
        if let Some(state) = before {
            agrees_with_the_transition(&state, kind, reason, &outcome);
        }
    }

    async fn claim(&mut self) {
        let due_at_once = settings(Duration::ZERO, Duration::ZERO);
        let (claimed, more) = self.real.claim(&due_at_once).await;
        let now_ms = self.real.now_ms().max(self.model.watermark_ms());
        let (expected, expected_more) = self.model.claim(now_ms, ClaimLimits::from(&due_at_once), || 0.0);
        let facts = |claimed: Vec<order::effect::Claimed>| -> BTreeMap<_, _> {
            let facts = claimed.into_iter().map(|of| (of.saga.saga_id.clone(), (of.saga, of.round, of.traceparent)));
            facts.collect()
        };
        assert_eq!((facts(claimed), more), (facts(expected), expected_more), "exactly the open sagas are claimed");
    }

    async fn raise_watermark(&mut self) {
        let settings =
            ReconcileSettings { watermark_margin: Duration::ZERO, ..settings(Duration::ZERO, Duration::ZERO) };
        let reply = self.real.db.call(raise_watermark(&settings)).await;
        let number = |index| reply.parse::<u64>(index).unwrap();
        let (watermark_ms, open, oldest_ms) = (number(1), number(2), number(3));
        let open_sagas = self.model.undo.values().filter(|entry| entry.state == State::Started);
        // By the reply one knows the time at which it was made.
        let now_ms =
            open_sagas.map(|entry| entry.saga.started_at_ms).min().map_or(watermark_ms, |at_ms| at_ms + oldest_ms);
        let raised = self.model.raise_watermark(now_ms, 0);
        assert_eq!(raised, Raised { watermark_ms, open: usize::try_from(open).unwrap(), oldest_ms });
    }

    async fn add_item(&mut self, n: usize, order: &str) {
        let (id, item) = (order.parse().unwrap(), "c".parse().unwrap());
        let (one, three) = (1.try_into().unwrap(), 3.try_into().unwrap());
        let answer = self.real.db.texts(add_item(&operation(&n.to_string()), &id, &item, one, Cost::Of(three))).await;
        let expected = match self.model.add_item(&id, item, one, three) {
            AddItem::Ok(total) => vec!["ok".to_owned(), total.to_string()],
            AddItem::NoOrder => vec!["no_order".to_owned()],
            AddItem::Paid => vec!["paid".to_owned()],
            AddItem::InFlight(saga) => vec!["in_flight".to_owned(), saga.to_string()],
            AddItem::Overflow => vec!["overflow".to_owned()],
            AddItem::TooMany => vec!["too_many".to_owned()],
        };
        assert_eq!(answer, expected);
    }

    fn state(&self, saga: &SagaId) -> Option<&State> {
        self.model.undo.get(saga).map(|entry| &entry.state)
    }

    fn lose(&mut self, saga: &Saga) {
        let order = self.model.orders.get(&saga.order_id).and_then(|order| order.saga.as_ref());
        if self.state(&saga.saga_id) != Some(&State::Started) || order != Some(&saga.saga_id) {
            return;
        }
        self.model.lose_begin(saga);
        let console = &mut self.real.db.console;
        for list in ["open", "retry", "retry_started"] {
            console.ask(&["ZREM", list, saga.saga_id.as_str()]);
        }
        console.ask(&["DEL", &format!("undo:{}", saga.saga_id)]);
        console.ask(&["HINCRBY", "totals", "started", "-1"]);
        console.ask(&["HSET", &format!("order:{}", saga.order_id), "saga", ""]);
    }

    fn expire(&mut self, saga: &Saga) {
        if !matches!(self.state(&saga.saga_id), None | Some(State::Started)) {
            self.model.undo.remove(&saga.saga_id);
            self.real.db.console.ask(&["DEL", &format!("undo:{}", saga.saga_id)]);
        }
    }

    fn agree_in_the_end(&mut self) {
        for order in &ORDERS[..2] {
            let record = &self.model.orders[&order.parse().unwrap()];
            let saga = record.saga.as_ref().map(SagaId::to_string).unwrap_or_default();
            let fields = ["paid", "saga", "attempt", "total"].map(|field| self.real.order(order, field));
            let paid = u8::from(record.paid).to_string();
            assert_eq!(fields, [paid, saga, record.attempt.to_string(), record.total.to_string()], "order {order}");
        }
        let undo = self.real.db.console.keys("undo:");
        assert_eq!(undo.len(), self.model.undo.len(), "{undo:?}");
        for (id, entry) in &self.model.undo {
            let found = self.real.undo(&entry.saga);
            let round = found.get("round").map_or(Ok(0), |round| round.parse());
            assert_eq!((&*found["state"], round), (entry.state.name(), Ok(entry.round)), "{id}");
            let inboxes = found.get("inboxes").map(String::as_str).unwrap_or_default();
            assert_eq!(inboxes, entry.inboxes.join(","), "{id}");
            let places = ["open", "retry", "retry_started"].into_iter().zip(self.model.places(id));
            let places: Vec<_> = places.filter_map(|(name, is_there)| is_there.then_some(name)).collect();
            assert_eq!(self.real.places(&entry.saga), places, "{id}");
        }
        for (key, paid, attempt) in self.model.replaced() {
            let found = self.real.db.console.hash(&format!("replaced:{key}"));
            assert_eq!(
                (&*found["paid"], found["attempt"].parse()),
                (["0", "1"][usize::from(paid)], Ok(attempt)),
                "{key}"
            );
        }
        let kept = self.real.scores("replaced").len();
        assert_eq!((kept, self.real.db.console.keys("replaced:").len()), (kept, kept), "each is forgotten some day");
        assert_eq!(kept, self.model.replaced().len());
        let totals = self.model.totals;
        let counts = [totals.started, totals.recovered, totals.completed, totals.failed];
        let names = ["started", "recovered", "completed", "failed"];
        assert_eq!(names.map(|name| self.real.total(name)), counts.map(i128::from));
        let amounts = ["completed_amount", "failed_amount"].map(|name| self.real.total(name));
        assert_eq!(amounts, [totals.completed_amount, totals.failed_amount].map(i128::from));
        self.model.audit().unwrap();
        self.real.assert_books_balance();
    }
}

/// A client's checkout with a key of its own.
fn checkout(key: u8, order: &str) -> Operation {
    Operation::from_client(&format!("checkout-{key}"), format!("/orders/checkout/{order}"), 600)
}

/// What the database said is what the undo log's one transition says.
fn agrees_with_the_transition(state: &State, kind: Kind, reason: &FailureReason, outcome: &Outcome) {
    match (transition(state, kind, Some(reason)), outcome) {
        (Ok(Transition::Close(_)), Outcome::Closed(_)) => {}
        // Both change nothing; the database tells the state that stands.
        (Ok(Transition::Repeat | Transition::Ignore), Outcome::Repeat(told)) => assert_eq!(told, state),
        (Err(Illegal::EndedTwice { state, .. }), Outcome::EndedTwice(told)) => assert_eq!(told, state),
        (transition, outcome) => panic!("{kind} in {state:?}: {transition:?} is not {outcome:?}"),
    }
}

async fn agree(real: &mut Orders, acts: Vec<Act>) {
    real.db.clear();
    let model = Model::new(Planted::default());
    let mut both = Both { real, replica: model.clone(), model, sagas: Vec::new(), incarnations: 0 };
    both.replace(ORDERS[0]).await;
    both.replace(ORDERS[1]).await;
    both.act(0, &Act::Remember).await;
    for (n, act) in acts.iter().enumerate() {
        both.act(n, act).await;
    }
    both.agree_in_the_end();
}

/// One place of `order.lua` each, and what stands there instead.
const BUGS: &[(&str, &str, &str)] = &[
    ("close-not-idempotent", "  elseif state and state ~= 'started' then\n    return { 'ended_twice', state }\n", ""),
    ("attempt-not-incremented", "digits(tonumber(args[7]) + 1), 'saga', ''", "args[7], 'saga', ''"),
    ("claim-is-no-lease", "      redis.call('ZADD', keys[2], digits(now + wait), saga)\n", ""),
    ("watermark-ignores-retries", "  for n = 1, 2 do\n", "  for n = 1, 1 do\n"),
    (
        "drawn-saga-id",
        "  saga = args[5] .. '.' .. incarnation .. '.' .. attempt\n",
        "  saga = args[5] .. '.' .. incarnation .. '.' .. math.random(1000)\n",
    ),
    ("redo of a start that is there", "  elseif state then\n    return { 'known' }\n", ""),
    (
        "redo of a start whose saga is over",
        "  if verdict == 'completed' or verdict == 'failed' then\n    return { 'known' }\n  elseif",
        "  if",
    ),
    (
        "redo of a start leaves the order closed",
        "    redis.call('HSET', order, 'attempt', args[8], 'saga', args[1])\n",
        "",
    ),
    (
        "nothing is kept of a replaced order",
        "    redis.call('RENAME', order, aside)\n",
        "    redis.call('DEL', order)\n",
    ),
    (
        "an end is not told to the record of a replaced order",
        "      redis.call('HSET', order, 'paid', '1', 'saga', '')\n",
        "      redis.call('HSET', keys[2], 'paid', '1', 'saga', '')\n",
    ),
    (
        "redo of a start that nobody finds",
        "  redis.call('ZADD', keys[3], args[6], args[1])\n  raise(keys[4], 'started', '1')\n  return { 'redone' }",
        "  raise(keys[4], 'started', '1')\n  return { 'redone' }",
    ),
];

/// Runs random cases against these functions.
fn check(library: Library, number: u32) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = std::cell::RefCell::new(runtime.block_on(Orders::start_with(library)));
    let config = Config {
        cases: number,
        failure_persistence: None,
        max_shrink_iters: if number == CASES { 1_000 } else { 0 },
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&acts(), |acts| {
        runtime.block_on(agree(&mut database.borrow_mut(), acts));
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
    BUGS.iter().for_each(|(name, ..)| println!("| order.lua | {name} |"));
    assert!(escaped.is_empty(), "{escaped:?}");
}
