//! The checker: given what clients asked and were told, and what is there at the end, is it what the contract promises?
//!
//! It knows the REST contract and nothing else: no database, no event, no clock of the platform. So it holds for any platform that speaks
//! the contract, and what it finds is what a client would have suffered. It is pure: a [`History`] in, a [`Verdict`] out.
//!
//! The way through the files: [`history`] says what happened; [`operation`] puts together what belongs to one wish; [`orders`] looks at
//! each order by itself; [`account`] knows what a balance can have been at any time; here all is brought together; [`verdict`] says it.

mod account;
pub mod history;
mod operation;
mod orders;
pub mod verdict;

use std::collections::{BTreeMap, HashMap};

use account::{Account, Bounds};
use history::{Command, Exchange, History, Meaning, Said, Thing};
use operation::Operation;
use orders::{Order, seen};
pub use verdict::{Breach, Rule, Verdict};

/// Checks a history.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut world = World::default();
    world.gather(history, &mut verdict);
    world.apply_checkouts(&mut verdict);
    world.check_orders(&mut verdict);
    world.check_ends(&mut verdict);
    world.check_replies(history, &mut verdict);
    check_closing(history, &mut verdict);
    verdict
}

/// Whether a user or an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Of {
    User,
    Item,
}

impl Of {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Item => "item",
        }
    }

    fn rule(self) -> Rule {
        match self {
            Self::User => Rule::MoneyIsConserved,
            Self::Item => Rule::StockIsConserved,
        }
    }
}

/// A user's credit or an item's stock.
#[derive(Debug, Default)]
struct Holding {
    account: Account,
    created_us: u64,
    last: Option<i128>,
}

/// A request that looked at a balance, and what it was shown.
type Look<'a> = (&'a Exchange, i128);

/// Everything that was created, with all that concerns it.
#[derive(Debug, Default)]
struct World<'a> {
    holdings: BTreeMap<(Of, String), Holding>,
    prices: BTreeMap<String, i64>,
    orders: BTreeMap<String, Order<'a>>,
}

impl<'a> World<'a> {
    fn gather(&mut self, history: &'a History, verdict: &mut Verdict) {
        let operations = Operation::all(&history.exchanges);
        for operation in &operations {
            operation.check(verdict);
            self.create(operation);
        }
        for operation in operations {
            self.take_in(operation);
        }
        for order in self.orders.values_mut() {
            order.checkouts.sort_by_key(|it| it.start_us);
        }
        for thing in &history.last {
            let (of, id, balance) = match thing {
                Thing::User { user, credit } => (Of::User, user, *credit),
                Thing::Item { item, stock, price } => {
                    self.check_price(item, *price, verdict);
                    (Of::Item, item, *stock)
                }
                Thing::Order { order, .. } => {
                    if let Some(known) = self.orders.get_mut(order) {
                        known.last = Some(thing);
                    }
                    continue;
                }
                Thing::Gone { .. } => continue,
            };
            if let Some(holding) = self.holdings.get_mut(&(of, id.clone())) {
                holding.last = Some(i128::from(balance));
            }
        }
    }

    fn create(&mut self, operation: &Operation<'a>) {
        let Some((id, created_us)) = operation.created() else { return };
        let holding = Holding { created_us, ..Holding::default() };
        match operation.command() {
            Command::CreateUser => drop(self.holdings.insert((Of::User, id.to_owned()), holding)),
            Command::CreateItem { price } => {
                self.holdings.insert((Of::Item, id.to_owned()), holding);
                self.prices.insert(id.to_owned(), i64::try_from(*price).unwrap_or(i64::MAX));
            }
            Command::CreateOrder { user } => {
                let order = Order { user: user.clone(), created_us, ..Order::default() };
                self.orders.insert(id.to_owned(), order);
            }
            _ => {}
        }
    }

