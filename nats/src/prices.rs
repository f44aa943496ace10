//! The price service: request and reply over NATS, as a NATS *micro service*, so that `nats micro ls`, `info` and `stats`
//! show it. Stock answers, order asks; nobody reads another's database.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Request as NatsRequest;
use async_nats::service::error::Error as ServiceError;
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, Request, ServiceExt};
use common::amount::Amount;
use common::id::ItemId;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{ANSWER_PATIENCE, Broker, BrokerError, bounded, request_error};
use crate::message::header_text;
use crate::topology::{PRICE_SERVICE, PRICES_SUBJECT};

/// Requests that one instance answers at once. More wait in the subscription, and their askers have a time limit.
const MAX_CONCURRENT: usize = 256;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    item_id: ItemId,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
struct Price {
    item_id: ItemId,
    price: Amount,
}

/// The item is not known.
const UNKNOWN: usize = 404;
/// The question cannot be read.
const MALFORMED: usize = 400;
/// The answer cannot be looked up now.
const TROUBLE: usize = 503;

fn problem(code: usize, status: impl Into<String>) -> ServiceError {
    ServiceError { code, status: header_text(&status.into()) }
}

impl Broker {
    /// Answers questions for prices with `lookup` until `shutdown`, several at once. All instances share the work.
    ///
    /// # Errors
    /// The service cannot be started, or the connection is closed.
    pub async fn serve_prices<F, Fut>(&self, lookup: F, shutdown: CancellationToken) -> Result<(), BrokerError>
    where
        F: Fn(ItemId) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Amount>, String>> + Send,
    {
        let service = self
            .inner
            .client
            .service_builder()
            .description("prices of items; they never change")
            .start(PRICE_SERVICE, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(request_error("the price service cannot start"))?;
        let mut endpoint = service
            .endpoint_builder()
            .name("prices")
            .add(PRICES_SUBJECT)
            .await
            .map_err(request_error("the price service cannot start"))?;
        let lookup = Arc::new(lookup);
        let places = Arc::new(Semaphore::new(MAX_CONCURRENT));
        let answering = TaskTracker::new();
        loop {
            let next = async {
                // Never closed, so a place always comes free.
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                Some((place, endpoint.next().await?))
            };
            let (place, request) = tokio::select! {
                next = next => match next {
                    Some(next) => next,
                    None => return Err(BrokerError::Request("the connection is closed".to_owned())),
                },
                () = shutdown.cancelled() => break,
            };
            let lookup = Arc::clone(&lookup);
            answering.spawn(async move {
                answer(&request, lookup.as_ref()).await;
                drop(place);
            });
        }
        let _ = bounded(ANSWER_PATIENCE, endpoint.stop()).await;
        let _ = service.stop().await;
        answering.close();
        answering.wait().await;
        Ok(())
    }

    /// Asks for the price of an item. Nothing: there is no such item.
    ///
    /// # Errors
    /// Nobody answered within `timeout`, or the one who did has trouble.
    pub async fn ask_price(&self, item: &ItemId, timeout: Duration) -> Result<Option<Amount>, BrokerError> {
        let question = serde_json::to_vec(&Question { item_id: item.clone() }).map_err(request_error("price"))?;
        let request = NatsRequest::new().payload(question.into()).timeout(Some(timeout));
        // While NATS is away the client's queue may be full, so the sending is under the time limit as well.
        let reply = tokio::time::timeout(timeout, self.inner.client.send_request(PRICES_SUBJECT, request))
            .await
            .map_err(|_| BrokerError::Request(format!("the price service did not answer within {timeout:?}")))?
            .map_err(request_error("the price service did not answer"))?;
        let header = |name| reply.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
        match header(NATS_SERVICE_ERROR_CODE) {
            None => {
                let Price { item_id, price } =
                    serde_json::from_slice(&reply.payload).map_err(request_error("the price service's reply"))?;
                if item_id == *item {
                    Ok(Some(price))
                } else {
                    Err(BrokerError::Request(format!("price of {item_id}?")))
                }
            }
            Some("404") => Ok(None),
            Some(code) => {
                let status = header(NATS_SERVICE_ERROR).unwrap_or_default();
                Err(BrokerError::Request(format!("the price service says {code}: {status}")))
            }
        }
    }
}

async fn answer<F, Fut>(request: &Request, lookup: &F)
where
    F: Fn(ItemId) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Option<Amount>, String>> + Send,
{
    let response = match serde_json::from_slice::<Question>(&request.message.payload) {
        Err(error) => Err(problem(MALFORMED, format!("expected {{\"item_id\":\"…\"}}: {error}"))),
        Ok(Question { item_id }) => match lookup(item_id.clone()).await {
            Ok(Some(price)) => serde_json::to_vec(&Price { item_id, price })
                .map(bytes::Bytes::from)
                .map_err(|error| problem(TROUBLE, error.to_string())),
            Ok(None) => Err(problem(UNKNOWN, format!("no item {item_id}"))),
            Err(trouble) => Err(problem(TROUBLE, trouble)),
        },
    };
    // While NATS is away the client's queue may be full; whoever asked has given up by then.
    if let Some(Err(error)) = bounded(ANSWER_PATIENCE, request.respond(response)).await {
        tracing::debug!(%error, "price not answered");
    }
}
