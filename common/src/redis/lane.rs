//! One lane of the writer: a connection, and the loop that turns queued calls into groups.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use redis::{RedisError, Value};
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{Connector, Open, superseded, trouble};
use super::recovery::{self, Reached};
use super::replicated::exchange;
use super::{Call, CallError, Reply};
use crate::limits::MAX_GROUP_COMMANDS;

/// How long a group may go unanswered before its connection is given up. A healthy Redis may stop for a second or two when
/// the disk does.
const REPLY_LIMIT: Duration = Duration::from_secs(5);
/// A group is waited for at least so long even when a caller's deadline is nearer, so that one caller in a hurry does not
/// break the connection for the others.
const SHORTEST_REPLY_LIMIT: Duration = Duration::from_millis(500);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);

/// Errors that a server answers *before* it carries a call out, and that pass: loading after a restart, a demoted or full
/// or unreplicated primary, a disk that cannot be written, a script that runs. See `redis.conf` and the error table of RESP.
const PASSING: &[&str] =
    &["LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "OOM", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "NOAUTH"];

/// How far the calls of one caller have come. The lane that sends them and the caller whose deadline passes may meet here:
/// whoever comes first decides whether they are sent at all.
#[derive(Default)]
pub(super) struct Progress(AtomicU8);

const WAITING: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Progress {
    fn step(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
    }

    /// The calls are handed to a connection now. Says whether they were before; nothing where the caller has given up.
    fn begin(&self) -> Option<bool> {
        match self.step(WAITING, SENT) {
            Ok(_) => Some(false),
            Err(SENT) => Some(true),
            Err(_) => None,
        }
    }

    /// What was handed over was refused before anything was done: it counts as never sent.
    fn refused(&self) {
        // Where the caller has given up in between, it stays so.
        let _ = self.step(SENT, WAITING);
    }

    /// There will be no answer. Calls that were not sent yet never will be; of others nobody knows.
    pub(super) fn give_up(&self, why: &str) -> CallError {
        match self.step(WAITING, GIVEN_UP) {
            Err(SENT) => CallError::Unknown(why.to_owned()),
            _ => CallError::NotSent(why.to_owned()),
        }
    }
}

/// Calls of one caller, on their way.
pub(super) struct Queued {
    pub(super) calls: Vec<Call>,
    pub(super) deadline: Option<Instant>,
    pub(super) progress: Arc<Progress>,
    pub(super) answer: oneshot::Sender<Result<Vec<Result<Reply, CallError>>, CallError>>,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Queued {
    /// Tells the caller that there is no answer, and the truth about whether the calls may have been carried out.
    fn give_up(self, why: &str) {
        let error = self.progress.give_up(why);
        // A caller that has gone away does not want the answer.
        let _ = self.answer.send(Err(error));
    }
}

pub(super) struct Lane {
    connector: Arc<Connector>,
    calls: Arc<Mutex<mpsc::UnboundedReceiver<Queued>>>,
    connected: Arc<AtomicBool>,
    stop: CancellationToken,
    /// Replicas that must have a group before it is answered.
    wait_replicas: usize,
    reached: Arc<Reached>,
    connection: Option<Open>,
    /// Taken from the queue and not answered yet, oldest first.
    pending: VecDeque<Queued>,
    backoff: Duration,
}

impl Lane {
    pub(super) fn new(
        connector: Arc<Connector>,
        calls: Arc<Mutex<mpsc::UnboundedReceiver<Queued>>>,
        connected: Arc<AtomicBool>,
        stop: CancellationToken,
        wait_replicas: usize,
        reached: Arc<Reached>,
    ) -> Self {
        Self {
            connector,
            calls,
            connected,
            stop,
            wait_replicas,
            reached,
            connection: None,
            pending: VecDeque::new(),
            backoff: FIRST_BACKOFF,
        }
    }

    /// Runs until asked to stop and nothing is queued.
    pub(super) async fn run(mut self) {
        loop {
            if self.pending.is_empty() && !self.wait_for_calls().await {
                return;
            }
            match self.send_group().await {
                // Nobody is left who waits. That says nothing about the database.
                Ok(false) => {}
                Ok(true) => {
                    if self.backoff != FIRST_BACKOFF {
                        tracing::info!("the database answers again");
                    }
                    self.backoff = FIRST_BACKOFF;
                    self.connected.store(true, Ordering::Relaxed);
                }
                Err(error) => self.back_off(&error).await,
            }
        }
    }

    /// Waits until there is something to do: calls, or a connection to be made before anybody asks for it. Says whether there
    /// is; if not, the lane is to end.
    async fn wait_for_calls(&mut self) -> bool {
        let mut calls = self.calls.lock().await;
        let first = tokio::select! {
            biased;
            first = calls.recv() => first,
            () = self.stop.cancelled() => calls.try_recv().ok(),
            () = tokio::time::sleep(self.backoff), if self.connection.is_none() => return true,
        };
        let Some(first) = first else { return false };
        let mut commands = first.calls.len();
        self.pending.push_back(first);
        while commands < MAX_GROUP_COMMANDS
            && let Ok(next) = calls.try_recv()
        {
            commands += next.calls.len();
            self.pending.push_back(next);
        }
        true
    }

    /// Connects where that is needed, sends the oldest pending calls as one pipeline and answers their callers. Says whether
    /// the database has answered anything.
    async fn send_group(&mut self) -> Result<bool, RedisError> {
        self.drop_expired("the time limit passed while the database was not reachable");
        let connection = self.connection.take().filter(|open| !self.connector.is_superseded(open));
        let is_new = connection.is_none();
        let mut open = match connection {
            Some(open) => open,
            None => self.connector.connect(&self.stop).await?,
        };
        if self.pending.is_empty() {
            self.connection = Some(open);
            return Ok(is_new);
        }
        let primary = open.primary.clone();
        let (mut size, mut count, limit) = self.group();
        let mut pipeline = redis::Pipeline::with_capacity(count + 3);
        // Before the calls, so that it is lost with whatever of them is lost. Where it has not changed, the last one still stands.
        let mark = self.reached.get().filter(|reached| open.mark != Some(*reached));
        if let Some(mark) = mark {
            pipeline.cmd("SET").arg(recovery::MARK).arg(mark.to_string());
        }
        let mut sent_before = Vec::with_capacity(size);
        while sent_before.len() < size {
            let queued = &self.pending[sent_before.len()];
            let Some(before) = queued.progress.begin() else {
                count -= queued.calls.len();
                size -= 1;
                self.pending.remove(sent_before.len());
                continue;
            };
            sent_before.push(before);
            for call in &queued.calls {
                pipeline.add_command(call.cmd.clone());
            }
        }
        if size == 0 {
            self.connection = Some(open);
            return Ok(is_new);
        }
        let marks = usize::from(mark.is_some());
        let replies = exchange(&self.connector, &mut open, pipeline, marks + count, self.wait_replicas);
        let mut values = tokio::select! {
            replies = tokio::time::timeout(limit, replies) => {
                replies.map_err(|_| trouble(ErrorKind::TimedOut, "no reply in time, or too few replicas have it"))??
            }
            () = self.connector.superseded(primary.as_ref()) => return Err(superseded()),
        };
        if mark.is_some() && matches!(values.remove(0), Value::Okay) {
            // One that was refused costs nothing but time, should there be a recovery: the mark before it points at more than is needed.
            open.mark = mark;
        }
        let mut group: Vec<Queued> = self.pending.drain(..size).collect();
        if let Some(error) = find_passing(&values).or_else(|| find_surplus(&values, count)) {
            // Repeated as a whole: calls that did succeed answer from their records. Those that were refused before anything
            // was done count as never sent, unless an earlier try went unanswered.
            let mut values = values.iter();
            for (queued, sent_before) in group.iter().zip(sent_before) {
                let refused = values.by_ref().take(queued.calls.len()).all(|v| matches!(v, Value::ServerError(_)));
                if refused && !sent_before {
                    queued.progress.refused();
                }
            }
            for queued in group.drain(..).rev() {
                self.pending.push_front(queued);
            }
            return Err(error);
        }
        self.connection = Some(open);
        answer(group, values);
        Ok(true)
    }

    /// How many callers and commands the next group has, and how long it may take.
    fn group(&self) -> (usize, usize, Duration) {
        let (mut size, mut count, mut limit) = (0, 0, REPLY_LIMIT);
        let now = Instant::now();
        for queued in &self.pending {
            if size > 0 && count + queued.calls.len() > MAX_GROUP_COMMANDS {
                break;
            }
            size += 1;
            count += queued.calls.len();
            if let Some(deadline) = queued.deadline {
                limit = limit.min(deadline.saturating_duration_since(now)).max(SHORTEST_REPLY_LIMIT);
            }
        }
        (size, count, limit)
    }

    /// Gives up on all pending calls whose deadline has passed.
    fn drop_expired(&mut self, why: &str) {
        let now = Instant::now();
        for queued in std::mem::take(&mut self.pending) {
            if queued.deadline.is_some_and(|deadline| deadline <= now) {
                queued.give_up(why);
            } else {
                self.pending.push_back(queued);
            }
        }
    }

    /// After a failure: takes over what else is queued, so that its deadlines are kept too, and waits a little.
    async fn back_off(&mut self, error: &RedisError) {
        self.connection = None;
        self.connected.store(false, Ordering::Relaxed);
        if self.backoff == FIRST_BACKOFF {
            tracing::warn!(%error, "the database does not answer; trying again");
        }
        if let Ok(mut calls) = self.calls.try_lock() {
            while let Ok(queued) = calls.try_recv() {
                self.pending.push_back(queued);
            }
        }
        let now = Instant::now();
        let earliest = self.pending.iter().filter_map(|queued| queued.deadline).min().unwrap_or(now + self.backoff);
        let jittered = self.backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        tokio::select! {
            () = tokio::time::sleep_until(earliest.min(now + jittered)) => {}
            () = self.stop.cancelled() => {
                // Nobody who could still be answered is waiting: intake has ended or was given up on.
                for queued in self.pending.drain(..) {
                    queued.give_up("stopping while the database was not reachable");
                }
            }
        }
    }
}

/// The first error that says "not now", in any reply.
fn find_passing(values: &[Value]) -> Option<RedisError> {
    values.iter().find_map(|value| match value {
        Value::ServerError(error) if PASSING.contains(&error.code()) || is_missing_function(error) => {
            Some(RedisError::from(error.clone()))
        }
        _ => None,
    })
}

/// What was refused behind the group's own replies: nobody knows then whether replicas have the group.
fn find_surplus(values: &[Value], count: usize) -> Option<RedisError> {
    match values.get(count)? {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => Some(trouble(ErrorKind::InvalidData, "one reply too many")),
    }
}

/// The library is gone (the database lost its data, or another server answers): a new connection loads it again.
fn is_missing_function(error: &redis::ServerError) -> bool {
    error.details().is_some_and(|details| details.contains("Function not found"))
}

fn answer(group: Vec<Queued>, values: Vec<Value>) {
    let mut values = values.into_iter();
    for queued in group {
        let replies = queued
            .calls
            .iter()
            .map(|_| match values.next() {
                Some(Value::ServerError(error)) => Err(CallError::Refused(RedisError::from(error).to_string())),
                Some(value) => Ok(Reply::read(value)),
                None => Err(CallError::Unknown("the reply is missing".into())),
            })
            .collect();
        // A caller that has gone away does not want the answer.
        let _ = queued.answer.send(Ok(replies));
    }
}
