//! What can be asked of the database, and how it can go wrong.

use redis::{Cmd, ToRedisArgs};

use super::batch::{BatchChunk, LEASE_S};
use super::library::Library;
use super::operation::Operation;

/// A function call or a plain command. Plain commands must be reads, because a call may be sent more than once.
#[derive(Clone)]
pub struct Call {
    pub(super) cmd: Cmd,
}

impl Call {
    /// A read, such as `HMGET`.
    pub fn command(name: &'static str) -> Self {
        Self { cmd: redis::cmd(name) }
    }

    /// `FCALL name numkeys keys…`, of this version of the library; arguments follow with [`Call::arg`].
    pub fn function<K: ToRedisArgs>(library: &Library, name: &'static str, keys: &[K]) -> Self {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(library.versioned(name)).arg(keys.len()).arg(keys);
        if crate::IS_NEXT_VERSION {
            // `next.lua` asks for it.
            cmd.arg("next");
        }
        Self { cmd }
    }

    /// A function of the REST interface that runs once per operation (`once` in `prelude.lua`): the operation's record is its
    /// first key, fingerprint and lifetime are its first arguments.
    pub fn once(library: &Library, name: &'static str, operation: &Operation, keys: &[&str]) -> Self {
        let mut all = vec![operation.key.as_str()];
        all.extend(keys);
        Self::function(library, name, &all).arg(&operation.fingerprint).arg(operation.ttl_s)
    }

    /// A function that runs one chunk of a `batch_init` (`chunk` in `prelude.lua`).
    pub fn chunk(
        library: &Library,
        name: &'static str,
        operation: &Operation,
        chunk: &BatchChunk,
        keys: &[&str],
    ) -> Self {
        Self::once(library, name, operation, keys).arg(&chunk.owner).arg(u8::from(chunk.is_last)).arg(LEASE_S)
    }

    /// The words that are sent, for tests that hold a call to the function that it calls.
    pub fn words(&self) -> Vec<String> {
        let text = |word| match word {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            // The cursor of a scan or what a later version of the client may know: no function takes either.
            _ => String::new(),
        };
        self.cmd.args_iter().map(text).collect()
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.cmd.arg(argument);
        self
    }
}

/// Why a call has no reply. The three cases are told apart because a client must be told the truth: nothing happened, or it
/// is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The call was never sent (or the server refused it before doing anything) until the deadline: it has no effect and
    /// never will.
    #[error("not sent to the database: {0}")]
    NotSent(String),
    /// The call was sent and not answered until the deadline. It may have been carried out.
    #[error("the database did not answer: {0}")]
    Unknown(String),
    /// The server says that the call is wrong. That is a defect here; it had no effect.
    #[error("the database refused the call: {0}")]
    Refused(String),
}
