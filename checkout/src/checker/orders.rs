//! What is known of one order: its entries, its checkouts, and how it was seen.

use std::collections::BTreeMap;

use super::account::Change;
use super::history::{Exchange, Meaning, Thing};
use super::operation::Operation;
use super::verdict::{Rule, Verdict};

/// An entry: item and quantity.
type Entry = (String, i64);

/// An order and everything that was asked about it.
#[derive(Debug, Default)]
pub struct Order<'a> {
    /// Who was to pay when it was created.
    pub user: String,
    /// When its creation was told.
    pub created_us: u64,
    /// Wishes to add an entry.
    pub adds: Vec<Operation<'a>>,
    /// Checkouts, by their start.
    pub checkouts: Vec<&'a Exchange>,
    /// Looks at it.
    pub looks: Vec<&'a Exchange>,
    /// How it was at the end.
    pub last: Option<&'a Thing>,
}

/// What an order is at the end, where it is there.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Who pays.
    pub user: &'a str,
    /// Its entries.
    pub items: &'a [Entry],
    /// What it costs.
    pub total: i64,
    /// Whether it is paid.
    pub paid: bool,
}

/// The order in a thing.
#[must_use]
pub fn seen(thing: &Thing) -> Option<Seen<'_>> {
    match thing {
        Thing::Order { user, items, total, paid, .. } => Some(Seen { user, items, total: *total, paid: *paid }),
        _ => None,
    }
}

/// The order that a look showed.
fn shown(look: &Exchange) -> Option<Seen<'_>> {
    match &look.reply.said {
        Some(super::history::Said::Thing(thing)) => seen(thing),
        _ => None,
    }
}

/// Problems of a checkout that say nothing about the order.
const NOT_ABOUT_THE_ORDER: [&str; 3] = ["overloaded", "idempotency-key-in-use", "idempotency-key-mismatch"];

/// Problems of a checkout that say that its saga is undone.
const UNDONE: [&str; 4] = ["insufficient-credit", "unknown-user", "out-of-stock", "abandoned"];

impl<'a> Order<'a> {
    /// When a client was first told that it is paid.
    #[must_use]
    pub fn paid_us(&self) -> Option<u64> {
        self.checkouts.iter().filter(|it| it.reply.meaning() == Meaning::Done).map(|it| it.end_us).min()
    }

    /// Times in which a checkout may have been under way: from its first request on, to its end where all requests were refused.
    #[must_use]
    pub fn under_way(&self) -> Vec<(u64, Option<u64>)> {
        let mut all: Vec<(u64, Option<u64>)> = Vec::new();
        for request in &self.checkouts {
            let end = match request.reply.meaning() {
                Meaning::Refused | Meaning::NotStarted => Some(request.end_us),
                Meaning::Done | Meaning::Unknown | Meaning::Wrong => None,
            };
            match all.last_mut() {
                Some((_, None)) => {}
                Some((_, Some(last))) if request.start_us <= *last => match end {
                    None => all.last_mut().into_iter().for_each(|it| it.1 = None),
                    Some(end) => *last = (*last).max(end),
                },
                _ => all.push((request.start_us, end)),
            }
        }
        all
    }

    /// What its checkouts may have done to a balance of which they take `amount`.
    pub fn changes(&self, amount: i128) -> impl Iterator<Item = Change> {
        let must = self.paid_us();
        self.under_way().into_iter().map(move |(may_from_us, may_until_us)| Change {
            amount,
            may_from_us,
            may_until_us,
            must_from_us: must.filter(|_| may_until_us.is_none()),
        })
    }

    /// Whether the entries are those that were added, and their sum is the total.
    fn check_entries(&self, id: &str, prices: &BTreeMap<String, i64>, seen: Seen<'_>, verdict: &mut Verdict) {
        self.check_entries_at(id, seen.items, u64::MAX, u64::MAX, verdict);
        let costs = seen
            .items
            .iter()
            .map(|(item, quantity)| prices.get(item).map(|price| i128::from(*price) * i128::from(*quantity)));
        if let Some(sum) = costs.sum::<Option<i128>>() {
            verdict.unless(sum == i128::from(seen.total), Rule::OrderIsWhole, || {
                format!("order {id} costs {}, its entries {sum}: {:?}", seen.total, seen.items)
            });
        }
    }

    /// The entries at a time between the two: those whose addition was told before, and none that was not asked for.
    fn check_entries_at(&self, id: &str, items: &[Entry], start_us: u64, end_us: u64, verdict: &mut Verdict) {
        let mut counts: BTreeMap<(&str, i64), (i64, i64, i64)> = BTreeMap::new();
        for add in &self.adds {
            let super::history::Command::AddItem { item, quantity, .. } = add.command() else { continue };
            let entry = (item.as_str(), i64::try_from(*quantity).unwrap_or(i64::MAX));
            let (must, may, _) = counts.entry(entry).or_default();
            *must += i64::from(add.done_us().is_some_and(|done| done < start_us));
            *may += i64::from(add.may_be_done() && add.start_us() <= end_us);
        }
        for (item, quantity) in items {
            counts.entry((item.as_str(), *quantity)).or_default().2 += 1;
        }
        for ((item, quantity), (must, may, is)) in counts {
            verdict.unless((must..=may).contains(&is), Rule::OrderIsWhole, || {
                format!("order {id} has {is} entries of {quantity} × item {item}; from {must} to {may} were added")
            });
        }
    }

