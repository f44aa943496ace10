//! What happened, as the clients saw it: one JSON line for each request with its reply, for each fault, and for what was there at the end.
//!
//! Times are microseconds of one monotonic clock since the run began. A file is written as it happens, so it is whole up to its end
//! whatever becomes of the run, and can be checked again at any time (`checkout chaos --check FILE`).

use std::io::BufRead;

use serde::{Deserialize, Serialize};

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first one: with what the run was started.
    Run {
        /// The seed of faults and load.
        seed: u64,
        /// The flags, in words.
        flags: String,
    },
    /// A request and its reply.
    Exchange(Exchange),
    /// A fault: from when to when, and what it did.
    Fault {
        /// Its kind, like `kill:order`.
        fault: String,
        /// Whom it met.
        target: String,
        /// When it began.
        start_us: u64,
        /// When it was over: the process goes on, the cluster is whole again.
        end_us: u64,
        /// When what was hurt was there again and served.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back_us: Option<u64>,
        /// When every saga was closed that was open then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        closed_us: Option<u64>,
        /// What became of it.
        effect: String,
        /// Whether it hurt nobody: it met nothing, or could not be carried out.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        missed: bool,
    },
    /// From here on nothing is disturbed any more.
    Healed {
        /// When.
        at_us: u64,
    },
    /// What was asked when all was over and should be still.
    Closed {
        /// When.
        at_us: u64,
        /// Sagas that were open then; nothing where nobody could say so, which is no better.
        open_sagas: Option<u64>,
        /// How long after the last fault and the last reply they may be open, in microseconds.
        limit_us: u64,
        /// What else was found wrong with the platform, in words.
        findings: Vec<String>,
    },
    /// What was there at the end.
    Final(Thing),
}

/// A request, and what came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Who asked.
    pub client: u32,
    /// For what.
    pub command: Command,
    /// The `Idempotency-Key`, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was sent.
    pub start_us: u64,
    /// When the reply was there, or nobody waited for it any more.
    pub end_us: u64,
    /// The reply.
    pub reply: Reply,
}

impl Exchange {
    /// Whether it is a checkout that was told its end, whatever that is. To be turned away for overload is none: nothing was begun.
    #[must_use]
    pub fn is_checkout_with_an_end(&self) -> bool {
        let is_definite =
            matches!(self.reply.meaning(), Meaning::Done | Meaning::Refused) && !self.reply.is_turned_away();
        is_definite && matches!(self.command, Command::Checkout { .. })
    }
}

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// A new user, without credit.
    CreateUser,
    /// A new item, without stock.
    CreateItem {
        /// What one piece costs.
        price: u64,
    },
    /// A new order, without entries.
    CreateOrder {
        /// Who will pay.
        user: String,
    },
    /// An entry for an order.
    AddItem {
        /// The order.
        order: String,
        /// The item.
        item: String,
        /// How many.
        quantity: u64,
    },
    /// The checkout.
    Checkout {
        /// The order.
        order: String,
    },
    /// More credit.
    AddFunds {
        /// For whom.
        user: String,
        /// How much.
        amount: u64,
    },
    /// Less credit.
    Pay {
        /// Whose.
        user: String,
        /// How much.
        amount: u64,
    },
    /// More stock.
    AddStock {
        /// Of what.
        item: String,
        /// How many.
        pieces: u64,
    },
    /// Less stock.
    SubtractStock {
        /// Of what.
        item: String,
        /// How many.
        pieces: u64,
    },
    /// A look at a user.
    FindUser {
        /// Whom.
        user: String,
    },
    /// A look at an item.
    FindItem {
        /// Which.
        item: String,
    },
    /// A look at an order.
    FindOrder {
        /// Which.
        order: String,
    },
}

impl Command {
    /// Its name in tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateUser => "create user",
            Self::CreateItem { .. } => "create item",
            Self::CreateOrder { .. } => "create order",
            Self::AddItem { .. } => "add item",
            Self::Checkout { .. } => "checkout",
            Self::AddFunds { .. } => "add funds",
            Self::Pay { .. } => "pay",
            Self::AddStock { .. } => "add stock",
            Self::SubtractStock { .. } => "subtract stock",
            Self::FindUser { .. } => "find user",
            Self::FindItem { .. } => "find item",
            Self::FindOrder { .. } => "find order",
        }
    }

    /// Whether it only looks.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self, Self::FindUser { .. } | Self::FindItem { .. } | Self::FindOrder { .. })
    }
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The HTTP status; none where no whole reply came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why no reply came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// The last part of the problem's type, like `out-of-stock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Where to look what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Which saga a problem is about: the one that was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What it said, of a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// There was no connection on which the request could have been sent.
    NotSent,
    /// The connection broke.
    Broken,
    /// The client waited long enough.
    TimedOut,
}

