//! A situation of the exploration and the steps that lead to the next.

mod losses;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use common::amount::{Amount, Quantity};
use common::event::{Event, Kind, SagaEvent};
use common::id::{ItemId, OrderId};
use common::saga::{Saga, SagaId};
use common::trace::TraceParent;
use common::undo::State;
use nats::topology::Durable;
use order::effect::Begun;

use super::{COST, Configuration};
use crate::database::{ClaimLimits, OrderRecord};
use crate::glue::{self, Clocks, Databases};
use crate::ledger::{Ledger, Violation};
use crate::planted::{Bug, Planted};

/// The time at which everything happens.
pub const NOW_MS: u64 = 1_700_000_000_000;

/// Order instances that reconcile.
const RECONCILERS: usize = 2;

/// An event that is stored and not lost.
#[derive(Debug, Clone)]
pub struct Letter {
    /// What tells it from others.
    key: String,
    to: Durable,
    event: SagaEvent,
}

impl Letter {
    /// The letter of an event, where a service reacts to it. What decides nothing is taken off, so that letters that cause the
    /// same are the same.
    fn of(event: Event, keeps_round: bool) -> Option<Self> {
        let subject = event.subject();
        let to = Durable::ALL.iter().copied().find(|durable| durable.subjects().any(|known| known == subject))?;
        let Event::Saga(event) = event else { return None };
        let round = if keeps_round { event.round } else { 0 };
        let event = SagaEvent { trail: Vec::new(), round, ..event };
        let reason = event.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        Some(Self { key: format!("{}{reason}", event.id()), to, event })
    }
}

impl PartialEq for Letter {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Letter {}

impl PartialOrd for Letter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Letter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl Hash for Letter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// A client asks for an order; the saga is told, or the instance crashes before it is.
    Ask(OrderId, bool),
    /// A letter is delivered; what comes of it is published, or the instance crashes before it is.
    Deliver(Arc<Letter>, bool),
    /// A reconciler claims what is due, to replay or to abandon it.
    Claim(usize, Kind),
    /// A reconciler publishes what it has claimed.
    Tell(usize),
    /// A reconciler crashes with what it has claimed.
    CrashClaim(usize),
    /// The stream loses everything.
    LoseStream,
    /// The stream loses one letter.
    Lose(Arc<Letter>),
    /// What is missing is brought: a piece of each item, and credit for each user.
    Trade,
    /// The order database forgets that a saga was opened.
    LoseUndo(SagaId),
    /// Payment's or stock's database forgets what it decided last about a saga. Where that was published, it is redone.
    LoseDecision(Durable, SagaId),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crash = |told: bool| if told { "" } else { ", and its instance crashes before it publishes" };
        match self {
            Self::Ask(order, told) => write!(f, "a client asks for order {order}{}", crash(*told)),
            Self::Deliver(letter, told) => write!(f, "{} takes {}{}", letter.to, letter.key, crash(*told)),
            Self::Claim(n, kind) => write!(f, "order-{} claims what is due for {kind}", n + 1),
            Self::Tell(n) => write!(f, "order-{} publishes what it has claimed", n + 1),
            Self::CrashClaim(n) => write!(f, "order-{} crashes with what it has claimed", n + 1),
            Self::LoseStream => f.write_str("the stream loses everything"),
            Self::Lose(letter) => write!(f, "the stream loses {}", letter.key),
            Self::Trade => f.write_str("pieces and credit are brought"),
            Self::LoseUndo(saga) => write!(f, "the order database forgets {saga}"),
            Self::LoseDecision(of, saga) => write!(f, "the database of {of} forgets what it decided last about {saga}"),
        }
    }
}

/// A situation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Situation {
    /// The three databases.
    pub databases: Databases,
    /// The observer.
    pub ledger: Ledger,
    /// What went wrong on the way.
    pub wrong: Option<Violation>,
    letters: BTreeSet<Arc<Letter>>,
    claimed: [Vec<Arc<Letter>>; RECONCILERS],
    /// Ids by which the planted bug removes duplicates.
    known: BTreeSet<String>,
    asks: u8,
    claims: u8,
    losses: u8,
    trades: u8,
    undo_losses: u8,
    tail_losses: u8,
    /// Decisions of payment and stock that were ever published, for as long as some may be lost.
    told: BTreeSet<(&'static str, SagaId)>,
}

