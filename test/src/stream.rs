//! A look into NATS beside the services: what is in the streams, and a way to put something there.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, consumer::pull};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;

use crate::platform::{Platform, SERVICES};
use crate::wait::until;

/// The stream of all events.
pub const CHECKOUT: &str = "CHECKOUT";
/// The stream of what could not be understood.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";

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
            .reconnect_delay_callback(|_| std::time::Duration::from_millis(50));
        let urls = platform.nats_url().split(',').map(str::parse).collect::<Result<Vec<async_nats::ServerAddr>, _>>();
        let client = options.connect(urls.expect("URLs of NATS servers")).await.expect("NATS answers");
        Self { jetstream: jetstream::new(client.clone()), client }
    }

    /// Everything that a stream holds, oldest first.
    pub async fn messages(&self, stream: &str) -> Vec<Stored> {
        let stream = self.jetstream.get_stream(stream).await.expect("the stream is there");
        let config = pull::Config { ack_policy: consumer::AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let expected = consumer.cached_info().num_pending;
        let mut all = Vec::new();
        while (all.len() as u64) < expected {
            let batch = consumer.fetch().max_messages(1_000).messages().await.expect("a batch");
            let batch: Vec<_> = batch.collect().await;
            for message in batch {
                let message = message.expect("a message");
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
        all
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

    /// Waits until there are at least so many dead letters, and returns all.
    pub async fn dead_letters(&self, at_least: usize) -> Vec<Stored> {
        until(&format!("{at_least} dead letters"), async || {
            let letters = self.messages(DEAD_LETTERS).await;
            (letters.len() >= at_least).then_some(letters)
        })
        .await
    }

    /// Stores a message, and returns its place in the stream.
    ///
    /// # Panics
    /// The server does not take it.
    pub async fn publish(&self, subject: &str, headers: HeaderMap, payload: impl Into<Bytes>) -> u64 {
        let sent = self.jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
        let stored = sent.expect("sent").await;
        stored.unwrap_or_else(|error| panic!("{subject} is not stored: {error}")).sequence
    }

    /// Stores an event again, as it was.
    pub async fn publish_again(&self, event: &Stored) -> u64 {
        self.publish(&event.subject, event.headers.clone(), event.payload.clone()).await
    }

    /// Removes all messages from the stream of events.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn purge(&self) {
        let stream = self.jetstream.get_stream(CHECKOUT).await.expect("the stream is there");
        stream.purge().await.expect("purged");
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
