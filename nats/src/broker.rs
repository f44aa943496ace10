//! The connection to NATS, shared by everything in a process.

use std::fmt;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions, Event as ClientEvent, ServerAddr, Subscriber};
use bytes::Bytes;
use common::settings::{WrongSetting, without_secrets};
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::access::inbox_prefix;
use crate::fast_ingest::FastIngest;
use crate::message::Template;
use crate::outage::{Outage, pause};
use crate::publish::Counters;
use crate::topology::Limits;

/// How long the server may take to confirm that a message is stored, if nothing else is said ([`Waits`]). A healthy server takes
/// milliseconds; what is not confirmed by then is sent again. In a cluster nobody confirms what the leader had in hand when it died.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// How long the server may take to describe a stream or a durable, or to make one. Shorter, because in a cluster nobody answers for the
/// four to nine seconds in which a new leader is chosen, and who still waits for an answer then learns of its end late.
const QUESTION_PATIENCE: Duration = Duration::from_secs(2);

/// How long the server may take to answer, before it is asked again or trouble is told. Short, as here by default, where services must go on
/// when a node of a cluster dies. Long for those who would rather know: what is sent again because its confirmation was late is stored twice.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// To confirm that a message is stored, or to give one.
    pub answer: Duration,
    /// To describe a stream or a durable, or to make one.
    pub question: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { answer: ANSWER_PATIENCE, question: QUESTION_PATIENCE }
    }
}

/// Messages that may be sent but not confirmed at once. Far above what full batches of one process need, so it is never
/// the brake; those are the batches in flight and the HTTP server's own limits.
const MAX_UNCONFIRMED: usize = 32_768;

/// Silence after which the client asks whether the server is still there. Two unanswered questions end the connection, so
/// a server that vanished without a word is noticed within half a minute.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long connecting and the handshake may take before the next address is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// Commands that may wait for the connection's task. A full batch of messages and its acknowledgements fit, so that a
/// producer seldom has to sleep in the middle of one.
const COMMAND_QUEUE: usize = 4_096;

/// How long a fire-and-forget message may wait for a place in the command queue.
const NOTIFY_PATIENCE: Duration = Duration::from_secs(1);

/// How long a process that ends waits at most for the server to have read what was sent. Longer than a healthy server ever takes; one
/// that stands still must not keep the process from ending.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);

/// Longest subject that is accepted as an inbox. The client makes 29 characters.
const MAX_INBOX_BYTES: usize = 128;

/// What can go wrong between this process and NATS.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address cannot be read.
    #[error("{0:?} is not a NATS address: {1}")]
    Address(String, std::io::Error),
    /// No server answered in time.
    #[error("no NATS server at {urls} within {patience:?}: {why}")]
    Unreachable {
        /// The addresses tried.
        urls: String,
        /// How long.
        patience: Duration,
        /// What the last try said.
        why: String,
    },
    /// A stream or durable is not as it must be and cannot be changed in place.
    #[error("{0}")]
    Drift(String),
    /// Not all messages were confirmed before the deadline or the shutdown. Some of them may be stored.
    #[error("gave up: {missing} message(s) are not confirmed as stored")]
    GaveUp {
        /// How many.
        missing: usize,
    },
    /// The message can never be stored: it does not fit, or it has no JSON form.
    #[error("message number {index} of {subject} cannot be published: {why}")]
    Unfit {
        /// Its place in what was to be published.
        index: usize,
        /// Its subject.
        subject: &'static str,
        /// Why.
        why: String,
    },
    /// The stream of dead letters does not take one: it is full.
    #[error("{subject} is refused: {why}")]
    Refused {
        /// The subject.
        subject: &'static str,
        /// Why.
        why: String,
    },
    /// A request was not answered, or refused, or answered with trouble.
    #[error("{0}")]
    Request(String),
}