    fn take_in(&mut self, operation: Operation<'a>) {
        match operation.command() {
            Command::AddFunds { user, amount } => self.command(Of::User, user, i128::from(*amount), &operation),
            Command::Pay { user, amount } => self.command(Of::User, user, -i128::from(*amount), &operation),
            Command::AddStock { item, pieces } => self.command(Of::Item, item, i128::from(*pieces), &operation),
            Command::SubtractStock { item, pieces } => self.command(Of::Item, item, -i128::from(*pieces), &operation),
            Command::AddItem { order, .. } => {
                if let Some(order) = self.orders.get_mut(order) {
                    order.adds.push(operation);
                }
            }
            Command::Checkout { order } => {
                if let Some(order) = self.orders.get_mut(order) {
                    order.checkouts.extend(operation.requests);
                }
            }
            Command::FindOrder { order } => {
                if let Some(order) = self.orders.get_mut(order) {
                    order.looks.extend(operation.requests);
                }
            }
            Command::CreateUser
            | Command::CreateItem { .. }
            | Command::CreateOrder { .. }
            | Command::FindUser { .. }
            | Command::FindItem { .. } => {}
        }
    }

    fn command(&mut self, of: Of, id: &str, amount: i128, operation: &Operation<'_>) {
        if let Some(holding) = self.holdings.get_mut(&(of, id.to_owned()))
            && operation.may_be_done()
        {
            holding.account.command(amount, operation.start_us(), operation.done_us());
        }
    }

    /// What the checkouts took of credit and stock.
    fn apply_checkouts(&mut self, verdict: &mut Verdict) {
        for (id, order) in &self.orders {
            let Some(last) = order.last.and_then(seen) else { continue };
            let mut takes: BTreeMap<(Of, String), i128> = BTreeMap::new();
            takes.insert((Of::User, last.user.to_owned()), i128::from(last.total));
            for (item, quantity) in last.items {
                *takes.entry((Of::Item, item.clone())).or_default() += i128::from(*quantity);
            }
            for (key, amount) in takes {
                let Some(holding) = self.holdings.get_mut(&key) else {
                    verdict.unless(!last.paid, key.0.rule(), || {
                        format!("order {id} is paid with {} {}, which does not exist", key.0.name(), key.1)
                    });
                    continue;
                };
                order.changes(amount).for_each(|change| holding.account.checkout(change));
                if last.paid {
                    holding.account.paid(amount);
                    verdict.count(if key.0 == Of::User { "credit debited" } else { "pieces reserved" }, amount);
                }
            }
            verdict.count("orders paid", i128::from(last.paid));
        }
    }

    fn check_orders(&self, verdict: &mut Verdict) {
        for (id, order) in &self.orders {
            order.check(id, &self.prices, verdict);
        }
    }

    /// Each balance at the end, to the unit.
    fn check_ends(&self, verdict: &mut Verdict) {
        for ((of, id), holding) in &self.holdings {
            let Some(last) = holding.last else {
                verdict.add(Rule::NothingIsLost, format!("{} {id} was created, and is gone at the end", of.name()));
                continue;
            };
            verdict.unless(last >= 0, Rule::NeverNegative, || format!("{} {id} ends with {last}", of.name()));
            verdict.unless(holding.account.may_end_with(last), of.rule(), || {
                let (sure, unknown) = holding.account.expected();
                format!("{} {id} ends with {last}, and should with {sure} ({unknown} changes are unknown)", of.name())
            });
        }
    }

    fn check_price(&self, item: &str, price: i64, verdict: &mut Verdict) {
        if let Some(known) = self.prices.get(item) {
            verdict.unless(*known == price, Rule::NothingIsLost, || {
                format!("item {item} was created at price {known}, and costs {price}")
            });
        }
    }

