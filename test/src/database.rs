//! A service's functions on a real Redis, called as the service calls them: through its call builders and the writer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};

use common::problem::Problem;
use common::redis::{BatchChunk, Call, Database, Library, Operation, Options, Reply, run_batch};
use common::shutdown::Tasks;
use tokio::time::Instant;

use crate::servers::{Console, PATIENCE, Redis};

/// A Redis of the test's own with a library loaded, the writer in front of it, and a console beside it.
pub struct TestDatabase {
    /// Looks and changes by hand.
    pub console: Console,
    /// What the service calls.
    pub database: Database,
    // The lanes of the writer live as long as the test's runtime.
    _tasks: Tasks,
    _redis: Redis,
}

impl TestDatabase {
    /// Starts all of it.
    pub async fn start(library: Library) -> Self {
        let redis = Redis::start_in_memory();
        let tasks = Tasks::new();
        let database = Database::open(&redis.url(), library, Options::lanes(1), &tasks).unwrap();
        assert!(database.wait_until_connected(PATIENCE).await, "the writer connects");
        Self { console: redis.console(), database, _tasks: tasks, _redis: redis }
    }

    /// Makes one call.
    pub async fn call(&self, call: Call) -> Reply {
        self.database.call(call, Some(Instant::now() + PATIENCE)).await.expect("the call is answered")
    }

    /// Makes one call and returns its reply as texts.
    pub async fn texts(&self, call: Call) -> Vec<String> {
        self.call(call).await.texts_from(0).map(str::to_owned).collect()
    }

    /// Runs a `batch_init` as the service does.
    ///
    /// # Errors
    /// Those of [`run_batch`].
    pub async fn batch(
        &self,
        operation: &Operation,
        entries: u64,
        call: impl Fn(&BatchChunk) -> Call,
    ) -> Result<(), Problem> {
        run_batch(&self.database, operation, entries, PATIENCE, call).await
    }

    /// The chunks of a `batch_init` of `entries`, as [`run_batch`] makes them for one request. Nothing is stored.
    pub async fn chunks(&self, entries: u64) -> Vec<BatchChunk> {
        let chunks = Arc::new(Mutex::new(Vec::new()));
        let seen = chunks.clone();
        // The echo of "ok" is what a chunk that was written answers, so the batch goes on to its end.
        let spy = move |chunk: &BatchChunk| {
            seen.lock().unwrap().push(chunk.clone());
            Call::command("ECHO").arg("ok")
        };
        self.batch(&operation("a batch that is only watched"), entries, spy).await.unwrap();
        let chunks = chunks.lock().unwrap();
        chunks.clone()
    }

    /// Forgets everything but the library.
    pub fn clear(&mut self) {
        self.console.ask(&["FLUSHDB"]);
    }

    /// Keeps a copy of everything beside it, as a replica does that falls behind from now on.
    pub fn remember(&mut self) {
        self.replace("0", "1");
    }

    /// Everything is as it was when it was remembered: a failover has lost the tail.
    pub fn go_back(&mut self) {
        self.replace("1", "0");
    }

    /// Replaces the contents of one of the server's databases by those of another.
    fn replace(&mut self, from: &str, to: &str) {
        self.console.ask(&["SELECT", to]);
        self.console.ask(&["FLUSHDB"]);
        self.console.ask(&["SELECT", from]);
        for key in self.console.keys("") {
            self.console.ask(&["COPY", &key, &key, "DB", to]);
        }
        self.console.ask(&["SELECT", "0"]);
    }
}

/// A library with a bug planted: one place of its text reads otherwise.
pub fn with_bug(library: &Library, right: &str, wrong: &str) -> Library {
    assert_eq!(library.code.matches(right).count(), 1, "one place of {}.lua reads {right:?}", library.name);
    let code = library.code.replacen(right, wrong, 1);
    // For the few of a test, as long as it runs.
    Library { name: library.name, code: Box::leak(code.into_boxed_str()) }
}

/// The operation of a client's request with this `Idempotency-Key`.
pub fn operation(key: &str) -> Operation {
    Operation::from_client(key, format!("POST /{key}"), 600)
}

/// Another request with the same `Idempotency-Key`.
pub fn other_request(operation: &Operation) -> Operation {
    Operation { fingerprint: "POST /another".into(), ..operation.clone() }
}