/// The connection as the client's events tell it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    /// How often it was lost. Whoever waits for an answer when this changes waits in vain.
    pub lost: u64,
    /// The last trouble, for the message of a first connection that fails.
    trouble: Option<String>,
}

pub(crate) struct Inner {
    pub client: Client,
    pub jetstream: Context,
    /// The headers of its events.
    pub template: Template,
    pub link: watch::Receiver<Link>,
    /// Cancelled by [`Broker::close`]: nobody retries any more.
    pub closing: CancellationToken,
    /// Held while streams and durables are checked, so that a hundred publishers who miss a stream do it once.
    pub checking: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    /// Whether everything has been there once: a stream that is missing after that was deleted.
    pub was_complete: AtomicBool,
    pub limits: Mutex<Limits>,
    pub waits: Waits,
    pub counters: Counters,
    pub batches: FastIngest,
    /// Trouble with publishing, met by all requests in hand at once and told once.
    pub publishing: Outage,
}

/// The connection to NATS. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

/// Bytes for a waiting process; what they mean is the caller's business.
pub type Notification = Bytes;

/// A subject of this process alone. The client subscribes again by itself after a reconnect; what was sent while the
/// connection was down is lost, so a slow poll must stand behind every wait.
#[derive(Debug)]
pub struct Inbox {
    subject: String,
    subscriber: Subscriber,
}

impl Inbox {
    /// Where others send to.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The next notification; nothing when the connection is closed for good.
    pub async fn next(&mut self) -> Option<Notification> {
        self.subscriber.next().await.map(|message| message.payload)
    }
}

/// Reads addresses that are separated by commas.
///
/// # Errors
/// The first that is none.
fn addresses(urls: &str) -> Result<Vec<ServerAddr>, BrokerError> {
    let address = |url: &str| url.trim().parse().map_err(|error| BrokerError::Address(without_secrets(url), error));
    urls.split(',').map(address).collect()
}

/// The first login that stands in an address.
fn login(addresses: &[ServerAddr]) -> Option<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    addresses.iter().find_map(|address| Some((decoded(address.username()?), decoded(address.password()?))))
}

/// Addresses in which [`without_secrets`] has put a mark in the place of the login, without that mark.
fn without_logins(urls: &str) -> String {
    urls.replace("://***@", "://")
}

/// Whether NATS servers could be at these addresses.
///
/// # Errors
/// One of them is none; the setting is called `NATS_URL`.
pub fn check_urls(urls: &str) -> Result<(), WrongSetting> {
    addresses(urls).map(drop).map_err(|error| WrongSetting::new("NATS_URL", urls, error))
}

impl Broker {
    /// Connects to one of `urls` (comma separated) as an instance of a service. The connection has the instance's name; its events have
    /// the service as their source, because their ids are derived: whichever instance says the same again says the same event.
    /// Waits until connected; from then on the client reconnects by itself for ever.
    ///
    /// Install the metrics recorder before: the counters are bound here, once.
    ///
    /// # Errors
    /// An address is malformed, or no server could be reached within `patience`.
    pub async fn connect(urls: &str, service: &str, instance: &str, patience: Duration) -> Result<Self, BrokerError> {
        Self::connect_waiting(urls, service, instance, patience, Waits::default()).await
    }