    /// Each reply by itself, and against what was told before.
    fn check_replies(&self, history: &'a History, verdict: &mut Verdict) {
        let bounds: HashMap<(Of, &str), Bounds> =
            self.holdings.iter().map(|((of, id), it)| ((*of, id.as_str()), it.account.bounds())).collect();
        let mut looks: HashMap<(u32, Of, &str), Vec<Look<'_>>> = HashMap::new();
        for exchange in &history.exchanges {
            verdict.count("requests", 1);
            self.check_reply(exchange, verdict);
            self.check_refusal(exchange, &bounds, verdict);
            let Some((of, id, balance)) = balance_shown(exchange) else { continue };
            verdict
                .unless(balance >= 0, Rule::NeverNegative, || format!("{} {id} was shown with {balance}", of.name()));
            let Some(bounds) = bounds.get(&(of, id)) else { continue };
            verdict.count("looks checked", 1);
            let (least, most) = bounds.between(exchange.start_us, exchange.end_us);
            verdict.unless((least..=most).contains(&balance), Rule::LooksShowWhatWasTold, || {
                let (client, at_us) = (exchange.client, exchange.start_us);
                format!("client {client} saw {} {id} with {balance} at {at_us} µs; {least} to {most} can be", of.name())
            });
            looks.entry((exchange.client, of, id)).or_default().push((exchange, balance));
            if let Some(Said::Thing(Thing::Item { item, price, .. })) = &exchange.reply.said {
                self.check_price(item, *price, verdict);
            }
        }
        for ((client, of, id), looks) in looks {
            if let Some(bounds) = bounds.get(&(of, id)) {
                check_succession(client, of, id, looks, bounds, verdict);
            }
        }
    }

    fn check_reply(&self, exchange: &Exchange, verdict: &mut Verdict) {
        let Exchange { command, reply, start_us, .. } = exchange;
        verdict.unless(reply.meaning() != Meaning::Wrong, Rule::ContractIsKept, || {
            format!("{command:?} was answered with {reply:?}")
        });
        let is_open = reply.status == Some(202) && matches!(command, Command::Checkout { .. });
        verdict.unless(!is_open || reply.location.is_some(), Rule::ContractIsKept, || {
            format!("{command:?} was answered with 202 and no Location")
        });
        if command.is_read() {
            verdict.unless(reply.status != Some(202), Rule::ContractIsKept, || {
                format!("{command:?}, which changes nothing, was answered with 202")
            });
        }
        let created = |of: Of, id: &str| self.holdings.get(&(of, id.to_owned())).map(|it| it.created_us);
        let about = match command {
            Command::AddFunds { user, .. } | Command::Pay { user, .. } | Command::FindUser { user } => {
                created(Of::User, user)
            }
            Command::AddStock { item, .. } | Command::SubtractStock { item, .. } | Command::FindItem { item } => {
                created(Of::Item, item)
            }
            Command::AddItem { order, item, .. } => {
                self.orders.get(order).map(|it| it.created_us).zip(created(Of::Item, item)).map(|(a, b)| a.max(b))
            }
            Command::Checkout { order } | Command::FindOrder { order } => {
                self.orders.get(order).map(|it| it.created_us)
            }
            Command::CreateUser | Command::CreateItem { .. } | Command::CreateOrder { .. } => None,
        };
        let is_there = about.is_some_and(|created_us| created_us < *start_us);
        verdict.unless(!is_there || reply.status != Some(404), Rule::NothingIsLost, || {
            format!("{command:?}, of which all was created before, was answered with 404")
        });
    }

