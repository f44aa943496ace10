//! Many messages, one confirmation: the server's fast-ingest batches ([ADR-50], nats-server 2.14).
//!
//! Whatever is to be published while earlier batches are on their way goes out as the next batch, whoever wants it published, as in the
//! writer of `common`. The server stores each message as it comes and answers once, behind the last; a message that did not reach it is
//! a gap, which ends the batch with an error (`fail`). So a batch that is confirmed is stored as a whole, and of one that is not
//! nobody knows: its messages are published again, one by one, each with a confirmation of its own.
//!
//! The crate `jetstream-extra` has a publisher for this; it waits for the answer to the first message before it sends the second, and
//! makes a subscription for each batch. Here batches are short, so one goes out in one piece, and one subscription hears all answers.
//!
//! [ADR-50]: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{Client, Message, StatusCode, Subject};
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::broker::Link;
use crate::message::Outgoing;

/// Batches on their way at once. While so many are, further messages gather for the next one; with one alone the server would wait for us
/// between two.
const MAX_IN_FLIGHT: usize = 4;

/// Messages after which a batch is closed, though more wait. A batch goes out without waiting for the server's leave, so it must not be
/// larger than what a consumer's batches had in flight before.
const MAX_MESSAGES: usize = 512;

/// How long a server or stream that does not know such batches is left alone with them.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Why a batch is not confirmed. Any of its messages may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The server or the stream does not know such batches.
    Unsupported,
    /// Nobody knows what became of it.
    Failed { missing_stream: bool, why: String },
}

impl Refusal {
    pub(crate) fn failed(why: &str) -> Self {
        Self::Failed { missing_stream: false, why: why.to_owned() }
    }
}

type Outcome = Result<(), Refusal>;

/// Messages that are confirmed together.
struct Job {
    messages: Vec<Outgoing>,
    done: oneshot::Sender<Outcome>,
}

/// Since when nothing is tried, because the server or the stream does not know such batches.
#[derive(Default)]
struct Refused(Mutex<Option<Instant>>, AtomicBool);

impl Refused {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.1.store(true, Ordering::Relaxed);
    }

    /// Asked for each batch, so that must cost nothing.
    fn lasts(&self) -> bool {
        if !self.1.load(Ordering::Relaxed) {
            return false;
        }
        let lasts =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() < RETRY_AFTER);
        self.1.store(lasts, Ordering::Relaxed);
        lasts
    }
}

/// The way to the task that publishes. The task ends with it.
pub(crate) struct FastIngest {
    jobs: mpsc::UnboundedSender<Job>,
    refused: Arc<Refused>,
}

impl FastIngest {
    /// Starts the task. A batch that is not confirmed within `limit` is given up.
    pub(crate) fn start(client: Client, link: watch::Receiver<Link>, limit: Duration) -> Self {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let refused = Arc::new(Refused::default());
        tokio::spawn(publish(client, link, waiting, Arc::clone(&refused), limit));
        Self { jobs, refused }
    }

    /// Whether there is a point in trying.
    pub(crate) fn works(&self) -> bool {
        !self.refused.lasts()
    }

    /// Publishes and waits until all is stored. How long that may take is the caller's to say, but it is not for ever.
    pub(crate) async fn store(&self, messages: Vec<Outgoing>) -> Outcome {
        let (done, outcome) = oneshot::channel();
        if self.jobs.send(Job { messages, done }).is_err() {
            return Err(Refusal::failed("the connection is closed"));
        }
        outcome.await.unwrap_or_else(|_| Err(Refusal::failed("the connection is closed")))
    }
}

/// A batch that is on its way.
struct InFlight {
    messages: u64,
    waiting: Vec<oneshot::Sender<Outcome>>,
    deadline: Instant,
}

impl InFlight {
    fn end(self, outcome: &Outcome) {
        for done in self.waiting {
            // Who has gone away does not want to know.
            let _ = done.send(outcome.clone());
        }
    }
}