impl Situation {
    /// How it begins.
    pub fn first(configuration: &Configuration, planted: Planted) -> Self {
        let mut databases = Databases::new(planted);
        let mut ledger = Ledger::default();
        let items = ["a", "b"].map(|id| id.parse::<ItemId>());
        for (item, pieces) in items.iter().flatten().zip(configuration.pieces) {
            databases.stock.put_item(item.clone(), pieces);
            ledger.pieces += pieces.cast_signed();
        }
        let users: BTreeSet<&str> = configuration.orders.iter().copied().collect();
        for user in users.iter().filter_map(|user| user.parse().ok()) {
            databases.payment.put_user(user, configuration.credit);
            ledger.money += configuration.credit.cast_signed();
        }
        let entries = items.into_iter().flatten().map(|item| (item, Quantity::try_from(1).unwrap_or(Quantity::ZERO)));
        let (entries, cost) = (entries.collect::<Vec<_>>(), Amount::try_from(COST).unwrap_or(Amount::ZERO));
        for (number, user) in configuration.orders.iter().enumerate() {
            let Ok(user) = user.parse() else { continue };
            let record = OrderRecord::new(user, entries.clone(), cost, "k");
            databases.order.orders.insert(OrderId::from_index(number as u64), record);
        }
        let &Configuration { asks, claims, losses, trades, undo_losses, tail_losses, .. } = configuration;
        Self {
            databases,
            ledger,
            wrong: None,
            letters: BTreeSet::new(),
            claimed: Default::default(),
            known: BTreeSet::new(),
            asks,
            claims,
            losses,
            trades,
            undo_losses,
            tail_losses,
            told: BTreeSet::new(),
        }
    }

    /// What can happen next.
    pub fn steps(&self, steps: &mut Vec<Step>) {
        for letter in &self.letters {
            steps.extend([true, false].map(|told| Step::Deliver(letter.clone(), told)));
        }
        let open: Vec<&Saga> = self.open().collect();
        if self.asks > 0 {
            let orders = self.databases.order.orders.iter();
            let closed = orders.filter(|(_, record)| !record.paid && record.saga.is_none());
            steps.extend(closed.flat_map(|(order, _)| [true, false].map(|told| Step::Ask(order.clone(), told))));
        }
        for (n, claimed) in self.claimed.iter().enumerate() {
            if !claimed.is_empty() {
                steps.extend([Step::Tell(n), Step::CrashClaim(n)]);
            }
        }
        // Which of those that have nothing in hand claims makes no difference.
        if let Some(n) = self.claimed.iter().position(Vec::is_empty).filter(|_| self.claims > 0 && !open.is_empty()) {
            steps.extend([Kind::CheckoutStarted, Kind::CheckoutAbandoned].map(|kind| Step::Claim(n, kind)));
        }
        if self.losses > 0 && !self.letters.is_empty() {
            steps.push(Step::LoseStream);
            steps.extend(self.letters.iter().cloned().map(Step::Lose));
        }
        if self.trades > 0 {
            steps.push(Step::Trade);
        }
        if self.undo_losses > 0 {
            steps.extend(open.iter().map(|saga| Step::LoseUndo(saga.saga_id.clone())));
        }
        if self.tail_losses > 0 {
            let sagas = self.ledger.accounts().map(|account| &account.saga);
            steps.extend(sagas.flat_map(|saga| {
                let of = [Durable::Payment, Durable::Stock].into_iter();
                of.filter(|of| self.may_forget(*of, saga)).map(|of| Step::LoseDecision(of, saga.saga_id.clone()))
            }));
        }
    }

    /// The sagas that have an open undo entry.
    fn open(&self) -> impl Iterator<Item = &Saga> {
        let entries = self.databases.order.undo.values();
        entries.filter(|entry| entry.state == State::Started).map(|entry| &entry.saga)
    }

    /// Takes a step.
    pub fn take(&mut self, step: &Step, planted: Planted) -> Result<(), Violation> {
        match step {
            Step::Ask(order, told) => {
                self.asks -= 1;
                self.ask(order, *told, planted)?;
            }
            Step::Deliver(letter, told) => self.deliver(letter, *told, planted)?,
            Step::Claim(n, kind) => {
                self.claims -= 1;
                self.claimed[*n] = self.claim(*kind, planted);
            }
            Step::Tell(n) => {
                for letter in std::mem::take(&mut self.claimed[*n]) {
                    self.store(letter, planted);
                }
            }
            Step::CrashClaim(n) => self.claimed[*n].clear(),
            Step::LoseStream => {
                self.losses -= 1;
                self.letters.clear();
            }
            Step::Lose(letter) => {
                self.losses -= 1;
                self.letters.remove(letter);
            }
            Step::Trade => {
                self.trades -= 1;
                self.trade();
            }
            Step::LoseUndo(saga) => {
                self.undo_losses -= 1;
                let lost = self.databases.order.undo.get(saga).map(|entry| entry.saga.clone());
                lost.iter().for_each(|saga| self.databases.order.lose_begin(saga));
                self.ledger.lost(saga);
            }
            Step::LoseDecision(of, saga) => self.lose_decision(*of, saga, planted)?,
        }
        self.ledger.check_books(&self.databases)?;
        self.ledger.check_orders(&self.databases.order)
    }