    /// Checks everything that concerns this order alone.
    pub fn check(&self, id: &str, prices: &BTreeMap<String, i64>, verdict: &mut Verdict) {
        let Some(seen) = self.last.and_then(seen) else {
            verdict.add(Rule::NothingIsLost, format!("order {id} was created, and is gone at the end"));
            return;
        };
        verdict.unless(seen.user == self.user, Rule::NothingIsLost, || {
            format!("order {id} was created for user {}, and is of user {} at the end", self.user, seen.user)
        });
        self.check_entries(id, prices, seen, verdict);
        self.check_replies(id, seen.paid, verdict);
        self.check_looks(id, seen.paid, verdict);
    }

    fn check_replies(&self, id: &str, paid: bool, verdict: &mut Verdict) {
        let of = |meanings: &[Meaning]| self.checkouts.iter().any(|it| meanings.contains(&it.reply.meaning()));
        verdict.unless(paid || !of(&[Meaning::Done]), Rule::SuccessIsKept, || {
            format!("order {id} was answered with success, and is not paid")
        });
        if paid {
            self.check_refusals(id, verdict);
        }
        let Some(paid_us) = self.paid_us() else { return };
        for later in self.checkouts.iter().filter(|it| it.start_us > paid_us) {
            let problem = later.reply.problem.as_deref().unwrap_or_default();
            // A key that was used before is answered with what it came to then.
            let is_repeat =
                later.key.is_some() && self.checkouts.iter().any(|it| it.key == later.key && it.start_us <= paid_us);
            let is_refused = later.reply.meaning() == Meaning::Refused && !NOT_ABOUT_THE_ORDER.contains(&problem);
            let contradicts = is_refused && !is_repeat;
            verdict.unless(!contradicts, Rule::SuccessIsKept, || {
                format!("order {id} was told as paid, and then answered with {:?}", later.reply)
            });
        }
        for add in self.adds.iter().filter(|add| add.start_us() > paid_us && add.done_us().is_some()) {
            verdict.add(Rule::OrderIsWhole, format!("order {id} was paid, and {:?} was taken after it", add.command()));
        }
    }

    /// Whether one of the checkouts that were asked for in time can have paid the order.
    fn check_refusals(&self, id: &str, verdict: &mut Verdict) {
        let shown_us = self.looks.iter().filter(|look| shown(look).is_some_and(|it| it.paid)).map(|look| look.end_us);
        // Where it is only known at the end, all were in time.
        let known_us = shown_us.chain(self.paid_us()).min().unwrap_or(u64::MAX);
        let in_time = || self.checkouts.iter().filter(|it| it.start_us <= known_us);
        verdict.unless(in_time().any(|it| self.may_have_paid(it)), Rule::RefusalIsKept, || {
            let told: Vec<_> = in_time().map(|it| (it.reply.status.unwrap_or(0), it.reply.saga())).collect();
            format!("order {id} is paid, and all checkouts that can have paid it were refused or undone: {told:?}")
        });
    }

    /// Whether this request can have begun the saga that paid the order, or joined it.
    fn may_have_paid(&self, request: &Exchange) -> bool {
        match request.reply.meaning() {
            Meaning::Done | Meaning::Wrong => true,
            Meaning::Refused | Meaning::NotStarted => false,
            Meaning::Unknown => !self.checkouts.iter().any(|it| self.tells_undone(it, request)),
        }
    }

    /// Whether this refusal tells that the saga is undone which `request` was told to go on. (A request that was told of no saga may still be on its
    /// way to the order service, and begin one at any time.)
    fn tells_undone(&self, refusal: &Exchange, request: &Exchange) -> bool {
        let problem = refusal.reply.problem.as_deref().unwrap_or_default();
        let is_refusal = refusal.reply.meaning() == Meaning::Refused && UNDONE.contains(&problem);
        let Some(goes_on) = request.reply.saga().filter(|_| is_refusal) else { return false };
        match refusal.reply.saga() {
            Some(undone) => goes_on.is_undone_with(undone),
            // It does not say which. But it was open, and the order not paid, when it was asked for or later: so whatever was under way before
            // is undone with it, or was already. A key is answered with what became of its first request.
            None => {
                let of_its_key = self.checkouts.iter().filter(|it| it.key.is_some() && it.key == refusal.key);
                let asked_us = of_its_key.map(|it| it.start_us).chain([refusal.start_us]).min();
                asked_us.is_some_and(|asked_us| request.end_us < asked_us)
            }
        }
    }

    fn check_looks(&self, id: &str, paid: bool, verdict: &mut Verdict) {
        let told_us = self.paid_us();
        let mut seen_paid_us: Option<u64> = None;
        let mut looks = self.looks.clone();
        looks.sort_by_key(|it| it.end_us);
        let by_end: Vec<_> = looks.iter().filter_map(|look| Some((*look, shown(look)?))).collect();
        for (look, now) in &by_end {
            verdict.count("looks checked", 1);
            self.check_entries_at(id, now.items, look.start_us, look.end_us, verdict);
            if now.paid {
                seen_paid_us = Some(seen_paid_us.map_or(look.end_us, |at| at.min(look.end_us)));
                let asked = self.checkouts.iter().any(|it| it.start_us <= look.end_us);
                verdict.unless(paid && asked, Rule::LooksShowWhatWasTold, || {
                    format!("order {id} was shown as paid, and is not, or nobody had checked it out")
                });
                continue;
            }
            verdict.unless(told_us.is_none_or(|told| look.start_us <= told), Rule::LooksShowWhatWasTold, || {
                format!("order {id} was told as paid, and then shown as not paid (client {})", look.client)
            });
            verdict.unless(seen_paid_us.is_none_or(|at| look.start_us <= at), Rule::NeverBackInTime, || {
                format!("order {id} was shown as paid, and then as not paid (client {})", look.client)
            });
        }
    }
}
