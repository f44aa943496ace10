//! The group-commit Redis writer: all reads and writes of a process go to its database through one [`Database`].
//!
//! Callers queue calls; a few lanes, each with a connection of its own, drain the queue, send what they find as one
//! pipeline and answer each caller after the whole pipeline is answered. With `appendfsync always` a group shares one sync,
//! so the cost of a write falls as load rises, and "no reply before the write is safe" stands in one place: [`lane`].
//!
//! Every function call repeats safely (an outcome record or an operation key answers the repeat), so a group whose
//! connection broke is simply sent again until its callers' deadlines. Where a deadline passes, the caller is told honestly
//! whether the call was never sent or may have been carried out.
//!
//! Where replicas are required, every group ends with a mark and `WAIT`: a group that too few replicas have in time is not answered, but
//! sent again. [`sentinel`] finds the primary, and cuts connections to one that is none any more.

mod batch;
mod call;
mod connection;
mod lane;
pub mod libraries;
mod library;
mod operation;
mod recovery;
mod replicated;
mod reply;
mod sentinel;
mod standing;
pub mod survey;

pub use batch::{BatchChunk, key_in_use, key_mismatch, run_batch};
pub use call::{Call, CallError};
pub use connection::locate_primary;
pub use library::{Library, Versioned};
pub use operation::Operation;
pub use recovery::{InvalidPosition, Position, Recovery, Unrecovered};
pub use reply::{Reply, UnexpectedReply};
pub use sentinel::{NEWS as SENTINEL_NEWS, QUESTIONS as SENTINEL_QUESTIONS};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::limits::MAX_QUEUED_COMMANDS;
use crate::service::ServiceSettings;
use crate::shutdown::{Stage, Tasks};
use connection::Connector;
use lane::{Lane, Progress, Queued};
use recovery::{Reached, Recoveries};

/// How a database is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Connections that write in turn.
    pub lanes: usize,
    /// Replicas that must have a write before anybody is told of it, at least; behind sentinels all that could be made the primary must.
    /// Reads wait for as many: nobody is told what could be taken back. 0: none.
    pub wait_replicas: usize,
}

impl Options {
    /// So many connections, and no replicas.
    pub fn lanes(lanes: usize) -> Self {
        Self { lanes, wait_replicas: 0 }
    }
}

impl From<&ServiceSettings> for Options {
    fn from(settings: &ServiceSettings) -> Self {
        Self { lanes: settings.redis_lanes, wait_replicas: settings.redis_wait_replicas }
    }
}

/// Whether a database could be at this URL.
///
/// # Errors
/// Why not.
pub fn check_url(url: &str) -> Result<(), String> {
    connection::check(url).map_err(|error| error.to_string())
}

/// The service's own database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    queue: mpsc::UnboundedSender<Queued>,
    /// Bounds the queue. A call holds a place until it is answered.
    places: Arc<Semaphore>,
    connected: Arc<AtomicBool>,
    connector: Arc<Connector>,
    reached: Arc<Reached>,
    address: Arc<str>,
}

impl Database {
    /// Starts the lanes. They connect by themselves and go on trying; [`Database::is_connected`] tells.
    ///
    /// # Errors
    /// `url` is not a Redis URL.
    pub fn open(url: &str, library: Library, options: Options, tasks: &Tasks) -> Result<Self, redis::RedisError> {
        Self::start(url, library, options, tasks, None)
    }

    /// The same, where no primary is used before `recovery` has made good what it lacks.
    ///
    /// # Errors
    /// `url` is not a Redis URL.
    pub fn open_recovered(
        url: &str,
        library: Library,
        options: Options,
        tasks: &Tasks,
        recovery: Arc<dyn Recovery>,
    ) -> Result<Self, redis::RedisError> {
        Self::start(url, library, options, tasks, Some(recovery))
    }