    /// Whether what is said to be lacking can have lacked.
    fn check_refusal(&self, exchange: &Exchange, bounds: &HashMap<(Of, &str), Bounds>, verdict: &mut Verdict) {
        let problem = exchange.reply.problem.as_deref().unwrap_or_default();
        let least = |of: Of, id: &str, from_us: u64| {
            bounds.get(&(of, id)).map_or(0, |bounds| bounds.between(from_us, exchange.end_us).0)
        };
        let lie = match (&exchange.command, problem) {
            // A request with a key may be told what an earlier one was told, of which this one alone says nothing.
            (Command::Pay { user, amount }, "insufficient-credit") if exchange.key.is_none() => {
                least(Of::User, user, exchange.start_us) >= i128::from(*amount)
            }
            (Command::SubtractStock { item, pieces }, "out-of-stock") if exchange.key.is_none() => {
                least(Of::Item, item, exchange.start_us) >= i128::from(*pieces)
            }
            (Command::Checkout { order }, "insufficient-credit" | "out-of-stock" | "unknown-user") => {
                let Some(order) = self.orders.get(order) else { return };
                let Some(last) = order.last.and_then(seen) else { return };
                let ways = order.under_way();
                let begun = ways.iter().rev().find(|(start_us, _)| *start_us <= exchange.start_us);
                let from_us = begun.map_or(exchange.start_us, |(start_us, _)| *start_us);
                // What it took itself for a while, it did not lack: one checkout of an order is over before its next begins.
                let is_near = |(start_us, end_us): &&(u64, Option<u64>)| {
                    *start_us <= exchange.end_us && end_us.is_none_or(|end_us| end_us >= from_us)
                };
                let own = ways.iter().filter(is_near).map(|_| 1).sum::<i128>();
                let mut pieces: BTreeMap<&str, i128> = BTreeMap::new();
                for (item, quantity) in last.items {
                    *pieces.entry(item).or_default() += i128::from(*quantity);
                }
                match problem {
                    _ if exchange.key.is_some() => false,
                    "insufficient-credit" => {
                        least(Of::User, last.user, from_us) + own * i128::from(last.total) >= i128::from(last.total)
                    }
                    "out-of-stock" => {
                        pieces.iter().all(|(item, needed)| least(Of::Item, item, from_us) + own * needed >= *needed)
                    }
                    _ => self.holdings.get(&(Of::User, last.user.to_owned())).is_some_and(|it| it.created_us < from_us),
                }
            }
            _ => false,
        };
        verdict.unless(!lie, Rule::RefusalIsTrue, || {
            format!("{:?} of client {} was refused: {problem}", exchange.command, exchange.client)
        });
    }
}

/// The balance in a successful look.
fn balance_shown(exchange: &Exchange) -> Option<(Of, &str, i128)> {
    match exchange.reply.said.as_ref()? {
        Said::Thing(Thing::User { user, credit }) => Some((Of::User, user, i128::from(*credit))),
        Said::Thing(Thing::Item { item, stock, .. }) => Some((Of::Item, item, i128::from(*stock))),
        _ => None,
    }
}

/// What one client saw of one balance, look by look.
fn check_succession(client: u32, of: Of, id: &str, mut looks: Vec<Look<'_>>, bounds: &Bounds, verdict: &mut Verdict) {
    looks.sort_by_key(|(look, _)| look.start_us);
    for (index, (second, now)) in looks.iter().enumerate() {
        // The last one that was over before this one began. A client's looks overlap seldom, so it is near.
        let Some((first, before)) = looks[..index].iter().rev().find(|(first, _)| first.end_us < second.start_us)
        else {
            continue;
        };
        let (down, up) = bounds.drift(first.start_us, second.end_us);
        verdict.unless((before - down..=before + up).contains(now), Rule::NeverBackInTime, || {
            format!(
                "client {client} saw {} {id} with {before}, and then with {now}: at most -{down} or +{up} came between",
                of.name()
            )
        });
    }
}

fn check_closing(history: &History, verdict: &mut Verdict) {
    let Some((_, open, limit_us, findings)) = &history.closed else {
        verdict.add(
            Rule::EverySagaCloses,
            "the history has no end: nobody looked whether every saga is closed".to_owned(),
        );
        return;
    };
    let limit_s = limit_us / 1_000_000;
    let how_many = match open {
        Some(0) => None,
        Some(open) => Some(format!("{open} sagas are open")),
        None => Some("nobody could say whether sagas are open".to_owned()),
    };
    if let Some(how_many) = how_many {
        verdict.add(Rule::EverySagaCloses, format!("{how_many} {limit_s} s after the last fault and the last reply"));
    }
    for finding in findings {
        verdict.add(Rule::PlatformIsClean, finding.clone());
    }
}
