//! A shop that keeps the contract by construction: every request takes effect at one instant (a checkout at two: the debit, and the
//! decision of the stock), replies are true, and some get lost. Histories of it must never be found wrong.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use checkout::checker::history::{Command, Exchange, History, Line, Lost, Reply, Said, Thing};

/// What becomes of a request, apart from what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Answered,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// It is carried out, and the client is told that this is not known yet; if it has a saga by then, with its name.
    NotKnownYet,
    /// It never arrives, and the client cannot know.
    RequestLost,
    /// Nothing is started, and the client is told so.
    TurnedAway,
}

/// One request of a script.
#[derive(Debug, Clone)]
pub struct Step {
    pub client: u32,
    pub command: Command,
    pub key: Option<String>,
    pub start_us: u64,
    /// After its start: when it takes effect, when stock decides, when the answer is there.
    pub effect_us: u64,
    pub decision_us: u64,
    pub answer_us: u64,
    pub fate: Fate,
}

#[derive(Debug, Default, Clone)]
struct Order {
    user: String,
    items: Vec<(String, i64)>,
    total: i64,
    paid: bool,
    /// How many of its sagas were undone.
    attempt: u64,
    /// Steps that wait for the saga that is under way.
    waiting: Vec<usize>,
    in_flight: bool,
}

/// The shop.
#[derive(Debug, Default)]
pub struct Shop {
    credit: BTreeMap<String, i64>,
    stock: BTreeMap<String, (i64, i64)>,
    orders: BTreeMap<String, Order>,
    keys: HashMap<String, Reply>,
    /// Keys of checkouts under way, with the step that holds each.
    keys_in_use: HashMap<String, usize>,
    /// The place of the saga that a checkout began or joined.
    places: HashMap<usize, String>,
}

fn done(said: Said) -> Reply {
    Reply { status: Some(200), said: Some(said), ..Reply::default() }
}

fn text() -> Reply {
    done(Said::Text("ok".to_owned()))
}

fn refused(status: u16, problem: &str) -> Reply {
    Reply { status: Some(status), problem: Some(problem.to_owned()), ..Reply::default() }
}

/// A checkout that was undone. Some refusals do not say which saga.
fn undone(number: usize, problem: &str, place: String) -> Reply {
    Reply { instance: Some(place).filter(|_| !number.is_multiple_of(3)), ..refused(400, problem) }
}

fn place(order: &str, attempt: u64) -> String {
    format!("/orders/saga/{order}.k.{attempt}")
}

/// Earliest first.
type Queue = BinaryHeap<std::cmp::Reverse<(u64, usize, bool)>>;

impl Shop {
    /// Lets a script happen.
    pub fn play(script: &[Step]) -> History {
        let mut shop = Self::default();
        let mut queue = Queue::new();
        for (number, step) in script.iter().enumerate() {
            if !matches!(step.fate, Fate::RequestLost | Fate::TurnedAway) {
                queue.push(std::cmp::Reverse((step.start_us + step.effect_us, number, false)));
            }
        }
        let mut replies: Vec<Option<(u64, Reply)>> = vec![None; script.len()];
        while let Some(std::cmp::Reverse((at, number, is_decision))) = queue.pop() {
            let step = &script[number];
            if is_decision {
                for (number, reply) in shop.decide(&step.command) {
                    shop.remember(number, &reply);
                    replies[number] = Some((at, reply));
                }
            } else if let Some(reply) = shop.take(number, step, at, &mut queue) {
                replies[number] = Some((at, reply));
            }
        }
        let mut history = History::default();
        let mut exchanges: Vec<Exchange> = script
            .iter()
            .zip(replies)
            .enumerate()
            .map(|(n, (step, reply))| exchange(step, reply, shop.places.get(&n)))
            .collect();
        exchanges.sort_by_key(|it| it.end_us);
        let end = exchanges.last().map_or(0, |it| it.end_us) + 1;
        exchanges.into_iter().for_each(|it| history.add(Line::Exchange(it)));
        history.add(Line::Healed { at_us: end });
        history.add(Line::Closed { at_us: end, open_sagas: Some(0), limit_us: 1, findings: Vec::new() });
        shop.last().into_iter().for_each(|it| history.add(Line::Final(it)));
        history
    }

