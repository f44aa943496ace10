//! The topology on a real server: created, verified, corrected, and left alone where correcting would lose messages.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer as Consumer};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use nats::topology::{
    ADVISORIES, ADVISORY_SUBJECTS, AUDITOR, CHANNELS, CHECKOUT, DEAD_LETTERS, DEAD_LETTERS_LOG, Durable, Limits,
};
use support::{Server, durable_info};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_instances_create_it_at_once() {
    let server = Server::start();
    let limits = Limits::default();
    let mut brokers = Vec::new();
    for n in 0..8 {
        brokers.push(server.broker(&format!("order-{n}")).await);
    }
    let all = futures::future::join_all(brokers.iter().map(|broker| broker.ensure_topology(&limits))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");

    let admin = server.admin().await;
    let stream = admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.clone();
    let mut subjects = stream.subjects.clone();
    subjects.sort();
    let mut expected: Vec<_> = CHANNELS.iter().map(|channel| channel.subject.to_owned()).collect();
    expected.sort();
    assert_eq!(subjects, expected);
    assert_eq!((stream.retention, stream.storage), (RetentionPolicy::Limits, StorageType::File));
    assert_eq!(stream.discard, DiscardPolicy::Old);
    assert_eq!((stream.max_bytes, stream.max_age), (1 << 30, Duration::from_secs(86_400)));
    assert_eq!((stream.num_replicas, stream.duplicate_window), (1, Duration::from_millis(100)));
    assert!(stream.allow_direct && stream.allow_batch_publish);

    let dead = admin.get_stream(DEAD_LETTERS).await.unwrap().cached_info().config.clone();
    assert_eq!(dead.subjects, ["dead.>"]);
    assert_eq!((dead.max_bytes, dead.max_age), (256 << 20, Duration::from_secs(30 * 86_400)));

    let log = admin.get_stream(DEAD_LETTERS_LOG).await.unwrap().cached_info().config.clone();
    assert_eq!(log.subjects, ["dead-log.redriven", "dead-log.dropped"]);
    assert_eq!((log.max_bytes, log.max_age), (256 << 20, Duration::from_secs(365 * 86_400)));

    let advisories = admin.get_stream(ADVISORIES).await.unwrap().cached_info().config.clone();
    assert_eq!(advisories.subjects, ADVISORY_SUBJECTS);
    assert_eq!((advisories.max_bytes, advisories.max_age), (64 << 20, Duration::from_secs(7 * 86_400)));

    for durable in Durable::ALL {
        let config = durable_info(&admin, *durable).await.config;
        assert!(
            config.filter_subjects.iter().map(String::as_str).eq(durable.subjects()),
            "{:?}",
            config.filter_subjects
        );
        assert_eq!((config.max_deliver, config.max_ack_pending), (-1, 20_000));
        assert_eq!((config.ack_wait, config.backoff.len()), (Duration::from_secs(10), 0));
    }
    let auditor: Consumer = admin.get_consumer_from_stream(AUDITOR, CHECKOUT).await.unwrap();
    let config = &auditor.cached_info().config;
    assert_eq!((config.ack_policy, config.max_deliver, config.max_ack_pending), (AckPolicy::All, -1, 20_000));
    assert!(config.filter_subject.is_empty() && config.filter_subjects.is_empty(), "it hears everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_is_corrected_and_foreign_settings_are_kept() {
    let server = Server::start();
    let limits = Limits::default();
    let broker = server.ready_broker("order-1", &limits).await;
    let admin = server.admin().await;

    let good = admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.clone();
    let drifted = Config {
        subjects: vec!["checkout.started".to_owned(), "something.else".to_owned()],
        max_bytes: 1 << 20,
        description: None,
        metadata: HashMap::from([("team".to_owned(), "checkout".to_owned())]),
        ..good.clone()
    };
    admin.update_stream(&drifted).await.unwrap();
    // Without this the server's advisories of one kind would go unseen.
    let deaf = Config { name: ADVISORIES.to_owned(), subjects: vec![ADVISORY_SUBJECTS[0].to_owned()], ..good.clone() };
    admin.update_stream(&deaf).await.unwrap();
    let mut durable = durable_info(&admin, Durable::Stock).await.config;
    durable.filter_subjects = vec!["checkout.started".to_owned()];
    durable.ack_wait = Duration::from_secs(1);
    durable.max_deliver = 3;
    admin.create_consumer_on_stream(durable, CHECKOUT).await.unwrap();

    broker.ensure_topology(&limits).await.unwrap();

    let corrected = admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.clone();
    assert_eq!(corrected.subjects.len(), CHANNELS.len());
    assert_eq!((corrected.max_bytes, &corrected.description), (good.max_bytes, &good.description));
    assert_eq!(corrected.metadata.get("team").map(String::as_str), Some("checkout"));
    let hearing = admin.get_stream(ADVISORIES).await.unwrap().cached_info().config.clone();
    assert_eq!((hearing.subjects.len(), hearing.max_bytes), (ADVISORY_SUBJECTS.len(), 64 << 20));
    let corrected = durable_info(&admin, Durable::Stock).await.config;
    assert_eq!(corrected.filter_subjects.len(), 3);
    assert_eq!((corrected.ack_wait, corrected.max_deliver), (Duration::from_secs(10), -1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_limits_are_taken_over() {
    let server = Server::start();
    let broker = server.ready_broker("order-1", &Limits::default()).await;
    let limits =
        Limits { max_bytes: 1 << 25, ack_wait: Duration::from_secs(3), max_ack_pending: 77, ..Limits::default() };
    broker.ensure_topology(&limits).await.unwrap();
    let admin = server.admin().await;
    assert_eq!(admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.max_bytes, 1 << 25);
    let config = durable_info(&admin, Durable::Order).await.config;
    assert_eq!((config.ack_wait, config.max_ack_pending), (Duration::from_secs(3), 77));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_messages_is_refused() {
    for (storage, retention) in
        [(StorageType::Memory, RetentionPolicy::Limits), (StorageType::File, RetentionPolicy::WorkQueue)]
    {
        let server = Server::start();
        let admin = server.admin().await;
        let foreign = Config {
            name: CHECKOUT.to_owned(),
            subjects: vec!["checkout.started".to_owned()],
            storage,
            retention,
            ..Config::default()
        };
        admin.create_stream(foreign).await.unwrap();
        let refused = server.broker("order-1").await.ensure_topology(&Limits::default()).await.unwrap_err().to_string();
        assert!(refused.contains("stream CHECKOUT") && refused.contains("cannot be changed in place"), "{refused}");
        assert_eq!(admin.get_stream(CHECKOUT).await.unwrap().cached_info().config.storage, storage);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_named() {
    let mut server = Server::start();
    let url = server.url();
    server.kill();
    let error =
        nats::Broker::connect(&url, "order", "order-1", Duration::from_millis(300)).await.unwrap_err().to_string();
    assert!(error.contains(&url), "{error}");
    assert!(nats::Broker::connect("nats://", "order", "order-1", Duration::from_millis(300)).await.is_err());
}
