//! Replicas are required: what they do not have is not told as done, not even by a repeat, and not shown to a reader.

use common::redis::{Call, CallError, Database, Operation, Options};
use common::shutdown::Tasks;
use testing::sentinels::replicated;
use testing::servers::Redis;

use crate::support::{add, add_one, counter, eventually, far, is_ok, near, open_with, refused_in_vain, sent_in_vain};

/// A primary, its replica, and a writer that waits for the replica.
async fn start() -> (Redis, Redis, Database, Tasks) {
    let mut nodes = replicated(1).into_iter();
    let (primary, replica) = (nodes.next().unwrap(), nodes.next().unwrap());
    let (database, tasks) = open_with(&primary.url(), Options { lanes: 1, wait_replicas: 1 }).await;
    (primary, replica, database, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_no_replica_has_is_not_told_as_done() {
    let (primary, replica, database, _tasks) = start().await;
    let mut console = primary.console();
    assert!(is_ok(&database.call(add_one(), far()).await));
    replica.pause();
    let patient = tokio::spawn({
        let database = database.clone();
        async move { database.call(add_one(), far()).await }
    });
    eventually("the primary has carried it out", || counter(&mut console) == 2).await;
    let hurried = database.call(add_one(), near()).await;
    assert!(hurried.is_err(), "{hurried:?}");
    assert!(!patient.is_finished(), "told as done before a replica has it");
    replica.resume();
    assert!(is_ok(&patient.await.unwrap()), "who has time is told when a replica has it");
    assert!(is_ok(&database.call(add_one(), far()).await), "the writer goes on");
    let made = 3 + i64::from(matches!(hurried, Err(CallError::Unknown(_))));
    assert_eq!(counter(&mut console), made, "each was applied once, also those that were sent again; {hurried:?}");
    let mut other = replica.console();
    eventually("the replica has it all", || counter(&mut other) == made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_is_answered_from_its_record_waits_for_the_replica_as_well() {
    let (primary, replica, database, _tasks) = start().await;
    let key = Operation::from_client("key", "POST /add".into(), 600);
    replica.pause();
    let mut console = primary.console();
    sent_in_vain(&database, || add(&key, 1), || counter(&mut console)).await;
    eventually("it is carried out", || counter(&mut console) == 1).await;
    // On a new connection, which has written nothing, `WAIT` alone would count the replica that stands still.
    let again = database.call(add(&key, 1), near()).await;
    assert!(again.is_err(), "the record is not replicated: {again:?}");
    replica.resume();
    let again = database.call(add(&key, 1), far()).await.unwrap();
    assert_eq!((again.code(), again.text(1)), ("ok", "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_what_no_replica_has() {
    let (primary, replica, database, _tasks) = start().await;
    let read = || Call::command("GET").arg("counter");
    assert!(is_ok(&database.call(add_one(), far()).await));
    replica.pause();
    let mut console = primary.console();
    sent_in_vain(&database, add_one, || counter(&mut console)).await;
    let early = database.call(read(), near()).await;
    assert!(early.is_err(), "a failover could take it back: {early:?}");
    replica.resume();
    assert_eq!(database.call(read(), far()).await.unwrap().code(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_has_lost_its_replicas_is_waited_for_and_what_it_refused_was_not_sent() {
    let (primary, mut replica, database, _tasks) = start().await;
    let mut console = primary.console();
    console.ask(&["CONFIG", "SET", "min-replicas-to-write", "1", "min-replicas-max-lag", "1"]);
    replica.kill();
    eventually("the primary refuses writes", || {
        console.try_ask(&["SET", "probe", "1"]).is_err_and(|error| error.code() == Some("NOREPLICAS"))
    })
    .await;
    refused_in_vain(&database).await;
    let patient = tokio::spawn({
        let database = database.clone();
        async move { database.call(add_one(), far()).await }
    });
    replica.restart();
    assert!(is_ok(&patient.await.unwrap()), "who has time waits");
    assert_eq!(counter(&mut console), 1);
}