    fn last(&self) -> Vec<Thing> {
        let users = self.credit.keys().map(|user| self.user(user));
        let items = self.stock.keys().map(|item| self.item(item));
        let orders = self.orders.keys().map(|order| self.order(order));
        users.chain(items).chain(orders).collect()
    }

    fn user(&self, user: &str) -> Thing {
        Thing::User { user: user.to_owned(), credit: self.credit[user] }
    }

    fn item(&self, item: &str) -> Thing {
        let (stock, price) = self.stock[item];
        Thing::Item { item: item.to_owned(), stock, price }
    }

    fn order(&self, id: &str) -> Thing {
        let Order { user, items, total, paid, .. } = self.orders[id].clone();
        Thing::Order { order: id.to_owned(), user, items, total, paid }
    }

    /// The first effect of a request, and its reply where that is all.
    fn take(&mut self, number: usize, step: &Step, at: u64, queue: &mut Queue) -> Option<Reply> {
        if let Some(reply) = step.key.as_ref().and_then(|key| self.keys.get(key)) {
            return Some(reply.clone());
        }
        if let Command::Checkout { order } = &step.command {
            if let Some(key) = &step.key {
                if self.keys_in_use.contains_key(key) {
                    return Some(refused(409, "idempotency-key-in-use"));
                }
                self.keys_in_use.insert(key.clone(), number);
            }
            let reply = self.check_out(number, order, at + step.decision_us, queue)?;
            self.remember(number, &reply);
            return Some(reply);
        }
        let reply = self.carry_out(number, &step.command);
        if let Some(key) = &step.key {
            self.keys.insert(key.clone(), reply.clone());
        }
        Some(reply)
    }

    /// What a checkout came to is the answer to its key from now on.
    fn remember(&mut self, number: usize, reply: &Reply) {
        let key = self.keys_in_use.iter().find(|(_, holder)| **holder == number).map(|(key, _)| key.clone());
        if let Some(key) = key {
            self.keys_in_use.remove(&key);
            self.keys.insert(key, reply.clone());
        }
    }

    fn carry_out(&mut self, number: usize, command: &Command) -> Reply {
        let signed = |amount: u64| i64::try_from(amount).unwrap();
        match command {
            Command::CreateUser => {
                let user = format!("u{number}");
                self.credit.insert(user.clone(), 0);
                done(Said::Id(user))
            }
            Command::CreateItem { price } => {
                let item = format!("i{number}");
                self.stock.insert(item.clone(), (0, signed(*price)));
                done(Said::Id(item))
            }
            Command::CreateOrder { user } => {
                let order = format!("o{number}");
                self.orders.insert(order.clone(), Order { user: user.clone(), ..Order::default() });
                done(Said::Id(order))
            }
            Command::AddItem { order, item, quantity } => {
                let (price, order) = (self.stock[item].1, self.orders.get_mut(order).unwrap());
                if order.paid || order.in_flight {
                    return refused(409, "order-paid");
                }
                order.items.push((item.clone(), signed(*quantity)));
                order.total += price * signed(*quantity);
                text()
            }
            Command::AddFunds { user, amount } => self.change_credit(user, signed(*amount)),
            Command::Pay { user, amount } => self.change_credit(user, -signed(*amount)),
            Command::AddStock { item, pieces } => self.change_stock(item, signed(*pieces)),
            Command::SubtractStock { item, pieces } => self.change_stock(item, -signed(*pieces)),
            Command::FindUser { user } => done(Said::Thing(self.user(user))),
            Command::FindItem { item } => done(Said::Thing(self.item(item))),
            Command::FindOrder { order } => done(Said::Thing(self.order(order))),
            Command::Checkout { .. } => unreachable!("it has two steps"),
        }
    }

