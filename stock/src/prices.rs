//! Prices over NATS request/reply, as a NATS service: no other service reads this one's database.

use std::time::Duration;

use common::id::ItemId;
use common::redis::Database;
use nats::Broker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::effect;

/// Between two tries to register the service, should NATS refuse it.
const RETRY: Duration = Duration::from_secs(1);

/// Answers requests for prices until `stop`.
pub async fn serve(broker: Broker, database: Database, limit: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let database = database.clone();
        let lookup = move |item: ItemId| {
            let database = database.clone();
            async move {
                let reply = database.call(effect::find_item(&item), Some(Instant::now() + limit)).await;
                let found = effect::read_item(&reply.map_err(|error| error.to_string())?);
                found.map(|item| item.map(|item| item.price)).map_err(|error| error.to_string())
            }
        };
        match broker.serve_prices(lookup, stop.clone()).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "the price service ended; starting it again"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => {}
        }
    }
}
