//! A look into NATS beside the services: what is in the streams, and a way to put something there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, consumer::pull};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;

use crate::platform::{Platform, SERVICES};
use crate::wait::{PATIENCE, until};

/// The stream of all events.
pub const CHECKOUT: &str = "CHECKOUT";
/// The stream of what could not be understood.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// How long some messages may take to come. What has not come by then is asked for again.
const BATCH_LIMIT: Duration = Duration::from_secs(15);

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
    /// Its place in the stream.
    pub sequence: u64,
}

impl Stored {
    /// A header's text, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }

    /// Its headers, as an event of another type has them.
    #[must_use]
    pub fn headers_as(&self, subject: &str) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert("ce-type", subject);
        headers
    }

    /// The payload as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The saga that the event is about; empty for a watermark.
    pub fn saga(&self) -> &str {
        self.header("ce-subject")
    }
}

/// A connection to NATS.
#[derive(Debug, Clone)]
pub struct Nats {
    /// The plain client.
    pub client: async_nats::Client,
    /// JetStream.
    pub jetstream: jetstream::Context,
}

impl Nats {
    /// Connects to the platform's server, and again by itself whenever that is restarted.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn of(platform: &Platform) -> Self {
        let options = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .user_and_password("admin".into(), platform.secret("nats-admin"))
            .connection_timeout(PATIENCE)
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        let urls = platform.nats_url().split(',').map(str::parse).collect::<Result<Vec<async_nats::ServerAddr>, _>>();
        let client = options.connect(urls.expect("URLs of NATS servers")).await.expect("NATS answers");
        Self { jetstream: jetstream::new(client.clone()), client }
    }

    /// Everything that a stream holds, oldest first.
    pub async fn messages(&self, stream: &str) -> Vec<Stored> {
        until(&format!("all that {stream} holds"), async || self.read(stream).await).await
    }

    /// The same, or nothing where not all of it came.
    async fn read(&self, stream: &str) -> Option<Vec<Stored>> {
        let stream = self.jetstream.get_stream(stream).await.ok()?;
        let config = pull::Config {
            ack_policy: consumer::AckPolicy::None,
            inactive_threshold: 2 * BATCH_LIMIT,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.ok()?;
        let expected = consumer.cached_info().num_pending;
        let mut all = Vec::new();
        while (all.len() as u64) < expected {
            let fetched =
                async { Some(consumer.fetch().max_messages(1_000).messages().await.ok()?.collect::<Vec<_>>().await) };
            let batch = tokio::time::timeout(BATCH_LIMIT, fetched).await.ok()??;
            if batch.is_empty() {
                return None;
            }
            for message in batch {
                let message = message.ok()?;
                let sequence = message.info().expect("a place in the stream").stream_sequence;
                let message = message.split().0;
                all.push(Stored {
                    subject: message.subject.to_string(),
                    headers: message.headers.unwrap_or_default(),
                    payload: message.payload,
                    sequence,
                });
            }
        }
        // It would end by itself, but there may be one for each look.
        let _ = stream.delete_consumer(&consumer.cached_info().name).await;
        Some(all)
    }

    /// All events about sagas, oldest first.
    pub async fn events(&self) -> Vec<Stored> {
        let all = self.messages(CHECKOUT).await;
        all.into_iter().filter(|message| message.subject != "checkout.watermark").collect()
    }

    /// How many events of this kind there are.
    pub async fn count(&self, kind: &str) -> usize {
        self.messages(CHECKOUT).await.iter().filter(|message| message.subject == kind).count()
    }

    /// The distinct ids of the public facts, by saga. A fact may be published again, under the same id.
    pub async fn facts(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut facts = BTreeMap::<String, BTreeSet<String>>::new();
        for event in self.events().await {
            if matches!(event.subject.as_str(), "checkout.completed" | "checkout.failed") {
                facts.entry(event.saga().to_owned()).or_default().insert(event.header("ce-id").to_owned());
            }
        }
        facts
    }

    /// Waits for the dead letter of the event at this place of the stream.
    pub async fn dead_letter_of(&self, sequence: u64) -> Stored {
        let sequence = sequence.to_string();
        let is_it = |letter: &Stored| letter.header("dead-sequence") == sequence;
        until(&format!("the dead letter of {sequence}"), async || {
            self.messages(DEAD_LETTERS).await.into_iter().find(is_it)
        })
        .await
    }

    /// Stores a message, and returns its place in the stream.
    ///
    /// # Panics
    /// The server does not take it.
    pub async fn publish(&self, subject: &str, headers: HeaderMap, payload: impl Into<Bytes>) -> u64 {
        // A second try would be a second message, so the first one is waited for.
        let mut jetstream = self.jetstream.clone();
        jetstream.set_timeout(PATIENCE);
        let sent = jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
        let stored = sent.expect("sent").await;
        stored.unwrap_or_else(|error| panic!("{subject} is not stored: {error}")).sequence
    }

    /// Stores an event again, as it was.
    pub async fn publish_again(&self, event: &Stored) -> u64 {
        self.publish(&event.subject, event.headers.clone(), event.payload.clone()).await
    }

    /// Removes all messages from the stream of events.
    pub async fn purge(&self) {
        until("the stream is purged", async || {
            let stream = self.jetstream.get_stream(CHECKOUT).await.ok()?;
            stream.purge().await.ok()
        })
        .await;
    }

    /// Deletes the stream of events.
    pub async fn delete(&self) {
        until("the stream is deleted", async || self.jetstream.delete_stream(CHECKOUT).await.ok()).await;
    }

    /// Whether every consumer has seen and acknowledged everything.
    pub async fn is_idle(&self) -> bool {
        // An event on its way is always pending or unacknowledged somewhere, because its successor is stored before it is
        // acknowledged. It could move behind our back from a consumer not yet looked at to one looked at already; but a chain has
        // only four such moves, so five rounds cannot all miss it.
        for _ in 0..5 {
            for durable in SERVICES {
                let consumer = self.jetstream.get_consumer_from_stream::<pull::Config, _, _>(durable, CHECKOUT).await;
                let Ok(consumer) = consumer else { return false };
                let info = consumer.cached_info();
                if info.num_pending > 0 || info.num_ack_pending > 0 {
                    return false;
                }
            }
        }
        true
    }
}
