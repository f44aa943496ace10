//! No primary is used before it is recovered, and what survives of the marks says from where on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::redis::{CallError, Database, Operation, Options, Position, Recovery, Unrecovered};
use common::shutdown::Tasks;
use futures::future::BoxFuture;
use testing::servers::{PATIENCE, Redis};
use tokio::sync::Semaphore;

use crate::support::{LIBRARY, add, add_one, counter, eventually, far, is_ok, near};

/// Adds 100, once it is allowed to, as a redo does with what it finds.
struct Hundred {
    may_end: Semaphore,
    begun: AtomicUsize,
    marks: Mutex<Vec<Option<Position>>>,
}

impl Hundred {
    fn new(may_end: usize) -> Arc<Self> {
        Arc::new(Self { may_end: Semaphore::new(may_end), begun: AtomicUsize::new(0), marks: Mutex::default() })
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

impl Recovery for Hundred {
    fn recover<'a>(&'a self, primary: &'a mut Unrecovered) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let mark = primary.mark().await.map_err(|error| error.to_string())?;
            self.marks.lock().unwrap().push(mark);
            self.may_end.acquire().await.map_err(|error| error.to_string())?.forget();
            let hundred = add(&Operation::internal("redo".into()), 100);
            primary.call_all(vec![hundred]).await.map_err(|error| error.to_string())?;
            Ok(())
        })
    }
}

fn open(redis: &Redis, recovery: &Arc<Hundred>) -> (Database, Tasks) {
    let tasks = Tasks::new();
    let options = Options::lanes(2);
    (Database::open_recovered(&redis.url(), LIBRARY, options, &tasks, recovery.clone()).unwrap(), tasks)
}

/// Whoever recovers and gives no sign of life for so long is held to be dead, and another one begins.
const LEASE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn nothing_is_done_before_one_of_all_instances_has_recovered_the_database() {
    // Where the machine stands still for that long, two of them do it, which proves nothing.
    let deadline = Instant::now() + PATIENCE;
    while !one_of_two_recovers().await {
        assert!(Instant::now() < deadline, "it always takes longer than the lease");
    }
}

/// Says whether it was done before any lease was over.
async fn one_of_two_recovers() -> bool {
    let mut redis = Redis::start();
    let recovery = Hundred::new(0);
    let began = Instant::now();
    let (first, _tasks) = open(&redis, &recovery);
    let (second, _more_tasks) = open(&redis, &recovery);
    eventually("somebody recovers", || recovery.begun() > 0).await;
    for database in [&first, &second] {
        let refused = database.call(add_one(), near()).await;
        assert!(matches!(refused, Err(CallError::NotSent(_))), "{refused:?}");
    }
    assert_eq!(counter(&mut redis.console()), 0);
    recovery.may_end.add_permits(100);
    for database in [&first, &second] {
        assert!(is_ok(&database.call(add_one(), far()).await));
    }
    let found = (recovery.begun(), counter(&mut redis.console()));
    if began.elapsed() >= LEASE {
        return false;
    }
    assert_eq!(found, (1, 102));

    // Another run of the same server may have lost what the one before had told.
    let era = first.era();
    redis.restart();
    let began = Instant::now();
    assert!(is_ok(&first.call(add_one(), far()).await));
    assert!(second.wait_until_connected(PATIENCE).await);
    let found = (recovery.begun(), counter(&mut redis.console()));
    assert_ne!(first.era(), era);
    if began.elapsed() >= LEASE {
        return false;
    }
    assert_eq!(found, (2, 203));
    true
}

#[tokio::test]
async fn a_recovery_begins_at_the_mark_that_survived() {
    let mut redis = Redis::start();
    let recovery = Hundred::new(100);
    let (database, _tasks) = open(&redis, &recovery);
    let at = |sequence, stored_at_ns| Position { sequence, stored_at_ns };
    for (position, expected) in [(at(7, 70), at(7, 70)), (at(6, 60), at(7, 70)), (at(1, 80), at(1, 80))] {
        database.reached(position);
        assert!(is_ok(&database.call(add_one(), far()).await));
        assert_eq!(redis.console().text(&["GET", "redo:mark"]), Some(expected.to_string()));
    }
    redis.restart();
    assert!(is_ok(&database.call(add_one(), far()).await));
    // The file is lost too: everything is to be redone.
    redis.console().ask(&["FLUSHALL"]);
    redis.restart();
    assert!(is_ok(&database.call(add_one(), far()).await));
    assert_eq!(*recovery.marks.lock().unwrap(), [None, Some(at(1, 80)), None]);
}
