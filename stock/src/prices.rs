//! Prices over NATS request/reply, as a NATS service: no other service reads this one's database.

use std::time::Duration;

use common::id::ItemId;
use nats::Broker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::effect::{self, Effects};

/// Between two tries to register the service, should NATS refuse it.
const RETRY: Duration = Duration::from_secs(1);

/// Answers requests for prices until `stop`.
pub async fn serve(broker: Broker, effects: Effects, limit: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let effects = effects.clone();
        let lookup = move |item: ItemId| {
            let effects = effects.clone();
            async move {
                let reply = effects.run(effect::find_item(&item), Instant::now() + limit).await;
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
