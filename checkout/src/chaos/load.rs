//! Open-loop load: visits arrive by schedule, not when an earlier one is over, so that a platform that stands still is not spared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chaos::shopper::Shopper;
use crate::chaos::visit::{Cast, Guest};
use crate::chaos::workload::{DEPOTS, PLENTY, POOR, RICH, SAVERS, SCARCE, Visits};
use crate::checker::history::Command;
use crate::failure::Failure;

/// The client that makes the cast.
const MAKER: u32 = 0;
/// Credit of those who have credit for everything, and stock of what there is plenty of.
const MUCH: u64 = 1_000_000_000;

/// Counts of a load under way.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Visits that have arrived.
    pub arrived: AtomicU64,
    /// Visits that have ended.
    pub ended: AtomicU64,
    /// Visits that were not let in, because too many were there already.
    pub turned_back: AtomicU64,
}

impl Arrivals {
    /// Visits that are there now.
    #[must_use]
    pub fn present(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed).saturating_sub(self.ended.load(Ordering::Relaxed))
    }
}

/// Makes users and items.
///
/// # Errors
/// The platform does not let us, long enough.
pub async fn make_cast(shopper: &Shopper, keys: &str) -> Result<Cast, Failure> {
    let guest = Guest { shopper, client: MAKER, keys: format!("{keys}-cast") };
    let mut number = 0_u32;
    let mut name = || {
        number += 1;
        number.to_string()
    };
    let missing = || Failure::failed("the platform does not let us make users and items");
    let user = async |name: String, credit: u64| {
        let user = guest.create(&Command::CreateUser, &name).await?;
        if credit > 0 {
            let funds = Command::AddFunds { user: user.clone(), amount: credit };
            guest.insist(&funds, &format!("{}-{name}-funds", guest.keys)).await?;
        }
        Some(user)
    };
    let item = async |name: String, price: u64, pieces: u64| {
        let item = guest.create(&Command::CreateItem { price }, &name).await?;
        let stock = Command::AddStock { item: item.clone(), pieces };
        guest.insist(&stock, &format!("{}-{name}-stock", guest.keys)).await?;
        Some(item)
    };
    let mut cast = Cast::default();
    for _ in 0..RICH {
        cast.rich.push(user(name(), MUCH).await.ok_or_else(missing)?);
    }
    for number in 0..POOR {
        cast.poor.push(user(name(), 30 + 20 * number as u64).await.ok_or_else(missing)?);
    }
    for _ in 0..SAVERS {
        cast.savers.push(user(name(), 0).await.ok_or_else(missing)?);
    }
    for number in 0..PLENTY {
        cast.plenty.push(item(name(), 1 + number as u64, MUCH).await.ok_or_else(missing)?);
    }
    cast.hot = item(name(), 2, MUCH).await.ok_or_else(missing)?;
    for _ in 0..SCARCE {
        cast.scarce.push(item(name(), 3, 25).await.ok_or_else(missing)?);
    }
    for _ in 0..DEPOTS {
        cast.depots.push(item(name(), 4, 1).await.ok_or_else(missing)?);
    }
    Ok(cast)
}

/// What a load is.
#[derive(Debug)]
pub struct Load {
    /// Draws the visits.
    pub visits: Visits,
    /// How it asks.
    pub shopper: Shopper,
    /// With whom and what.
    pub cast: Arc<Cast>,
    /// The beginning of all keys.
    pub keys: String,
    /// Most visits at once.
    pub most: u64,
    /// What others may see of it.
    pub arrivals: Arc<Arrivals>,
}

impl Load {
    /// Lets visits arrive until told to stop, and then waits for those that are there.
    pub async fn run(self, stop: CancellationToken) {
        let began = Instant::now();
        let mut present = JoinSet::new();
        for (number, visit) in self.visits.enumerate() {
            tokio::select! {
                () = tokio::time::sleep_until(began + visit.at) => {}
                () = stop.cancelled() => break,
            }
            while present.try_join_next().is_some() {}
            if self.arrivals.present() >= self.most {
                self.arrivals.turned_back.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.arrivals.arrived.fetch_add(1, Ordering::Relaxed);
            let (shopper, cast, arrivals) = (self.shopper.clone(), self.cast.clone(), self.arrivals.clone());
            let keys = format!("{}-{number}", self.keys);
            present.spawn(async move {
                Guest { shopper: &shopper, client: visit.client, keys }.go(&visit, &cast).await;
                arrivals.ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        while present.join_next().await.is_some() {}
    }
}

/// Longest that a visit may go on when everything works again: its longest request, and its pauses.
pub const VISIT_ENDS_WITHIN: Duration = Duration::from_secs(180);