/// The content of a successful reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The id of what was created.
    Id(String),
    /// What was looked at.
    Thing(Thing),
    /// A sentence.
    Text(String),
}

/// A user, an item or an order, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Thing {
    /// A user.
    User {
        /// Who.
        user: String,
        /// May be negative, so that it can be seen when it is.
        credit: i64,
    },
    /// An item.
    Item {
        /// Which.
        item: String,
        /// Likewise.
        stock: i64,
        /// What one piece costs.
        price: i64,
    },
    /// An order.
    Order {
        /// Which.
        order: String,
        /// Who pays.
        user: String,
        /// Items and quantities, as added.
        items: Vec<(String, i64)>,
        /// What all of it costs.
        total: i64,
        /// Whether it is paid.
        paid: bool,
    },
    /// Something that was created, and is gone.
    Gone {
        /// What it was.
        id: String,
    },
}

/// What a reply means for whoever got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Meaning {
    /// 2xx: it is done.
    Done,
    /// 4xx: it is not done and will not be.
    Refused,
    /// 503, or no connection: nothing was started.
    NotStarted,
    /// 202, 502, 504, a connection that broke, no reply in time: done or not, but not by half.
    Unknown,
    /// What the contract does not know.
    Wrong,
}

impl Reply {
    /// Whether it says that there is too much under way, and nothing was begun.
    #[must_use]
    pub fn is_turned_away(&self) -> bool {
        self.status == Some(429)
    }

    /// What it means.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        match (self.status, self.lost) {
            (Some(202 | 502 | 504), _) => Meaning::Unknown,
            (Some(200..300), _) => Meaning::Done,
            (Some(400..500), _) => Meaning::Refused,
            (Some(503), _) | (None, Some(Lost::NotSent)) => Meaning::NotStarted,
            (Some(_), _) => Meaning::Wrong,
            (None, _) => Meaning::Unknown,
        }
    }

    /// The saga that it names: the one that goes on, or the one that was undone.
    #[must_use]
    pub fn saga(&self) -> Option<Attempt<'_>> {
        let places = [&self.location, &self.instance];
        places.into_iter().flatten().find_map(|place| Attempt::of_place(place))
    }
}

/// A saga, by its id: which attempt to check out which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Order and incarnation.
    pub order: &'a str,
    /// How many attempts had failed before it.
    pub number: u64,
}

impl<'a> Attempt<'a> {
    /// The saga whose place this is, if it is that of one.
    fn of_place(place: &'a str) -> Option<Self> {
        let (_, saga) = place.split_once("/orders/saga/")?;
        let (order, number) = saga.rsplit_once('.')?;
        Some(Self { order, number: number.parse().ok()? })
    }

    /// Whether this one is certainly undone when the other one is: an order's next attempt begins when the last one has failed.
    #[must_use]
    pub fn is_undone_with(self, other: Self) -> bool {
        self.order == other.order && self.number <= other.number
    }
}

/// Everything that happened.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All requests with their replies, in the order in which the replies came.
    pub exchanges: Vec<Exchange>,
    /// What was there at the end.
    pub last: Vec<Thing>,
    /// When the faults were over.
    pub healed_us: Option<u64>,
    /// What was found when all was over: when, open sagas, how long they may be open, and further findings.
    pub closed: Option<(u64, Option<u64>, u64, Vec<String>)>,
}

impl History {
    /// Takes in one more line.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Run { .. } | Line::Fault { .. } => {}
            Line::Exchange(exchange) => self.exchanges.push(exchange),
            Line::Healed { at_us } => self.healed_us = Some(at_us),
            Line::Closed { at_us, open_sagas, limit_us, findings } => {
                self.closed = Some((at_us, open_sagas, limit_us, findings));
            }
            Line::Final(thing) => self.last.push(thing),
        }
    }

    /// Reads a history file.
    ///
    /// # Errors
    /// It cannot be read, or a line of it is none; the number of the line is said.
    pub fn read(lines: impl BufRead) -> Result<Self, String> {
        let mut history = Self::default();
        for (number, line) in lines.lines().enumerate() {
            let at = |why: String| format!("line {}: {why}", number + 1);
            let line = line.map_err(|error| at(error.to_string()))?;
            if !line.trim().is_empty() {
                history.add(serde_json::from_str(&line).map_err(|error| at(error.to_string()))?);
            }
        }
        Ok(history)
    }
}
