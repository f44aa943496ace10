//! What is done with a primary before it is used: whoever owns the data makes good what was lost with the tail of its predecessor.
//!
//! Redis replicates and writes its file in one order, so what a failover or a power cut loses is always the *end* of what was written. Every
//! group therefore begins with the [`Position`] in the stream of events up to which this process has taken its inputs. It is lost together
//! with the tail, so what survives points at the right place: an event that tells of a lost effect was published after the effect, that
//! is after the mark that stands before it, and so lies behind the position that the mark names. With several instances no minimum is
//! needed, for the same reason: whoever wrote the mark, what was lost was written, and published, after it.
//!
//! A primary is marked when it is recovered, by its replication id and the id of its run: a replica that is promoted gets a new one of
//! the first, a server that is started again a new one of the second. One instance recovers, under a lock with a lease; the others
//! wait. That two do it at once costs time and nothing else.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::connection::trouble;
use super::reply::Reply;
use super::{Call, CallError};

/// The position that every group leaves before its calls.
pub(super) const MARK: &str = "redo:mark";
/// Which primary, in which run, is recovered.
const RECOVERED: &str = "redo:recovered";
/// Held by the instance that recovers.
const LOCK: &str = "redo:lock";

/// How long the lock is kept without a sign of life, in milliseconds.
const LEASE_MS: u64 = 3_000;
/// Signs of life within one lease, so that one may be late.
const SIGNS_PER_LEASE: u64 = 4;
/// How often an instance that waits for another one to recover looks again.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a group of calls may go unanswered.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// A place in a stream: a message's sequence and the time at which it was stored. Both together tell whether the message is still the
/// one that was meant: a stream that was deleted, or has lost its own tail, gives its sequences out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The message's sequence in the stream.
    pub sequence: u64,
    /// When it was stored, in nanoseconds since the Unix epoch by the server's clock.
    pub stored_at_ns: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.sequence, self.stored_at_ns)
    }
}

/// The text is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position is <sequence>@<nanoseconds>")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (sequence, stored_at_ns) = text.split_once('@').ok_or(InvalidPosition)?;
        let number = |text: &str| text.parse().map_err(|_| InvalidPosition);
        Ok(Self { sequence: number(sequence)?, stored_at_ns: number(stored_at_ns)? })
    }
}

/// How far this process has taken its inputs. Its lanes write it before what they do.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<Option<Position>>);

impl Reached {
    /// Inputs up to here were taken. What was stored later counts: a stream that was made anew begins with small sequences.
    pub(super) fn raise(&self, position: Position) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| position.stored_at_ns > known.stored_at_ns) {
            *known = Some(position);
        }
    }

    pub(super) fn get(&self) -> Option<Position> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes good what a primary lacks.
pub trait Recovery: Send + Sync {
    /// Does it, before anybody else uses the primary. It is run again, from the beginning, when it is cut off or fails.
    ///
    /// # Errors
    /// Why not. The primary is not used; it is tried again soon.
    fn recover<'a>(&'a self, primary: &'a mut Unrecovered) -> BoxFuture<'a, Result<(), String>>;
}

/// A primary that only the one who recovers it may use.
pub struct Unrecovered {
    connection: MultiplexedConnection,
}

impl Unrecovered {
    /// The position in the last mark that survived; nothing where there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn mark(&mut self) -> Result<Option<Position>, CallError> {
        let reply = self.call_all(vec![Call::command("GET").arg(MARK)]).await?;
        // One that cannot be read is as good as none: everything is redone then.
        Ok(reply.first().and_then(|reply| reply.text(0).parse().ok()))
    }

    /// Makes calls that travel together.
    ///
    /// # Errors
    /// One of them was not answered, or refused.
    pub async fn call_all(&mut self, calls: Vec<Call>) -> Result<Vec<Reply>, CallError> {
        let count = calls.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::Pipeline::with_capacity(count);
        for call in calls {
            pipeline.add_command(call.cmd);
        }
        let replies = self.connection.send_packed_commands(&pipeline, 0, count);
        let replies = tokio::time::timeout(REPLY_LIMIT, replies).await;
        let replies = replies
            .map_err(|_| CallError::Unknown("no reply in time".into()))?
            .map_err(|error| CallError::Unknown(error.to_string()))?;
        let read = |value| match value {
            Value::ServerError(error) => Err(CallError::Refused(redis::RedisError::from(error).to_string())),
            value => Ok(Reply::read(value)),
        };
        replies.into_iter().map(read).collect()
    }
}

/// Knows what must be done with a primary, and which one was used last.
pub(super) struct Recoveries {
    recovery: Arc<dyn Recovery>,
    last: Mutex<String>,
    /// How many primaries, or runs of one, were met.
    met: AtomicU64,
}

impl Recoveries {
    pub(super) fn new(recovery: Arc<dyn Recovery>) -> Self {
        Self { recovery, last: Mutex::default(), met: AtomicU64::new(0) }
    }

    /// Grows whenever another primary, or another run of one, is met.
    pub(super) fn met(&self) -> u64 {
        self.met.load(Ordering::SeqCst)
    }

