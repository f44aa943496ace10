//! Prices, asked of stock over NATS and remembered where they never change.

use std::sync::Arc;
use std::time::Duration;

use common::amount::Amount;
use common::id::ItemId;
use common::problem::{Code, Problem};
use nats::Broker;
use quick_cache::sync::Cache;
use tokio::time::Instant;

/// Asks for prices. Cheap to clone.
#[derive(Clone)]
pub struct Prices {
    broker: Broker,
    remembered: Arc<Cache<ItemId, Amount>>,
}

/// The price of an item never changes, with one exception: `batch_init` replaces the items that it had numbered before. So
/// only items with other ids are remembered.
fn never_changes(item: &ItemId) -> bool {
    !item.as_str().bytes().all(|b| b.is_ascii_digit())
}

impl Prices {
    /// Asks through this broker and remembers at most so many prices.
    pub fn new(broker: Broker, entries: usize) -> Self {
        Self { broker, remembered: Arc::new(Cache::new(entries)) }
    }

    /// The price of an item; nothing where there is no such item.
    ///
    /// # Errors
    /// Stock did not answer.
    pub async fn of(&self, item: &ItemId, deadline: Instant) -> Result<Option<Amount>, Problem> {
        if let Some(price) = self.remembered.get(item) {
            return Ok(Some(price));
        }
        let limit = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match self.broker.ask_price(item, limit).await {
            Ok(Some(price)) => {
                if never_changes(item) {
                    self.remembered.insert(item.clone(), price);
                }
                Ok(Some(price))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                Err(Problem::new(Code::Unavailable, format!("the price of item {item} is not to be had: {error}")))
            }
        }
    }
}
