//! Whether every saga is closed is asked of the order database: on a real Redis, in which some are not, and where there is none.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use checkout::chaos::open::OpenSagas;
use testing::servers::Redis;

/// Long enough for some looks.
const LIMIT: Duration = Duration::from_secs(3);
/// Nobody who finds that all is closed waits so long.
const LONG: Duration = Duration::from_secs(60);

/// Waits as it is waited for in earnest. The last look may be one that a machine that stands still left without an answer.
async fn left(sagas: &mut OpenSagas) -> HashSet<String> {
    let began = Instant::now();
    loop {
        match sagas.until_none(LIMIT).await {
            Ok(open) => return open,
            Err(error) => assert!(began.elapsed() < LONG, "{error}"),
        }
    }
}

fn names(sagas: &[&str]) -> HashSet<String> {
    sagas.iter().map(|saga| (*saga).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_is_left_open_is_named_whether_it_was_claimed_or_not() {
    let redis = Redis::start_in_memory();
    let mut console = redis.console();
    let mut sagas = OpenSagas::at(&redis.url());
    assert_eq!(sagas.until_none(LONG).await.unwrap(), names(&[]));
    console.ask(&["ZADD", "open", "1", "5.k.0"]);
    assert_eq!(left(&mut sagas).await, names(&["5.k.0"]));
    console.ask(&["ZADD", "retry", "9", "6.k.1"]);
    console.ask(&["ZADD", "retry_started", "1", "6.k.1"]);
    assert_eq!(sagas.now().await.unwrap(), names(&["5.k.0", "6.k.1"]));
    console.ask(&["ZREM", "open", "5.k.0"]);
    assert_eq!(left(&mut sagas).await, names(&["6.k.1"]));
    // Closed while it is waited for.
    let closing = async {
        console.ask(&["ZREM", "retry", "6.k.1"]);
        console.ask(&["ZREM", "retry_started", "6.k.1"]);
    };
    let (open, ()) = tokio::join!(sagas.until_none(LONG), closing);
    assert_eq!(open.unwrap(), names(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_database_cannot_be_read_nobody_knows_and_where_it_is_back_one_does() {
    let mut redis = Redis::start();
    redis.console().ask(&["ZADD", "open", "1", "5.k.0"]);
    let mut sagas = OpenSagas::at(&redis.url());
    assert_eq!(sagas.now().await.unwrap(), names(&["5.k.0"]));
    redis.kill();
    sagas.until_none(LIMIT).await.unwrap_err();
    redis.restart();
    redis.console().ask(&["ZREM", "open", "5.k.0"]);
    assert_eq!(sagas.until_none(LONG).await.unwrap(), names(&[]));
    OpenSagas::at("").until_none(Duration::ZERO).await.unwrap_err();
}