    fn start(
        url: &str,
        library: Library,
        options: Options,
        tasks: &Tasks,
        recovery: Option<Arc<dyn Recovery>>,
    ) -> Result<Self, redis::RedisError> {
        let connector = Arc::new(Connector::new(url, library, recovery.map(Recoveries::new))?);
        let reached = Arc::new(Reached::default());
        let address = connector.address().into();
        let (queue, calls) = mpsc::unbounded_channel();
        let calls = Arc::new(Mutex::new(calls));
        let connected = Arc::new(AtomicBool::new(false));
        for _ in 0..options.lanes.max(1) {
            let stop = tasks.stop(Stage::Support);
            let (calls, connected) = (calls.clone(), connected.clone());
            let lane = Lane::new(connector.clone(), calls, connected, stop, options.wait_replicas, reached.clone());
            tasks.spawn(Stage::Support, lane.run());
        }
        let (follower, stop) = (connector.clone(), tasks.stop(Stage::Support));
        tasks.spawn(Stage::Support, async move { follower.follow(stop).await });
        Ok(Self {
            queue,
            places: Arc::new(Semaphore::new(MAX_QUEUED_COMMANDS)),
            connected,
            connector,
            reached,
            address,
        })
    }

    /// Whether the last thing that any lane heard of the database was an answer.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Which primary the database is at, as far as is known here: another number whenever it is another one, or another run of the same.
    /// What was done between two equal readings was done at the one that is used now.
    pub fn era(&self) -> u64 {
        self.connector.era()
    }

    /// Inputs of this process up to this position have been taken: every group from here on leaves it as its mark, before what it does.
    pub fn reached(&self, position: Position) {
        self.reached.raise(position);
    }

    /// Makes one call and waits until its effect is safe.
    ///
    /// # Errors
    /// See [`CallError`]. Without a deadline the call is repeated until it is answered or the process stops.
    pub async fn call(&self, call: Call, deadline: Option<Instant>) -> Result<Reply, CallError> {
        let mut replies = self.call_all(vec![call], deadline).await?;
        replies.pop().unwrap_or_else(|| Err(CallError::Unknown("no reply".into())))
    }

    /// Makes calls that travel together. The outer error means that none of them was answered.
    ///
    /// # Errors
    /// See [`CallError`]; each call also has its own.
    pub async fn call_all(
        &self,
        calls: Vec<Call>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Result<Reply, CallError>>, CallError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = u32::try_from(calls.len().min(MAX_QUEUED_COMMANDS)).unwrap_or(1);
        let places = self.places.clone().acquire_many_owned(wanted);
        let place = match deadline {
            None => places.await,
            Some(deadline) => tokio::time::timeout_at(deadline, places)
                .await
                .map_err(|_| CallError::NotSent("no place in the queue of the database".into()))?,
        };
        let Ok(place) = place else {
            return Err(CallError::NotSent("stopping".into()));
        };
        let (answer, answered) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let queued = Queued { calls, deadline, progress: progress.clone(), answer, _place: place };
        if self.queue.send(queued).is_err() {
            return Err(CallError::NotSent("stopping".into()));
        }
        let answered = async { answered.await.unwrap_or_else(|_| Err(CallError::Unknown("the writer ended".into()))) };
        let Some(deadline) = deadline else { return answered.await };
        // All lanes may be busy with a server that stands still, so the caller keeps its own time.
        tokio::time::timeout_at(deadline, answered)
            .await
            .unwrap_or_else(|_| Err(progress.give_up("no answer within the time limit")))
    }

    /// Says where the database is, without user name and password, and what was last wrong with it.
    pub fn describe_outage(&self) -> String {
        let address = &self.address;
        self.connector
            .trouble()
            .map_or_else(|| format!("no database at {address}"), |why| format!("no database at {address}: {why}"))
    }

    /// Waits until the database answers and has the library, at most `patience`; while it is being recovered, as long as that takes. Says
    /// whether it does.
    pub async fn wait_until_connected(&self, patience: Duration) -> bool {
        loop {
            let deadline = Instant::now() + patience;
            if self.call(Call::command("PING"), Some(deadline)).await.is_ok() {
                return true;
            }
            if !self.connector.is_recovering() {
                return false;
            }
        }
    }
}
