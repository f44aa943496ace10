//! Makes a server look like [`crate::topology`], and says plainly where it did not.

use async_nats::jetstream::consumer::{
    AckPolicy, Config as ConsumerConfig, DeliverPolicy, IntoConsumerConfig as _, ReplayPolicy, pull,
};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{
    Config as StreamConfig, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, ErrorCode};
use common::service::START_PATIENCE;
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, BrokerError, request_error};
use crate::outage::{Outage, pause};
use crate::topology::{
    ADVISORIES, ADVISORY_SUBJECTS, AUDITOR, CHANNELS, CHECKOUT, DEAD_LETTER_SUBJECTS, DEAD_LETTERS, DEAD_LETTERS_LOG,
    DROPPED_SUBJECT, DUPLICATE_WINDOW, Durable, Limits, REDRIVEN_SUBJECT, REVISION, REVISION_KEY, STREAMS,
};

/// How long the first check of a process waits for a server that answers but is not ready. Later checks are repeated by
/// those who need them.
const ENSURE_PATIENCE: Duration = Duration::from_secs(15);

/// How long a process that creates nothing waits for the one that does.
const VERIFY_PATIENCE: Duration = START_PATIENCE;

/// How often the topology is looked at by the one who keeps it, should an advisory be lost.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// What the server says when somebody takes away or changes what is kept.
const NEWS: &[&str] = &[
    "$JS.EVENT.ADVISORY.STREAM.DELETED.>",
    "$JS.EVENT.ADVISORY.STREAM.UPDATED.>",
    "$JS.EVENT.ADVISORY.CONSUMER.DELETED.>",
];

/// How long a check stays fresh: those who miss the stream at the same moment check it once.
const CHECK_FRESH: Duration = Duration::from_millis(200);

/// How long a deleted stream is left alone before it is made anew. nats-server (2.15.1) forgets a stream before it has moved its folder away; one
/// that is created in between loses its own folder to that and refuses every message ("error opening msg block file") until the
/// server is started again. No message of the server tells when it is over.
const DELETION_PAUSE: Duration = Duration::from_millis(500);

/// A setting that is not as it should be.
struct Drift {
    setting: &'static str,
    is: String,
    should_be: String,
}

/// Compares one setting and notes a difference.
fn compare<T: PartialEq + std::fmt::Debug>(drift: &mut Vec<Drift>, setting: &'static str, is: &mut T, should_be: T) {
    if *is != should_be {
        drift.push(Drift { setting, is: format!("{is:?}"), should_be: format!("{should_be:?}") });
        *is = should_be;
    }
}

fn report(what: &str, drift: &[Drift], corrects: bool) {
    let done = if corrects { "correcting it" } else { "`checkout topology` corrects it" };
    for Drift { setting, is, should_be } in drift {
        tracing::warn!("{what}: {setting} is {is} and should be {should_be}; {done}");
    }
}

fn missing(what: &str) -> BrokerError {
    BrokerError::Request(format!("{what}: missing; `checkout topology` creates it"))
}

fn refused(what: &str, why: &dyn std::fmt::Display) -> BrokerError {
    BrokerError::Request(format!("{what}: {why}"))
}

fn drifted(what: &str, why: &str) -> BrokerError {
    BrokerError::Drift(format!("{what}: {why}"))
}

impl Broker {
    /// Creates the streams and durables that are missing and verifies the others. A difference is logged, and corrected
    /// where that is safe: everything but the storage and the retention of a stream, and the ways in which a durable
    /// delivers. Settings that the topology does not speak of (placement, mirrors, metadata) are left as they are.
    /// Several instances may do this at once.
    ///
    /// Where the limits say that this process creates nothing, it waits until all is there, and only tells of differences.
    ///
    /// # Errors
    /// A difference cannot be corrected safely, or the server refuses or does not answer.
    pub async fn ensure_topology(&self, limits: &Limits) -> Result<(), BrokerError> {
        *self.inner.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits.clone();
        let mut checked = self.inner.checking.lock().await;
        let deadline = Instant::now() + if limits.creates { ENSURE_PATIENCE } else { VERIFY_PATIENCE };
        let mut failures = 0;
        while let Err(error) = self.check(limits).await {
            // A drift stays; everything else may be a server (or a cluster's leader) that is not yet ready.
            if matches!(error, BrokerError::Drift(_)) || Instant::now() > deadline {
                return Err(error);
            }
            tracing::debug!(%error, "topology");
            failures += 1;
            tokio::time::sleep(pause(failures)).await;
        }
        *checked = Some(Instant::now());
        Ok(())
    }