    /// The same for one who waits otherwise for answers.
    ///
    /// # Errors
    /// As [`Broker::connect`].
    pub async fn connect_waiting(
        urls: &str,
        service: &str,
        instance: &str,
        patience: Duration,
        waits: Waits,
    ) -> Result<Self, BrokerError> {
        let addresses = self::addresses(urls)?;
        let urls = without_secrets(urls);
        let (link_sender, link) = watch::channel(Link::default());
        let mut options = ConnectOptions::new();
        // Apart from the addresses: the client logs those, and hears of further servers of a cluster that have no login in theirs.
        let login = login(&addresses);
        let addresses = self::addresses(&without_logins(&urls))?;
        if let Some((user, password)) = login {
            options = options.user_and_password(user, password);
        }
        let client = options
            .name(instance)
            .custom_inbox_prefix(inbox_prefix(service))
            // A server that comes up after us is the normal case when everything starts at once.
            .retry_on_initial_connect()
            // The default grows to four seconds, which everybody would wait after a restart of the server.
            .reconnect_delay_callback(|attempts| pause(u32::try_from(attempts).unwrap_or(u32::MAX)))
            .connection_timeout(CONNECT_PATIENCE)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(waits.answer))
            .client_capacity(COMMAND_QUEUE)
            // Every subject here is a constant, made by the client or the server, or checked in `notify`.
            .skip_subject_validation(true)
            .event_callback(move |event| {
                follow(&link_sender, &event);
                std::future::ready(())
            })
            .connect(addresses)
            .await
            .map_err(|error| BrokerError::Unreachable { urls: urls.clone(), patience, why: error.to_string() })?;
        let jetstream = ContextBuilder::new()
            .timeout(waits.question)
            .ack_timeout(waits.answer)
            .max_ack_inflight(MAX_UNCONFIRMED)
            .build(client.clone());
        let broker = Self {
            inner: Arc::new(Inner {
                batches: FastIngest::start(client.clone(), link.clone(), waits.answer),
                client,
                jetstream,
                template: Template::new(&format!("/checkout/{service}"), instance),
                link,
                closing: CancellationToken::new(),
                checking: tokio::sync::Mutex::new(None),
                was_complete: AtomicBool::new(false),
                limits: Mutex::new(Limits::default()),
                waits,
                counters: Counters::new(),
                publishing: Outage::new("publishing to NATS"),
            }),
        };
        if tokio::time::timeout(patience, broker.connected()).await.is_err() {
            let why = broker.inner.link.borrow().trouble.clone().unwrap_or_else(|| "no answer".to_owned());
            return Err(BrokerError::Unreachable { urls, patience, why });
        }
        Ok(broker)
    }

    /// Whether the connection is up now.
    pub fn is_connected(&self) -> bool {
        self.inner.client.connection_state() == State::Connected
    }

    /// Waits until the connection is up.
    pub(crate) async fn connected(&self) {
        if self.is_connected() {
            return;
        }
        let mut link = self.inner.link.clone();
        link.mark_unchanged();
        while !self.is_connected() {
            let changed = async {
                if link.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            // The client drops events when too many happen at once, so its word is not waited for alone.
            let _ = bounded(Duration::from_millis(100), changed).await;
        }
    }

    /// Waits until the connection has been lost since `lost` was read from the link.
    pub(crate) async fn disconnected(&self, lost: u64) {
        let mut link = self.inner.link.clone();
        if link.wait_for(|link| link.lost != lost).await.is_err() {
            std::future::pending().await
        }
    }

    pub(crate) fn times_lost(&self) -> u64 {
        self.inner.link.borrow().lost
    }

    pub(crate) fn limits(&self) -> Limits {
        self.inner.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a subject of this process alone. One per process is enough.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn inbox(&self) -> Result<Inbox, BrokerError> {
        let subject = self.inner.client.new_inbox();
        let subscriber = self.inner.client.subscribe(subject.clone()).await.map_err(request_error("subscribe"))?;
        Ok(Inbox { subject, subscriber })
    }

    /// Tells the process behind `inbox`, if it is still there. Fire and forget: what is lost costs that process a poll.
    pub async fn notify(&self, inbox: &str, payload: Bytes) {
        if !is_inbox(inbox) {
            tracing::error!(inbox = inbox.escape_debug().take(MAX_INBOX_BYTES).collect::<String>(), "not an inbox");
            return;
        }
        if !self.is_connected() {
            tracing::debug!(inbox, "not notified: NATS is away");
            return;
        }
        match bounded(NOTIFY_PATIENCE, self.inner.client.publish(inbox.to_owned(), payload)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(inbox, %error, "not notified"),
            None => tracing::debug!(inbox, "not notified: the connection is busy or gone"),
        }
    }

    /// Makes sure that the server has processed everything that was sent before: its echo comes back on the same
    /// connection, behind it. Without this a process that ends may take acknowledgements with it, because a socket that is
    /// closed with unread input is reset and the server drops what it had not read yet.
    pub(crate) async fn settled(&self, limit: Duration) -> bool {
        let client = &self.inner.client;
        let echo = async {
            let inbox = client.new_inbox();
            let mut subscriber = client.subscribe(inbox.clone()).await.ok()?;
            client.publish(inbox, Bytes::new()).await.ok()?;
            subscriber.next().await
        };
        matches!(bounded(limit, echo).await, Some(Some(_)))
    }

    /// Ends all retries, waits until the server has what was sent, and closes the connection; at most `limit`, also when
    /// the server is gone.
    pub async fn close(&self, limit: Duration) {
        self.inner.closing.cancel();
        if !self.is_connected() {
            tracing::warn!("NATS is away: closed without a farewell");
            return;
        }
        if !self.settled(limit.min(FAREWELL_PATIENCE)).await {
            tracing::warn!("NATS did not answer the farewell in time");
        }
        let _ = bounded(Duration::from_millis(100), self.inner.client.drain()).await;
    }
}

/// The future's result, if it comes in time.
pub(crate) async fn bounded<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Turns a client's error into ours.
pub(crate) fn request_error<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> BrokerError {
    move |error| BrokerError::Request(format!("{what}: {error}"))
}

/// Only subjects as the client makes them: never a stream's, never the server's own, no wildcard, no white space. The text
/// comes back from a database, and a wrong one would break the protocol line it is written into.
fn is_inbox(subject: &str) -> bool {
    let token =
        |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    subject.len() <= MAX_INBOX_BYTES && subject.strip_prefix("_INBOX.").is_some_and(|rest| rest.split('.').all(token))
}

/// Follows the connection, and says once per outage that it began and ended.
fn follow(link: &watch::Sender<Link>, event: &ClientEvent) {
    match event {
        ClientEvent::Connected => {
            let lost = link.borrow().lost;
            if lost > 0 {
                tracing::info!("connected to NATS again");
            } else {
                tracing::debug!("connected to NATS");
            }
            link.send_modify(|link| link.trouble = None);
        }
        ClientEvent::Disconnected => {
            tracing::warn!("connection to NATS lost; reconnecting");
            link.send_modify(|link| link.lost += 1);
        }
        ClientEvent::ServerError(error) => {
            tracing::error!(%error, "NATS says");
            link.send_modify(|link| link.trouble = Some(error.to_string()));
        }
        ClientEvent::SlowConsumer(subscription) => {
            tracing::error!(subscription, "messages dropped: this process does not read them fast enough");
        }
        ClientEvent::ClientError(error) => link.send_modify(|link| link.trouble = Some(error.to_string())),
        ClientEvent::LameDuckMode => tracing::info!("the NATS server is about to stop"),
        ClientEvent::Draining | ClientEvent::Closed => tracing::debug!(%event, "NATS connection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inboxes_are_notified() {
        assert!(is_inbox("_INBOX.7yLbYhTvFZ3nJ4mXQ0hNcA"));
        assert!(is_inbox("_INBOX.a-b.c_d"));
        for bad in ["", "_INBOX", "_INBOX.", "_INBOX.a.", "_INBOX.*", "_INBOX.>", "_INBOX.a b", "_INBOX.a\r\nPUB x 0"] {
            assert!(!is_inbox(bad), "{bad:?}");
        }
        assert!(!is_inbox("checkout.completed"));
        assert!(!is_inbox("$JS.API.STREAM.DELETE.CHECKOUT"));
        assert!(!is_inbox(&format!("_INBOX.{}", "x".repeat(MAX_INBOX_BYTES))));
    }
}
