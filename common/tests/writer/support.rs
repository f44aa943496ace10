//! What the tests share: a library with one effect, a writer in front of a Redis, and patience.

use std::time::Duration;

use common::redis::{Call, CallError, Database, Library, Operation, Options, Reply};
use common::shutdown::Tasks;
use testing::servers::{Console, PATIENCE, Redis};
use tokio::time::Instant;

/// Adds to `counter`, once per operation, as every function of the REST interface has its effect.
const CODE: &str = "
local function add(keys, args)
  return once(keys, args, function()
    return { 'ok', digits(redis.call('INCRBY', keys[2], args[3])) }
  end)
end
redis.register_function('probe_add' .. VERSION, add)
";

/// The library of these tests.
pub const LIBRARY: Library = Library::new("probe", CODE);

/// A Redis and a writer that is connected to it.
pub struct Bench {
    /// The server.
    pub redis: Redis,
    /// The writer.
    pub database: Database,
    /// The writer's lanes.
    pub tasks: Tasks,
}

impl Bench {
    /// A writer with so many lanes.
    pub async fn start(lanes: usize) -> Self {
        let redis = Redis::start();
        let (database, tasks) = open(&redis.url(), lanes).await;
        Self { redis, database, tasks }
    }

    /// What the calls have added up to.
    pub fn counter(&self) -> i64 {
        counter(&mut self.redis.console())
    }
}

/// What the calls have added up to.
pub fn counter(console: &mut Console) -> i64 {
    console.number(&["GET", "counter"])
}

/// A writer that is connected to `url`.
pub async fn open(url: &str, lanes: usize) -> (Database, Tasks) {
    open_with(url, Options::lanes(lanes)).await
}

/// A writer that is connected to `url`, and may wait for replicas.
pub async fn open_with(url: &str, options: Options) -> (Database, Tasks) {
    let tasks = Tasks::new();
    let database = Database::open(url, LIBRARY, options, &tasks).unwrap();
    assert!(database.wait_until_connected(PATIENCE).await, "the writer connects");
    (database, tasks)
}

/// A call that adds `amount` once.
pub fn add(operation: &Operation, amount: u32) -> Call {
    Call::once(&LIBRARY, "probe_add", operation, &["counter"]).arg(amount)
}

/// A call that adds 1 once, as a request without an `Idempotency-Key` makes it.
pub fn add_one() -> Call {
    add(&Operation::internal("POST /add".into()), 1)
}

/// A deadline that only a failing test meets.
pub fn far() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

/// A deadline that is near.
pub fn near() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(300))
}

/// Makes a call that the server receives and that is not answered by its deadline. Where this process stands still at the wrong moment, the
/// deadline passes before the call is sent: that is told as it is, and another one is made. `counter` looks into the server, where that can
/// be asked: what is told as not sent has not changed it.
pub async fn sent_in_vain(database: &Database, call: impl Fn() -> Call, mut counter: impl FnMut() -> i64) {
    let (began, before) = (Instant::now(), counter());
    loop {
        match database.call(call(), near()).await {
            Err(CallError::Unknown(_)) => return,
            other => assert!(matches!(other, Err(CallError::NotSent(_))), "it may have been carried out: {other:?}"),
        }
        assert_eq!(counter(), before, "a call that was carried out is told as not sent");
        assert!(began.elapsed() < PATIENCE, "a call that may have been sent is told as not sent");
    }
}

/// Makes a call that the server refuses until its deadline, before anything is done. Where the deadline passes in the instant in which the
/// server is being asked, nobody knows that, and another one is made.
pub async fn refused_in_vain(database: &Database) {
    let began = Instant::now();
    loop {
        match database.call(add_one(), near()).await {
            Err(CallError::NotSent(_)) => return,
            other => assert!(matches!(other, Err(CallError::Unknown(_))), "it is refused: {other:?}"),
        }
        assert!(began.elapsed() < PATIENCE, "a call that is refused is told as one that may have been carried out");
    }
}

/// How long a lane waits for an answer before it gives its connection up, and sends again.
pub const LANES_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a call was carried out.
pub fn is_ok(reply: &Result<Reply, CallError>) -> bool {
    reply.as_ref().is_ok_and(|reply| reply.code() == "ok")
}

/// Polls until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes the writer notice that the server is gone, so that calls from here on are not even sent. Needs a writer of one lane.
pub async fn notice_the_outage(database: &Database) {
    let deadline = Instant::now() + PATIENCE;
    while database.is_connected() {
        assert!(Instant::now() < deadline, "the writer does not notice that its server is gone");
        let _ = database.call(Call::command("PING"), near()).await;
    }
}