async fn publish(
    client: Client,
    mut link: watch::Receiver<Link>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    refused: Arc<Refused>,
    limit: Duration,
) {
    let inbox = client.new_inbox();
    let mut answers = match client.subscribe(format!("{inbox}.>")).await {
        Ok(answers) => answers,
        // Closed for good. Every job is told so, because the queue ends here.
        Err(error) => return tracing::debug!(%error, "no batches are published"),
    };
    let mut publisher = Publisher::new(client, inbox, refused, limit);
    let mut waiting = VecDeque::new();
    let mut lost = link.borrow().lost;
    loop {
        while publisher.has_room() && !waiting.is_empty() {
            publisher.send(&mut waiting).await;
        }
        let deadline = publisher.next_deadline();
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(answer) => publisher.hear(&answer),
                None => return,
            },
            job = jobs.recv(), if publisher.has_room() => {
                let Some(job) = job else { return };
                waiting.push_back(job);
                // Whatever is there goes together.
                while let Ok(job) = jobs.try_recv() {
                    waiting.push_back(job);
                }
            }
            changed = link.changed() => {
                let now = link.borrow_and_update().lost;
                if changed.is_err() || now != lost {
                    lost = now;
                    publisher.end_all(&Err(Refusal::failed("the connection was lost")));
                }
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                publisher.end_overdue();
            }
        }
    }
}

struct Publisher {
    client: Client,
    /// The beginning of the subjects of all answers. Its last token is the beginning of the batches' ids too: they must be unique at the
    /// stream.
    inbox: String,
    refused: Arc<Refused>,
    limit: Duration,
    in_flight: HashMap<u64, InFlight>,
    last_batch: u64,
}

impl Publisher {
    fn new(client: Client, inbox: String, refused: Arc<Refused>, limit: Duration) -> Self {
        Self { client, inbox, refused, limit, in_flight: HashMap::new(), last_batch: 0 }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.values().map(|batch| batch.deadline).min()
    }

    /// Sends the first of what waits as one batch.
    async fn send(&mut self, waiting: &mut VecDeque<Job>) {
        let (mut messages, mut callers) = (Vec::new(), Vec::new());
        while let Some(job) =
            waiting.pop_front_if(|job| callers.is_empty() || messages.len() + job.messages.len() <= MAX_MESSAGES)
        {
            messages.extend(job.messages);
            callers.push(job.done);
        }
        self.last_batch += 1;
        let number = self.last_batch;
        let count = messages.len();
        let batch = InFlight { messages: count as u64, waiting: callers, deadline: Instant::now() + self.limit };
        // Known before it is sent, because its answer may be quick.
        self.in_flight.insert(number, batch);
        let token = self.inbox.rsplit('.').next().unwrap_or_default();
        let prefix = format!("{}.{token}-{number}.{count}.fail.", self.inbox);
        for (index, message) in messages.into_iter().enumerate() {
            let operation = match index {
                last if last + 1 == count => Operation::CommitWithMessage,
                0 => Operation::Start,
                _ => Operation::Append,
            };
            let mut reply = String::with_capacity(prefix.len() + 16);
            let _ = write!(reply, "{prefix}{}.{}.$FI", index + 1, operation as u8);
            let sent = self
                .client
                .publish_with_reply_and_headers(message.subject, Subject::from(reply), message.headers, message.payload)
                .await;
            if let Err(error) = sent {
                // What was sent of it ends at the server by itself.
                return self.end(number, &Err(Refusal::failed(&error.to_string())));
            }
        }
    }

    fn hear(&mut self, answer: &Message) {
        let Some(number) = self.number(&answer.subject) else { return };
        let Some(batch) = self.in_flight.get(&number) else { return };
        let outcome = if answer.status == Some(StatusCode::NO_RESPONDERS) {
            Some(Err(Refusal::Failed { missing_stream: true, why: "no stream takes it".to_owned() }))
        } else {
            outcome(&answer.payload, batch.messages)
        };
        if let Some(outcome) = outcome {
            if outcome == Err(Refusal::Unsupported) {
                tracing::info!("the stream does not take batches (allow_batched): messages are published one by one");
                self.refused.note();
            }
            self.end(number, &outcome);
        }
    }

    /// The number of the batch that an answer to this subject is about.
    fn number(&self, subject: &str) -> Option<u64> {
        let id = subject.strip_prefix(&self.inbox)?.strip_prefix('.')?.split('.').next()?;
        id.rsplit_once('-')?.1.parse().ok()
    }