    /// Returns when the primary is recovered, by us or by somebody else. `epoch` is that of the failover by which it came to be the primary.
    pub(super) async fn ensure(&self, connection: &mut MultiplexedConnection, epoch: u64) -> RedisResult<()> {
        let identity = identity(connection, epoch).await?;
        loop {
            if is_recovered(connection, &identity).await? {
                self.meet(identity);
                return Ok(());
            }
            let mut lock = redis::cmd("SET");
            lock.arg(LOCK).arg(&identity).arg("NX").arg("PX").arg(LEASE_MS);
            let taken: Option<String> = bounded(lock.query_async(connection)).await?;
            if taken.is_some() {
                // Whoever held it may have been done between the two questions.
                if !is_recovered(connection, &identity).await? {
                    break;
                }
                bounded(redis::cmd("DEL").arg(LOCK).query_async::<()>(connection)).await?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.meet(identity.clone());
        let mut primary = Unrecovered { connection: connection.clone() };
        let recovered = tokio::select! {
            recovered = self.recovery.recover(&mut primary) => recovered,
            never = hold(connection.clone(), &identity) => match never {},
        };
        if let Err(why) = recovered {
            tracing::warn!(why, "what the database may have lost is not redone yet; trying again");
            // If the database is gone too, the lease ends by itself.
            let _ = bounded(redis::cmd("DEL").arg(LOCK).query_async::<()>(connection)).await;
            return Err(trouble(std::io::ErrorKind::Other, "the primary is not recovered yet"));
        }
        let mut done = redis::pipe();
        done.cmd("SET").arg(RECOVERED).arg(&identity).ignore().cmd("DEL").arg(LOCK).ignore();
        bounded(done.query_async(connection)).await
    }

    fn meet(&self, identity: String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != identity {
            *last = identity;
            self.met.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn is_recovered(connection: &mut MultiplexedConnection, identity: &str) -> RedisResult<bool> {
    let recovered: Option<String> = bounded(redis::cmd("GET").arg(RECOVERED).query_async(connection)).await?;
    Ok(recovered.is_some_and(|recovered| covers(&recovered, identity)))
}

/// Whether this run of this primary has been recovered, and not before it was replaced and chosen again.
fn covers(recovered: &str, identity: &str) -> bool {
    let read = |text: &str| {
        let (run, epoch) = text.rsplit_once('@')?;
        Some((run.to_owned(), epoch.parse::<u64>().ok()?))
    };
    match (read(recovered), read(identity)) {
        (Some((recovered, until)), Some((run, epoch))) => recovered == run && until >= epoch,
        _ => false,
    }
}

/// Gives signs of life for as long as it is polled. Should the lock be lost all the same, another one recovers as well.
async fn hold(mut connection: MultiplexedConnection, identity: &str) -> Infallible {
    loop {
        tokio::time::sleep(Duration::from_millis(LEASE_MS / SIGNS_PER_LEASE)).await;
        let mut lock = redis::cmd("SET");
        lock.arg(LOCK).arg(identity).arg("XX").arg("PX").arg(LEASE_MS);
        let _ = bounded(lock.query_async::<Option<String>>(&mut connection)).await;
    }
}

/// What tells this run of this primary from all others. The epoch belongs to it, because one that stood still while another was the primary does
/// not notice that it was replaced when it is chosen again before it has been turned.
async fn identity(connection: &mut MultiplexedConnection, epoch: u64) -> RedisResult<String> {
    let mut info = redis::cmd("INFO");
    info.arg("server").arg("replication");
    let info: String = bounded(info.query_async(connection)).await?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    match (field("master_replid"), field("run_id")) {
        (Some(replication), Some(run)) => Ok(format!("{}/{}@{epoch}", replication.trim(), run.trim())),
        _ => Err(trouble(std::io::ErrorKind::InvalidData, "INFO names no replication id")),
    }
}

async fn bounded<T>(reply: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let too_long = |_| trouble(std::io::ErrorKind::TimedOut, "no reply in time");
    tokio::time::timeout(REPLY_LIMIT, reply).await.map_err(too_long)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_what_it_writes() {
        let position = Position { sequence: 17, stored_at_ns: 1_790_230_470_084_404_000 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for wrong in ["", "17", "17@", "@17", "x@1", "1@2@3"] {
            assert_eq!(wrong.parse::<Position>(), Err(InvalidPosition), "{wrong}");
        }
    }

    #[test]
    fn a_primary_that_was_replaced_and_is_chosen_again_is_another_one() {
        assert!(covers("log/run@3", "log/run@3"));
        assert!(covers("log/run@3", "log/run@2"), "who says so has not heard of the last failover");
        for wrong in ["log/run@2", "log/other@3", "other/run@3", "log/run", "", "@", "log/run@x"] {
            assert!(!covers(wrong, "log/run@3"), "{wrong}");
        }
    }

    #[test]
    fn what_was_stored_later_counts() {
        let (reached, at) = (Reached::default(), |sequence, stored_at_ns| Position { sequence, stored_at_ns });
        for (position, expected) in [(at(5, 50), at(5, 50)), (at(4, 40), at(5, 50)), (at(1, 60), at(1, 60))] {
            reached.raise(position);
            assert_eq!(reached.get(), Some(expected));
        }
    }
}