    fn change_credit(&mut self, user: &str, amount: i64) -> Reply {
        let credit = self.credit.get_mut(user).unwrap();
        if *credit + amount < 0 {
            return refused(400, "insufficient-credit");
        }
        *credit += amount;
        text()
    }

    fn change_stock(&mut self, item: &str, pieces: i64) -> Reply {
        let stock = &mut self.stock.get_mut(item).unwrap().0;
        if *stock + pieces < 0 {
            return refused(400, "out-of-stock");
        }
        *stock += pieces;
        text()
    }

    fn check_out(&mut self, number: usize, id: &str, decision_us: u64, queue: &mut Queue) -> Option<Reply> {
        let order = self.orders.get_mut(id).unwrap();
        if order.paid {
            return Some(text());
        }
        if !order.in_flight {
            let credit = self.credit.get_mut(&order.user).unwrap();
            if *credit < order.total {
                order.attempt += 1;
                return Some(undone(number, "insufficient-credit", place(id, order.attempt - 1)));
            }
            *credit -= order.total;
            order.in_flight = true;
            queue.push(std::cmp::Reverse((decision_us, number, true)));
        }
        order.waiting.push(number);
        self.places.insert(number, place(id, order.attempt));
        None
    }

    /// Stock's decision, and what all who wait are told.
    fn decide(&mut self, command: &Command) -> Vec<(usize, Reply)> {
        let Command::Checkout { order: id } = command else { unreachable!("only checkouts are decided") };
        let order = self.orders.get_mut(id).unwrap();
        let mut needed: BTreeMap<&str, i64> = BTreeMap::new();
        for (item, quantity) in &order.items {
            *needed.entry(item).or_default() += quantity;
        }
        order.paid = needed.iter().all(|(item, pieces)| self.stock[*item].0 >= *pieces);
        if order.paid {
            needed.into_iter().for_each(|(item, pieces)| self.stock.get_mut(item).unwrap().0 -= pieces);
        } else {
            *self.credit.get_mut(&order.user).unwrap() += order.total;
            order.attempt += 1;
        }
        order.in_flight = false;
        let (is_paid, last) = (order.paid, order.attempt.saturating_sub(1));
        let reply = |number| if is_paid { text() } else { undone(number, "out-of-stock", place(id, last)) };
        std::mem::take(&mut order.waiting).into_iter().map(|number| (number, reply(number))).collect()
    }
}

fn exchange(step: &Step, decided: Option<(u64, Reply)>, place: Option<&String>) -> Exchange {
    let planned = step.start_us + step.effect_us.max(step.answer_us) + 1;
    let lost = |lost| Reply { lost: Some(lost), ..Reply::default() };
    let (end_us, reply) = match (step.fate, decided) {
        (Fate::Answered, Some((at, reply))) => (planned.max(at + 1), reply),
        // Whoever gives up does not wait for what happens after.
        (Fate::AnswerLost, _) => (step.start_us + step.answer_us, lost(Lost::Broken)),
        (Fate::RequestLost, _) => (step.start_us + step.answer_us, lost(Lost::TimedOut)),
        (Fate::NotKnownYet, _) if !step.command.is_read() => {
            let place = place.filter(|_| step.effect_us <= step.answer_us);
            let location = Some(place.cloned().unwrap_or_else(|| "/somewhere".to_owned()));
            (step.start_us + step.answer_us, Reply { status: Some(202), location, ..Reply::default() })
        }
        _ => (step.start_us + step.answer_us, refused(503, "unavailable")),
    };
    let (client, command, key) = (step.client, step.command.clone(), step.key.clone());
    Exchange { client, command, key, start_us: step.start_us, end_us, reply }
}