    /// The same with the limits used last, for publishers that find no stream. Nothing where somebody is at it.
    pub(crate) async fn recreate_topology(self) {
        let Ok(mut checked) = self.inner.checking.try_lock() else { return };
        if checked.is_some_and(|at| at.elapsed() < CHECK_FRESH) {
            return;
        }
        match self.check(&self.limits()).await {
            Ok(()) => *checked = Some(Instant::now()),
            Err(error) => tracing::debug!(%error, "topology"),
        }
    }

    /// The same, unless it was done a moment ago: many find a stream or durable missing at once, one does the work.
    pub(crate) async fn recreate_topology_as(&self, limits: &Limits) -> Result<(), BrokerError> {
        let mut checked = self.inner.checking.lock().await;
        if checked.is_some_and(|at| at.elapsed() < CHECK_FRESH) {
            return Ok(());
        }
        self.check(limits).await?;
        *checked = Some(Instant::now());
        Ok(())
    }

    /// Keeps the topology as it should be until `stop`: what is deleted or changed is made anew as soon as that is safe, because services that
    /// may not do it wait for it. [`Broker::ensure_topology`] comes first.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn keep_topology(&self, stop: CancellationToken) -> Result<(), BrokerError> {
        let mut news = Vec::new();
        for subject in NEWS {
            let subscribed = self.inner.client.subscribe(*subject).await;
            news.push(subscribed.map_err(request_error("subscribe"))?);
        }
        let mut news = futures::stream::select_all(news);
        let outage = Outage::new("the topology");
        let mut failures = 0;
        loop {
            // Subscribed first, then looked.
            let next_look = match self.check(&self.limits()).await {
                Ok(()) => {
                    outage.over();
                    failures = 0;
                    KEEP_EVERY
                }
                // Such as a stream whose deletion is not quite over. Everybody waits for this, so it is tried again soon.
                Err(error) => {
                    outage.failed(&error);
                    failures += 1;
                    pause(failures)
                }
            };
            tokio::select! {
                Some(_) = news.next() => {}
                () = tokio::time::sleep(next_look) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn check(&self, limits: &Limits) -> Result<(), BrokerError> {
        for name in STREAMS {
            self.check_stream(stream(name, limits), limits.creates).await?;
        }
        for wanted in Durable::ALL.iter().map(|durable| consumer(*durable, limits)).chain([auditor(limits)]) {
            self.check_durable(wanted, limits).await?;
        }
        self.inner.was_complete.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn check_stream(&self, mut wanted: StreamConfig, creates: bool) -> Result<(), BrokerError> {
        let jetstream = &self.inner.jetstream;
        let what = format!("stream {}", wanted.name);
        let found = match jetstream.get_stream(&wanted.name).await {
            Ok(found) => found,
            Err(error) if is_missing_stream(&error) && !creates => return Err(missing(&what)),
            Err(error) if is_missing_stream(&error) => {
                if self.inner.was_complete.load(Ordering::Relaxed) {
                    tokio::time::sleep(DELETION_PAUSE).await;
                }
                // Somebody who is faster with the same settings does not matter, with others the next check sees them.
                jetstream.create_stream(wanted).await.map_err(|error| refused(&what, &error))?;
                tracing::info!("{what}: created");
                return Ok(());
            }
            Err(error) => return Err(refused(&what, &error)),
        };
        if is_of_newer_build(&what, &found.cached_info().config.metadata) {
            return Ok(());
        }
        if !creates {
            // Who keeps the streams may not know how to say it (NACK's resources do not), and everything works without.
            wanted.allow_batch_publish = found.cached_info().config.allow_batch_publish;
        }
        let (corrected, drift) = stream_drift(found.cached_info().config.clone(), wanted, creates)?;
        if !drift.is_empty() {
            report(&what, &drift, creates);
        }
        if !drift.is_empty() && creates {
            jetstream.update_stream(&corrected).await.map_err(|error| refused(&what, &error))?;
        }
        Ok(())
    }

    async fn check_durable(&self, wanted: ConsumerConfig, limits: &Limits) -> Result<(), BrokerError> {
        let jetstream = &self.inner.jetstream;
        let name = wanted.durable_name.clone().unwrap_or_default();
        let what = format!("durable {name}");
        let found = jetstream.get_consumer_from_stream::<ConsumerConfig, _, _>(&*name, CHECKOUT).await;
        let corrected = match found {
            Ok(found) => {
                if is_of_newer_build(&what, &found.cached_info().config.metadata) {
                    return Ok(());
                }
                let (corrected, drift) = consumer_drift(&found.cached_info().config, wanted, limits.creates)?;
                if drift.is_empty() {
                    return Ok(());
                }
                report(&what, &drift, limits.creates);
                if !limits.creates {
                    return Ok(());
                }
                corrected
            }
            Err(error) if is_missing_consumer(&error) && !limits.creates => return Err(missing(&what)),
            Err(error) if is_missing_consumer(&error) => {
                tracing::info!("{what}: missing; creating it");
                wanted
            }
            Err(error) => return Err(refused(&what, &error)),
        };
        // "Create or update": the same for all instances that do it at once.
        jetstream.create_consumer_on_stream(corrected, CHECKOUT).await.map_err(|error| refused(&what, &error))?;
        Ok(())
    }
}

fn is_missing_stream(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_missing_consumer(error: &jetstream::stream::ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

/// What stands in the metadata of everything that this build makes.
fn revision() -> HashMap<String, String> {
    HashMap::from([(REVISION_KEY.to_owned(), REVISION.to_string())])
}

/// The revision that made a stream or durable as it is; 0 where none is told.
fn revision_of(metadata: &HashMap<String, String>) -> u32 {
    metadata.get(REVISION_KEY).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Whether a newer build has made it as it is: then it is none of ours to change.
fn is_of_newer_build(what: &str, metadata: &HashMap<String, String>) -> bool {
    let found = revision_of(metadata);
    if found > REVISION {
        tracing::debug!(
            "{what}: is of revision {found}, newer than {REVISION}, which this build knows; it is left as it is"
        );
    }
    found > REVISION
}

/// Other metadata is left alone. Who only verifies does not miss the revision: tools that make the topology need not know of it.
fn mark_revision(drift: &mut Vec<Drift>, metadata: &mut HashMap<String, String>, creates: bool) {
    let found = revision_of(metadata);
    if creates && found != REVISION {
        drift.push(Drift { setting: "revision", is: found.to_string(), should_be: REVISION.to_string() });
        metadata.extend(revision());
    }
}

fn stream(name: &str, limits: &Limits) -> StreamConfig {
    let all = |subjects: &[&str]| subjects.iter().map(|subject| (*subject).to_owned()).collect();
    let (description, subjects, max_bytes, max_age): (_, Vec<String>, _, _) = match name {
        DEAD_LETTERS => (
            "what could not be understood, with the reason in its headers",
            all(&[DEAD_LETTER_SUBJECTS]),
            limits.dead_letter_max_bytes,
            limits.dead_letter_max_age,
        ),
        DEAD_LETTERS_LOG => (
            "what was done with dead letters, by whom and why; those that were dropped are in it whole",
            all(&[REDRIVEN_SUBJECT, DROPPED_SUBJECT]),
            limits.dead_log_max_bytes,
            limits.dead_log_max_age,
        ),
        ADVISORIES => (
            "what the server says about messages that a durable gave up on",
            all(ADVISORY_SUBJECTS),
            limits.advisories_max_bytes,
            limits.advisories_max_age,
        ),
        _ => (
            "the events of the checkout choreography",
            CHANNELS.iter().map(|channel| channel.subject.to_owned()).collect(),
            limits.max_bytes,
            limits.max_age,
        ),
    };
    StreamConfig {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        subjects,
        max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        max_age,
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: limits.replicas,
        discard: discards(name),
        max_messages: -1,
        max_messages_per_subject: -1,
        duplicate_window: DUPLICATE_WINDOW,
        // Reading single messages (redo after a failover, the inspecting person) is answered by any replica.
        allow_direct: true,
        // Events are published as batches that are confirmed once (`fast_ingest.rs`).
        allow_batch_publish: name == CHECKOUT,
        metadata: revision(),
        ..StreamConfig::default()
    }
}

/// What goes when a stream is full.
fn discards(name: &str) -> DiscardPolicy {
    match name {
        // None of them may be lost, and only a person can say which is not needed any more. Who is refused keeps the event (`batch.rs`).
        DEAD_LETTERS => DiscardPolicy::New,
        // New messages matter more than history. Were the log to refuse, no letter could be dropped, and there would be no way to make room.
        // Advisories are the server's own: nobody would hear that one is refused, and it would be the newest that are missing.
        _ => DiscardPolicy::Old,
    }
}

/// What is found with our settings in it, and the differences.
fn stream_drift(
    mut found: StreamConfig,
    wanted: StreamConfig,
    creates: bool,
) -> Result<(StreamConfig, Vec<Drift>), BrokerError> {
    let what = format!("stream {}", wanted.name);
    if found.storage != wanted.storage || found.retention != wanted.retention {
        return Err(drifted(
            &what,
            &format!(
                "storage and retention are {:?} and {:?} and should be {:?} and {:?}; this cannot be changed in place, and \
                 recreating the stream would drop its messages: delete it by hand when that is acceptable",
                found.storage, found.retention, wanted.storage, wanted.retention
            ),
        ));
    }
    let mut drift = Vec::new();
    // The order of subjects has no meaning, and the server may keep another.
    found.subjects.sort();
    let mut subjects = wanted.subjects;
    subjects.sort();
    compare(&mut drift, "subjects", &mut found.subjects, subjects);
    compare(&mut drift, "description", &mut found.description, wanted.description);
    compare(&mut drift, "max_bytes", &mut found.max_bytes, wanted.max_bytes);
    compare(&mut drift, "max_age", &mut found.max_age, wanted.max_age);
    compare(&mut drift, "max_msgs", &mut found.max_messages, wanted.max_messages);
    compare(&mut drift, "max_msgs_per_subject", &mut found.max_messages_per_subject, wanted.max_messages_per_subject);
    // Only ever raised: to lower it is to throw copies away, and an instance that was started without the setting must not do that.
    let replicas = wanted.num_replicas.max(found.num_replicas);
    if replicas != wanted.num_replicas {
        tracing::warn!("{what}: num_replicas is {replicas} and should be {}; lower it by hand", wanted.num_replicas);
    }
    compare(&mut drift, "num_replicas", &mut found.num_replicas, replicas);
    compare(&mut drift, "discard", &mut found.discard, wanted.discard);
    compare(&mut drift, "duplicate_window", &mut found.duplicate_window, wanted.duplicate_window);
    compare(&mut drift, "allow_direct", &mut found.allow_direct, wanted.allow_direct);
    compare(&mut drift, "allow_batched", &mut found.allow_batch_publish, wanted.allow_batch_publish);
    compare(&mut drift, "no_ack", &mut found.no_ack, false);
    // Ways in which a stream says what nobody said.
    compare(&mut drift, "subject_transform", &mut found.subject_transform, None);
    compare(&mut drift, "republish", &mut found.republish, None);
    compare(&mut drift, "sources", &mut found.sources, None);
    mark_revision(&mut drift, &mut found.metadata, creates);
    Ok((found, drift))
}

fn consumer(durable: Durable, limits: &Limits) -> ConsumerConfig {
    pull::Config {
        durable_name: Some(durable.name().to_owned()),
        name: Some(durable.name().to_owned()),
        description: Some(durable.description().to_owned()),
        // A durable that was lost starts over: outcome records answer what has been done already.
        deliver_policy: DeliverPolicy::All,
        replay_policy: ReplayPolicy::Instant,
        ack_policy: AckPolicy::Explicit,
        ack_wait: limits.ack_wait,
        // For ever: what cannot be understood is dead-lettered by us, what meets trouble must not be lost.
        max_deliver: -1,
        max_ack_pending: limits.max_ack_pending,
        filter_subjects: durable.subjects().map(str::to_owned).collect(),
        metadata: revision(),
        // `backoff` stays unset: its first entry would silently replace `ack_wait`.
        ..pull::Config::default()
    }
    .into_consumer_config()
}

fn auditor(limits: &Limits) -> ConsumerConfig {
    pull::Config {
        durable_name: Some(AUDITOR.to_owned()),
        name: Some(AUDITOR.to_owned()),
        description: Some("hears everything and reacts to nothing; its floor: all up to there was told".to_owned()),
        deliver_policy: DeliverPolicy::All,
        replay_policy: ReplayPolicy::Instant,
        ack_policy: AckPolicy::All,
        ack_wait: limits.ack_wait,
        max_deliver: -1,
        // What the server remembers of it at most. Only what is in hand is unacknowledged, which is two batches.
        max_ack_pending: limits.max_ack_pending,
        metadata: revision(),
        ..pull::Config::default()
    }
    .into_consumer_config()
}

/// What is found with our settings in it, and the differences.
fn consumer_drift(
    found: &ConsumerConfig,
    wanted: ConsumerConfig,
    creates: bool,
) -> Result<(ConsumerConfig, Vec<Drift>), BrokerError> {
    let name = wanted.durable_name.as_deref().unwrap_or_default();
    if found.ack_policy != wanted.ack_policy
        || found.deliver_policy != wanted.deliver_policy
        || found.deliver_subject.is_some()
    {
        return Err(drifted(
            &format!("durable {name}"),
            &format!(
                "it delivers {:?} with acknowledgement {:?} to {:?} and should deliver {:?} with {:?} to whoever pulls; this \
                 cannot be changed in place: delete it by hand, everything is then delivered again",
                found.deliver_policy, found.ack_policy, found.deliver_subject, wanted.deliver_policy, wanted.ack_policy
            ),
        ));
    }
    let mut is = found.clone();
    let mut drift = Vec::new();
    // A single filter stands in a field of its own.
    let mut filters = is.filter_subjects.clone();
    filters.extend(Some(std::mem::take(&mut is.filter_subject)).filter(|filter| !filter.is_empty()));
    filters.sort();
    let mut subjects = wanted.filter_subjects;
    subjects.sort();
    compare(&mut drift, "filter_subjects", &mut filters, subjects);
    is.filter_subjects = filters;
    compare(&mut drift, "description", &mut is.description, wanted.description);
    compare(&mut drift, "ack_wait", &mut is.ack_wait, wanted.ack_wait);
    compare(&mut drift, "max_deliver", &mut is.max_deliver, wanted.max_deliver);
    compare(&mut drift, "max_ack_pending", &mut is.max_ack_pending, wanted.max_ack_pending);
    compare(&mut drift, "backoff", &mut is.backoff, Vec::new());
    compare(&mut drift, "inactive_threshold", &mut is.inactive_threshold, Duration::ZERO);
    compare(&mut drift, "headers_only", &mut is.headers_only, false);
    mark_revision(&mut drift, &mut is.metadata, creates);
    Ok((is, drift))
}

#[cfg(test)]
mod tests;
