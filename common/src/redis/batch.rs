//! `batch_init`, in chunks: each blocks the database for a moment only, and all of them belong to one operation.

use std::time::Duration;

use tokio::time::Instant;

use super::{Call, CallError, Database, Operation, Reply};
use crate::http::trouble;
use crate::limits::{BATCH_INIT_CHUNK_ENTRIES, MAX_BATCH_INIT_ENTRIES};
use crate::problem::{Code, Problem};

/// How long a `batch_init` keeps its operation key without any progress, in seconds. After it, a repeat of the request may
/// begin anew, because the instance that ran it is gone.
pub(super) const LEASE_S: u64 = 10;

/// Chunks that are on their way at once: enough to keep the database busy, few enough to leave it to others in between.
const CHUNKS_IN_FLIGHT: usize = 2;

/// Entries `first` to `first + count - 1` of a `batch_init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchChunk {
    /// A token of the request that runs the batch.
    pub(super) owner: String,
    /// The first entry's index.
    pub first: u64,
    /// How many entries.
    pub count: u64,
    /// Whether the batch ends with this chunk.
    pub(super) is_last: bool,
}

/// Runs all chunks of a batch of `entries`; `call` makes the call of each. The database may take `patience` for the first one; when
/// that has been sent the batch is begun, and goes on until it is done, however long that takes.
///
/// # Errors
/// The batch is too large, its operation key is taken, or the database could not be reached, and nothing was begun. Or this
/// process ends: some of the entries are replaced then, each of them whole; repeating the request replaces them all.
pub async fn run_batch(
    database: &Database,
    operation: &Operation,
    entries: u64,
    patience: Duration,
    call: impl Fn(&BatchChunk) -> Call,
) -> Result<(), Problem> {
    if entries > MAX_BATCH_INIT_ENTRIES {
        return Err(Problem::malformed("n", &entries.to_string(), format!("at most {MAX_BATCH_INIT_ENTRIES} entries")));
    }
    let owner = &operation.request;
    // A batch of no entries is one empty chunk, so that its operation is recorded too.
    let total = entries.div_ceil(BATCH_INIT_CHUNK_ENTRIES).max(1);
    let chunks: Vec<BatchChunk> = (0..total)
        .map(|n| {
            let first = n * BATCH_INIT_CHUNK_ENTRIES;
            let count = BATCH_INIT_CHUNK_ENTRIES.min(entries - first);
            BatchChunk { owner: owner.clone(), first, count, is_last: n + 1 == total }
        })
        .collect();
    // Until the first chunk is sent nothing is begun, and it can be given up.
    let mut deadline = Some(Instant::now() + patience);
    for group in in_groups(&chunks) {
        for reply in answered(database, || group.iter().map(&call).collect(), &mut deadline).await? {
            match reply.code() {
                "ok" => {}
                "done" => return Ok(()),
                "running" => return Err(key_in_use(operation)),
                "key_mismatch" => return Err(key_mismatch(operation)),
                _ => return Err(reply.unexpected().into()),
            }
        }
    }
    Ok(())
}

/// The replies to these calls, which may be sent more than once. Past the deadline they are sent again if they may have been
/// carried out, and given up if not; afterwards there is no deadline any more.
async fn answered(
    database: &Database,
    calls: impl Fn() -> Vec<Call>,
    deadline: &mut Option<Instant>,
) -> Result<Vec<Reply>, Problem> {
    loop {
        let replies = database.call_all(calls(), *deadline).await;
        let replies = replies.and_then(|replies| replies.into_iter().collect::<Result<Vec<_>, _>>());
        match (replies, deadline.take()) {
            (Ok(replies), _) => return Ok(replies),
            (Err(CallError::Unknown(_)), Some(_)) => {}
            // Without a deadline only the end of this process ends a call.
            (Err(CallError::NotSent(why) | CallError::Unknown(why)), None) => return Err(interrupted(&why)),
            (Err(error), _) => return Err(trouble(error, "")),
        }
    }
}

/// The first chunk goes alone: it takes the operation's key. The last goes alone too: it records that all are done.
fn in_groups(chunks: &[BatchChunk]) -> impl Iterator<Item = &[BatchChunk]> {
    let (first, rest) = chunks.split_at(chunks.len().min(1));
    let (middle, last) = rest.split_at(rest.len().saturating_sub(1));
    std::iter::once(first).chain(middle.chunks(CHUNKS_IN_FLIGHT)).chain(std::iter::once(last)).filter(|g| !g.is_empty())
}

fn interrupted(why: &str) -> Problem {
    let detail = format!("interrupted when some entries were replaced and others not ({why}); repeat the request");
    Problem::not_known_yet(detail, None)
}

/// The operation's key is held by a request that is still running.
pub fn key_in_use(operation: &Operation) -> Problem {
    Problem::new(
        Code::KeyInUse,
        format!("Idempotency-Key of {}: the first request is still running", operation.fingerprint),
    )
}

/// The operation's key belongs to another request.
pub fn key_mismatch(operation: &Operation) -> Problem {
    let detail = format!("the Idempotency-Key was used with another request than {}", operation.fingerprint);
    Problem::new(Code::KeyMismatch, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_chunk_go_alone() {
        let chunk = |n| BatchChunk { owner: String::new(), first: n, count: 1, is_last: false };
        for n in 1..9_u64 {
            let chunks: Vec<_> = (0..n).map(chunk).collect();
            let groups: Vec<_> = in_groups(&chunks).map(<[_]>::len).collect();
            assert_eq!(groups.iter().sum::<usize>() as u64, n);
            assert_eq!((groups[0], groups[groups.len() - 1]), (1, 1), "{groups:?}");
        }
    }
}