    fn ask(&mut self, order: &OrderId, told: bool, planted: Planted) -> Result<(), Violation> {
        let Some(trace) = trace() else { return Ok(()) };
        let started = |saga: Saga| SagaEvent::first(Kind::CheckoutStarted, saga, 0, trace.clone()).into();
        if planted.is(Bug::StartedBeforeUndo) {
            // Published, and the instance crashes before it writes.
            if let Begun::Started(saga) = self.databases.order.clone().begin(NOW_MS, None, order, "i", &trace) {
                self.store_event(started(*saga), planted);
            }
            if !told {
                return Ok(());
            }
        }
        if let Begun::Started(saga) = self.databases.order.begin(NOW_MS, None, order, "i", &trace) {
            self.ledger.opened(&saga)?;
            if told {
                self.store_event(started(*saga), planted);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, letter: &Letter, told: bool, planted: Planted) -> Result<(), Violation> {
        let clocks = Clocks { order_ms: NOW_MS, instance_ms: NOW_MS };
        let event = Event::Saga(letter.event.clone());
        let (reaction, seen) = self.ledger.react(&mut self.databases, letter.to, &event, clocks, u64::from(u32::MAX));
        seen?;
        self.databases.payment.write_records(!told);
        if told {
            for event in reaction.answer.unwrap_or_default() {
                self.store_event(event, planted);
            }
        }
        Ok(())
    }

    fn claim(&mut self, kind: Kind, planted: Planted) -> Vec<Arc<Letter>> {
        let limits = ClaimLimits { most: usize::MAX, first_ms: 0, longest_ms: 0 };
        let (claimed, _) = self.databases.order.claim(NOW_MS, limits, || 0.0);
        // The age that it takes for the one or the other.
        let limit = if kind == Kind::CheckoutAbandoned { Duration::ZERO } else { Duration::MAX };
        let keeps_round = planted.is(Bug::DedupWithoutRound);
        let at_ms = NOW_MS + u64::from(planted.is(Bug::ReplayStartsAnew)) * common::limits::OUTCOME_BUCKET_MS;
        let mut letters = Vec::new();
        for claimed in claimed {
            if let Some(entry) = self.databases.order.undo.get_mut(&claimed.saga.saga_id).filter(|_| !keeps_round) {
                entry.round = 0;
            }
            let (event, _) = glue::reconcile(claimed, limit, at_ms, planted);
            letters.extend(Letter::of(event, keeps_round).map(Arc::new));
        }
        letters
    }

    fn store_event(&mut self, event: Event, planted: Planted) {
        if let Event::Saga(event) = &event
            && self.tail_losses > 0
        {
            self.told.insert((event.kind.subject(), event.saga.saga_id.clone()));
        }
        if let Some(letter) = Letter::of(event, planted.is(Bug::DedupWithoutRound)) {
            self.store(Arc::new(letter), planted);
        }
    }

    fn store(&mut self, letter: Arc<Letter>, planted: Planted) {
        let id = || format!("{}/{}", letter.event.saga.saga_id, letter.event.kind);
        if planted.is(Bug::DedupWithoutRound) && !self.known.insert(id()) {
            return;
        }
        self.letters.insert(letter);
    }

    fn trade(&mut self) {
        let (items, users) = (self.databases.stock.pieces.clone(), self.databases.payment.credits.clone());
        for item in items.keys() {
            self.databases.stock.add(item, 1);
            self.ledger.pieces += 1;
        }
        for user in users.keys() {
            self.databases.payment.add_funds(user, 1);
            self.ledger.money += 1;
        }
    }

    /// Lets everything run without faults until nothing more happens: deliver all letters; then replay, then abandon.
    ///
    /// # Errors
    /// A saga that is not closed in the end, or whatever went wrong on the way.
    pub fn run_out(mut self, planted: Planted) -> Result<(), Violation> {
        for round in 0..6 {
            self.deliver_all(planted)?;
            let lost: Vec<OrderId> = self.ledger.open().filter(|account| account.was_lost).map(order_of).collect();
            if self.ledger.open().next().is_none() {
                return Ok(());
            }
            // Of what is forgotten, the client reminds.
            for order in lost {
                self.ask(&order, true, planted)?;
            }
            let kind = if round < 2 { Kind::CheckoutStarted } else { Kind::CheckoutAbandoned };
            for letter in self.claim(kind, planted) {
                self.store(letter, planted);
            }
        }
        let open: Vec<_> = self.ledger.open().map(|account| account.saga.saga_id.as_str()).collect();
        Err(Violation(format!("sagas {open:?} never end")))
    }

    fn deliver_all(&mut self, planted: Planted) -> Result<(), Violation> {
        let mut delivered = BTreeSet::new();
        while let Some(letter) = self.letters.difference(&delivered).next().cloned() {
            self.deliver(&letter, true, planted)?;
            self.ledger.check_books(&self.databases)?;
            delivered.insert(letter);
        }
        // What was delivered and acknowledged does not come again by itself.
        self.letters.clear();
        self.ledger.check_orders(&self.databases.order)
    }
}

fn order_of(account: &crate::ledger::Account) -> OrderId {
    account.saga.order_id.clone()
}

fn trace() -> Option<TraceParent> {
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok()
}