    fn end(&mut self, number: u64, outcome: &Outcome) {
        if let Some(batch) = self.in_flight.remove(&number) {
            batch.end(outcome);
        }
    }

    fn end_all(&mut self, outcome: &Outcome) {
        for (_, batch) in self.in_flight.drain() {
            batch.end(outcome);
        }
    }

    fn end_overdue(&mut self) {
        let now = Instant::now();
        for (_, batch) in self.in_flight.extract_if(|_, batch| batch.deadline <= now) {
            batch.end(&Err(Refusal::failed("no confirmation in time")));
        }
    }
}

/// What a message does to its batch, as the last but one token of its reply subject says it.
#[derive(Clone, Copy)]
enum Operation {
    Start = 0,
    Append = 1,
    CommitWithMessage = 2,
}

/// What the server answers: a confirmation, an error, or a note on the way (`type`).
#[derive(Deserialize)]
struct Answer {
    r#type: Option<String>,
    /// Of the last message that is stored.
    seq: Option<u64>,
    batch: Option<String>,
    count: Option<u64>,
    error: Option<async_nats::jetstream::Error>,
}

/// What an answer says about a batch of so many messages; nothing while it is not over.
fn outcome(payload: &[u8], messages: u64) -> Option<Outcome> {
    let answer: Answer = match serde_json::from_slice(payload) {
        Ok(answer) => answer,
        Err(error) => return Some(Err(Refusal::failed(&format!("an answer that cannot be read: {error}")))),
    };
    Some(match answer {
        Answer { error: Some(error), .. } if error.error_code() == ErrorCode::BATCH_PUBLISH_DISABLED => {
            Err(Refusal::Unsupported)
        }
        Answer { error: Some(error), .. } => Err(Refusal::failed(&error.to_string())),
        Answer { r#type: Some(note), .. } if note == "gap" => Err(Refusal::failed("a message of the batch was lost")),
        Answer { r#type: Some(_), .. } => return None,
        Answer { batch: Some(_), count: Some(count), .. } if count == messages => Ok(()),
        Answer { batch: Some(_), count, .. } => {
            Err(Refusal::failed(&format!("{} of {messages} messages are stored", count.unwrap_or_default())))
        }
        // Older servers do not know what the reply subject means, and confirm each message.
        Answer { seq: Some(_), .. } => Err(Refusal::Unsupported),
        Answer { .. } => Err(Refusal::failed("an answer that says nothing")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_confirmation_of_all_is_one() {
        let told = |payload: &str| outcome(payload.as_bytes(), 3);
        let why = |payload: &str| match told(payload) {
            Some(Err(Refusal::Failed { why, missing_stream: false })) => why,
            other => panic!("{payload}: {other:?}"),
        };
        assert_eq!(told(r#"{"type":"ack","seq":0,"msgs":3}"#), None);
        assert_eq!(told(r#"{"type":"ack","seq":3,"msgs":1}"#), None, "the confirmation is another one");
        assert_eq!(told(r#"{"stream":"CHECKOUT","seq":9,"batch":"b-1","count":3}"#), Some(Ok(())));
        assert_eq!(why(r#"{"stream":"CHECKOUT","seq":9,"batch":"b-1","count":2}"#), "2 of 3 messages are stored");
        assert_eq!(why(r#"{"type":"gap","last_seq":1,"seq":3}"#), "a message of the batch was lost");
        assert!(
            why(r#"{"type":"err","seq":2,"error":{"code":400,"err_code":10071,"description":"wrong"}}"#)
                .contains("wrong")
        );
        assert!(
            why(r#"{"error":{"code":400,"err_code":10208,"description":"unknown batch"}}"#).contains("unknown batch")
        );
        assert!(why("nonsense").contains("cannot be read"));
        assert_eq!(why("{}"), "an answer that says nothing");
    }

    #[test]
    fn who_does_not_know_batches_is_recognised() {
        let told = |payload: &str| outcome(payload.as_bytes(), 3);
        let disabled = r#"{"error":{"code":400,"err_code":10205,"description":"batch publish is disabled"}}"#;
        assert_eq!(told(disabled), Some(Err(Refusal::Unsupported)));
        assert_eq!(told(r#"{"stream":"CHECKOUT","seq":9}"#), Some(Err(Refusal::Unsupported)), "a server before 2.14");
    }
}
