//! The stream of dead letters is full: none is lost, and whoever has nothing to do with it does not wait.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use common::event::Event;
use nats::Verdict;
use nats::graveyard::{Filter, Graveyard, Note, Order};
use nats::topology::{ADVISORIES, CHECKOUT, DEAD_LETTERS, DEAD_LETTERS_LOG, Durable, Limits, REVISION_KEY};
use support::{HOUR, Seen, Server, count, durable_info, each, eventually, run, settled, started};

/// So many events that nobody understands, of which some ten fit.
const POISON: usize = 40;
const POISON_BYTES: usize = 5_000;
const ROOM_BYTES: u64 = 60_000;

/// Nothing comes again only because it has been in hand for long.
fn small() -> Limits {
    Limits { dead_letter_max_bytes: ROOM_BYTES, ack_wait: HOUR, ..Limits::default() }
}

/// Where the letters say that their events lie in the stream of events.
async fn lying(graveyard: &Graveyard) -> BTreeSet<u64> {
    let letters = graveyard.letters(&Filter::default(), Order::Oldest, usize::MAX).await.unwrap();
    letters.into_iter().map(|letter| letter.stream_sequence).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_dead_letters_loses_none_and_holds_nobody_up() {
    let server = Server::start();
    let limits = small();
    let broker = server.ready_broker("payment-1", &limits).await;
    let (admin, graveyard) = (server.admin().await, Graveyard::new(broker.clone()));
    let seen = Seen::default();
    let consumer = run(&broker, Durable::Payment, &limits, seen.taking());
    let mut poison = BTreeSet::new();
    for n in 0..POISON {
        let sent = admin.publish("checkout.started", vec![b'x'; POISON_BYTES].into()).await.unwrap().await.unwrap();
        poison.insert(sent.sequence);
        broker.publish(&started(n).into(), None).await.unwrap();
        // The first one is sure of its place.
        eventually("there are letters", || async { count(&admin, DEAD_LETTERS).await > 0 }).await;
    }

    // The good ones behind the bad are done.
    eventually("all good events are done", || async { seen.distinct().len() == POISON }).await;
    let refused = || async {
        let info = durable_info(&admin, Durable::Payment).await;
        info.num_pending == 0
            && info.num_ack_pending == POISON - usize::try_from(count(&admin, DEAD_LETTERS).await).unwrap()
    };
    eventually("all that are no letters are still with the durable", refused).await;
    let first = lying(&graveyard).await;
    assert!(!first.is_empty() && first.len() < POISON, "{first:?}");
    assert_eq!(first.first(), poison.first(), "the oldest is still there");
    let warning = async || graveyard.room().await.unwrap().warning().unwrap_or_default();
    eventually("it is told that they are full", || async { warning().await.contains("full") }).await;

    // Who makes room gets the others, and again, until all have been there.
    let note = Note { who: "ada@host".to_owned(), why: "a test sent rubbish".to_owned() };
    let mut buried = BTreeSet::new();
    while buried.len() < POISON {
        eventually("there are letters", || async { count(&admin, DEAD_LETTERS).await > 0 }).await;
        for letter in graveyard.letters(&Filter::default(), Order::Oldest, usize::MAX).await.unwrap() {
            buried.insert(letter.stream_sequence);
            graveyard.discard(letter.sequence, &note).await.unwrap();
        }
    }
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    assert_eq!(buried, poison);
    // Each once: what was refused was not there.
    assert_eq!(count(&admin, DEAD_LETTERS).await + count(&admin, DEAD_LETTERS_LOG).await, POISON as u64);
    assert_eq!(graveyard.room().await.unwrap().warning(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reaction_gives_up_on_waits_for_room_and_is_not_tried_hotly() {
    let server = Server::start();
    let limits = small();
    let broker = server.ready_broker("payment-1", &limits).await;
    let (admin, graveyard) = (server.admin().await, Graveyard::new(broker.clone()));
    // Full to the last letter.
    let filling = async || {
        let sent = admin.publish_with_headers("dead.payment", HeaderMap::new(), vec![b'x'; 500].into()).await.unwrap();
        sent.await.is_ok()
    };
    let most = ROOM_BYTES / 500;
    let mut letters = 0;
    while filling().await {
        letters += 1;
        assert!(letters <= most, "it never refuses");
    }
    let stored = count(&admin, DEAD_LETTERS).await;
    broker.publish_all(&[started(0).into(), started(1).into()]).await.unwrap();
    let began = Instant::now();
    let consumer = run(
        &broker,
        Durable::Payment,
        &limits,
        each(|event: &Event| match support::number(event) {
            0 => Verdict::Dead("too old".repeat(100)),
            _ => Verdict::Publish(vec![]),
        }),
    );
    eventually("the first has come again and again", || async {
        let info = durable_info(&admin, Durable::Payment).await;
        info.num_redelivered == 1 && info.num_ack_pending == 1 && info.delivered.consumer_sequence >= 6
    })
    .await;
    assert_eq!(count(&admin, DEAD_LETTERS).await, stored, "none has gone, and none has come");
    // Tries come after 0, 100, 300, 700 and 1500 ms.
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let note = Note { who: "ada@host".to_owned(), why: "room".to_owned() };
    for letter in graveyard.letters(&Filter::default(), Order::Oldest, 10).await.unwrap() {
        graveyard.discard(letter.sequence, &note).await.unwrap();
    }
    settled(&admin, Durable::Payment).await;
    consumer.stop().await;
    let last = graveyard.letters(&Filter::default(), Order::Newest, 1).await.unwrap();
    assert!(last[0].reason.starts_with("too old"), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_forgets_its_oldest_letters_is_corrected_with_what_it_holds() {
    let server = Server::start();
    let limits = small();
    let broker = server.ready_broker("payment-1", &limits).await;
    let admin = server.admin().await;
    let config = admin.get_stream(DEAD_LETTERS).await.unwrap().cached_info().config.clone();
    assert_eq!(config.discard, DiscardPolicy::New);
    // As the version before made it.
    let old =
        Config { discard: DiscardPolicy::Old, metadata: [(REVISION_KEY.to_owned(), "1".to_owned())].into(), ..config };
    admin.update_stream(&old).await.unwrap();
    admin.publish("dead.payment", "?".into()).await.unwrap().await.unwrap();

    broker.ensure_topology(&limits).await.unwrap();

    let corrected = admin.get_stream(DEAD_LETTERS).await.unwrap().cached_info().clone();
    assert_eq!((corrected.config.discard, corrected.state.messages), (DiscardPolicy::New, 1));
    for stream in [CHECKOUT, DEAD_LETTERS_LOG, ADVISORIES] {
        let discard = admin.get_stream(stream).await.unwrap().cached_info().config.discard;
        assert_eq!(discard, DiscardPolicy::Old, "{stream}");
    }
}
