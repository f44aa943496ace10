//! One visit, request by request.

use std::time::Duration;

use futures::future::join_all;

use crate::chaos::shopper::{PATIENCE, Shopper};
use crate::chaos::workload::{Errand, Goods, Payer, Purchase, Visit};
use crate::checker::history::{Command, Meaning, Reply, Said};

/// Between two tries of the same request.
const PAUSE: Duration = Duration::from_millis(250);
/// How often a client tries to build its order before it leaves.
const TRIES: u32 = 40;

/// The cast: what was made before the load.
#[derive(Debug, Clone, Default)]
pub struct Cast {
    /// Ids in the order of their making.
    pub rich: Vec<String>,
    /// Likewise.
    pub poor: Vec<String>,
    /// Likewise.
    pub savers: Vec<String>,
    /// Likewise.
    pub plenty: Vec<String>,
    /// The one that everybody wants.
    pub hot: String,
    /// Likewise.
    pub scarce: Vec<String>,
    /// Likewise.
    pub depots: Vec<String>,
}

impl Cast {
    fn user(&self, payer: Payer) -> String {
        match payer {
            Payer::Rich(number) => self.rich[number % self.rich.len()].clone(),
            Payer::Poor(number) => self.poor[number % self.poor.len()].clone(),
            Payer::Saver(number) => self.savers[number % self.savers.len()].clone(),
            Payer::Nobody => "nobody".to_owned(),
        }
    }

    fn item(&self, goods: Goods) -> String {
        match goods {
            Goods::Plenty(number) => self.plenty[number % self.plenty.len()].clone(),
            Goods::Hot => self.hot.clone(),
            Goods::Scarce(number) => self.scarce[number % self.scarce.len()].clone(),
            Goods::Depot(number) => self.depots[number % self.depots.len()].clone(),
        }
    }
}

/// A client on its visit.
#[derive(Debug)]
pub struct Guest<'a> {
    /// How it asks.
    pub shopper: &'a Shopper,
    /// Who it is.
    pub client: u32,
    /// The beginning of all keys of this visit.
    pub keys: String,
}

impl Guest<'_> {
    async fn ask(&self, command: Command, key: Option<&str>) -> Reply {
        self.shopper.ask(self.client, command, key, PATIENCE).await
    }

    /// Asks with one key until there is a definite answer, and returns it if it is a success.
    pub async fn insist(&self, command: &Command, key: &str) -> Option<Reply> {
        for _ in 0..TRIES {
            let reply = self.ask(command.clone(), Some(key)).await;
            let is_in_use = reply.problem.as_deref() == Some("idempotency-key-in-use");
            match reply.meaning() {
                Meaning::Done => return Some(reply),
                Meaning::Refused if !is_in_use && !reply.is_turned_away() => return None,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        None
    }

    /// The id of what this command creates.
    pub async fn create(&self, command: &Command, name: &str) -> Option<String> {
        match self.insist(command, &format!("{}-{name}", self.keys)).await?.said {
            Some(Said::Id(id)) => Some(id),
            _ => None,
        }
    }

    /// Does all of a visit.
    pub async fn go(&self, visit: &Visit, cast: &Cast) {
        match &visit.errand {
            Errand::Buy(purchase) => drop(self.buy(purchase, cast).await),
            Errand::Credit { user, amount, with_key } => {
                let (user, size) = (cast.user(*user), amount.unsigned_abs());
                let command = match amount {
                    0.. => Command::AddFunds { user: user.clone(), amount: size },
                    _ => Command::Pay { user: user.clone(), amount: size },
                };
                self.change(command, *with_key).await;
                self.ask(Command::FindUser { user }, None).await;
            }
            Errand::Stock { item, pieces, with_key } => {
                let (item, size) = (cast.item(*item), pieces.unsigned_abs());
                let command = match pieces {
                    0.. => Command::AddStock { item: item.clone(), pieces: size },
                    _ => Command::SubtractStock { item: item.clone(), pieces: size },
                };
                self.change(command, *with_key).await;
                self.ask(Command::FindItem { item }, None).await;
            }
            Errand::Look { user, item, times } => {
                for _ in 0..*times {
                    self.ask(Command::FindUser { user: cast.user(*user) }, None).await;
                    self.ask(Command::FindItem { item: cast.item(*item) }, None).await;
                }
            }
        }
    }

    /// Without a key once, whatever comes of it; with a key as often as was drawn, and until it is clear what became of it.
    async fn change(&self, command: Command, with_key: Option<u8>) {
        let Some(times) = with_key else {
            self.ask(command, None).await;
            return;
        };
        let key = format!("{}-change", self.keys);
        for _ in 0..times {
            self.insist(&command, &key).await;
        }
    }

    async fn buy(&self, purchase: &Purchase, cast: &Cast) -> Option<()> {
        let user = cast.user(purchase.user);
        let order = self.create(&Command::CreateOrder { user: user.clone() }, "order").await?;
        for (number, (goods, quantity)) in purchase.entries.iter().enumerate() {
            let add = Command::AddItem { order: order.clone(), item: cast.item(*goods), quantity: *quantity };
            self.insist(&add, &format!("{}-entry-{number}", self.keys)).await?;
        }
        let first = self.check_out(purchase, &order).await;
        self.ask(Command::FindOrder { order: order.clone() }, None).await;
        self.ask(Command::FindUser { user: user.clone() }, None).await;
        if purchase.tops_up && first == Some(Meaning::Refused) {
            let funds = Command::AddFunds { user: user.clone(), amount: 60 };
            self.insist(&funds, &format!("{}-funds", self.keys)).await;
            self.ask(Command::Checkout { order: order.clone() }, None).await;
            self.ask(Command::FindOrder { order: order.clone() }, None).await;
        }
        for _ in 0..purchase.again {
            // The key of the first one, so that its answer must come back.
            let key = purchase.with_key.then(|| format!("{}-checkout-0", self.keys));
            self.ask(Command::Checkout { order: order.clone() }, key.as_deref()).await;
            self.ask(Command::FindOrder { order: order.clone() }, None).await;
        }
        Some(())
    }

    /// All checkouts that are sent at once; what the first of them came to in the end.
    async fn check_out(&self, purchase: &Purchase, order: &str) -> Option<Meaning> {
        let one = |number: u8| async move {
            let key = purchase.with_key.then(|| format!("{}-checkout-{number}", self.keys));
            let mut patience = purchase.hangs_up_after.unwrap_or(PATIENCE);
            for _ in 0..TRIES {
                let checkout = Command::Checkout { order: order.to_owned() };
                let reply = self.shopper.ask(self.client, checkout, key.as_deref(), patience).await;
                let meaning = reply.meaning();
                let may_ask_again = meaning == Meaning::NotStarted || reply.is_turned_away();
                if !may_ask_again || purchase.believes {
                    return meaning;
                }
                patience = PATIENCE;
                tokio::time::sleep(PAUSE).await;
            }
            Meaning::NotStarted
        };
        join_all((0..purchase.together).map(one)).await.into_iter().next()
    }
}
