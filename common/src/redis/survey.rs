//! Looking into a database as a whole, for people who audit it: in pages, beside its service, and without holding anybody up for longer
//! than a page takes.
//!
//! A sum over all balances means something only at one instant, and pages are read one after the other. So the server is asked to say
//! which keys change meanwhile (`CLIENT TRACKING … BCAST`), and those are read again until nothing has changed between the first
//! and the last word of a last look. Where that never happens by itself, because the load is high, writes are held for a few milliseconds
//! (`CLIENT PAUSE … WRITE`, which ends by itself should this process die); clients notice no more than of a slow disk.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisResult, Value,
};
use tokio::sync::mpsc;

use super::connection::locate_primary;

/// Keys or fields that the server is asked for at once: far below a millisecond of its time.
pub const PAGE: usize = 500;

/// How long connecting and each answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Writes are held no longer than this, whatever happens.
const HOLD_MS: u64 = 100;

/// A database could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SurveyError(String);

impl From<redis::RedisError> for SurveyError {
    fn from(error: redis::RedisError) -> Self {
        Self(error.to_string())
    }
}

/// Which keys have changed since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Their names, each at least once.
    pub keys: Vec<String>,
    /// The whole database was emptied.
    pub all: bool,
}

/// A connection of an auditor's own, to what is the primary now.
pub struct Survey {
    connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
}

impl Survey {
    /// Connects.
    ///
    /// # Errors
    /// No primary is found, or it does not let us in.
    pub async fn open(url: &str) -> Result<Self, SurveyError> {
        let primary = locate_primary(url).await?;
        let info = primary.as_str().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT))
            .set_push_sender(sender);
        let connection = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        let mut survey = Self { connection, pushes };
        survey.verify_primary().await?;
        Ok(survey)
    }

    /// Makes sure that what was read is not the past: the node is still a primary.
    ///
    /// # Errors
    /// It is none, or does not answer.
    pub async fn verify_primary(&mut self) -> Result<(), SurveyError> {
        let role: Value = redis::cmd("ROLE").query_async(&mut self.connection).await?;
        let is_primary = matches!(&role, Value::Array(parts) if matches!(parts.first(),
            Some(Value::BulkString(role)) if role == b"master"));
        if is_primary { Ok(()) } else { Err(SurveyError("the node is not the primary any more".into())) }
    }

    /// One page of the keys that begin with `prefix`, and where the next begins: 0 after the last. A key may come twice.
    ///
    /// # Errors
    /// As all reads here: the database does not answer, or says that it does not hold what it should.
    pub async fn keys(&mut self, prefix: &str, cursor: u64) -> Result<(u64, Vec<String>), SurveyError> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(PAGE);
        Ok(scan.query_async(&mut self.connection).await?)
    }

    /// One page of the fields of a hash, likewise.
    ///
    /// # Errors
    /// As above.
    pub async fn fields(&mut self, hash: &str, cursor: u64) -> Result<(u64, Vec<(String, String)>), SurveyError> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(hash).arg(cursor).arg("COUNT").arg(PAGE);
        Ok(scan.query_async(&mut self.connection).await?)
    }

    /// Strings; nothing where a key is not there.
    ///
    /// # Errors
    /// As above.
    pub async fn strings(&mut self, keys: &[String]) -> Result<Vec<Option<String>>, SurveyError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        Ok(redis::cmd("MGET").arg(keys).query_async(&mut self.connection).await?)
    }

    /// Some fields of many hashes.
    ///
    /// # Errors
    /// As above.
    pub async fn hashes(&mut self, keys: &[String], fields: &[&str]) -> Result<Vec<Vec<Option<String>>>, SurveyError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        keys.iter().for_each(|key| {
            pipe.cmd("HMGET").arg(key).arg(fields);
        });
        Ok(pipe.query_async(&mut self.connection).await?)
    }

    /// One field of each of these hashes.
    ///
    /// # Errors
    /// As above.
    pub async fn each_field(&mut self, pairs: &[(String, String)]) -> Result<Vec<Option<String>>, SurveyError> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        pairs.iter().for_each(|(key, field)| {
            pipe.cmd("HGET").arg(key).arg(field);
        });
        Ok(pipe.query_async(&mut self.connection).await?)
    }

    /// All members of a small set.
    ///
    /// # Errors
    /// As above.
    pub async fn members(&mut self, set: &str) -> Result<Vec<String>, SurveyError> {
        Ok(redis::cmd("SMEMBERS").arg(set).query_async(&mut self.connection).await?)
    }

    /// All members of a sorted set, which is expected to be small.
    ///
    /// # Errors
    /// As above.
    pub async fn ranked(&mut self, sorted_set: &str) -> Result<Vec<String>, SurveyError> {
        Ok(redis::cmd("ZRANGE").arg(sorted_set).arg(0).arg(-1).query_async(&mut self.connection).await?)
    }

    /// All fields of a small hash, and the sizes of sorted sets, at one instant.
    ///
    /// # Errors
    /// As above.
    pub async fn at_once(
        &mut self,
        hash: &str,
        sorted_sets: &[&str],
    ) -> Result<(BTreeMap<String, String>, Vec<u64>), SurveyError> {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("HGETALL").arg(hash);
        for set in sorted_sets {
            pipe.cmd("ZCARD").arg(set);
        }
        let values: Vec<Value> = pipe.query_async(&mut self.connection).await?;
        let mut values = values.into_iter();
        let fields = redis::from_redis_value(values.next().unwrap_or(Value::Nil)).map_err(redis::RedisError::from)?;
        let sizes = values.map(redis::from_redis_value::<u64>).collect::<Result<_, _>>();
        Ok((fields, sizes.map_err(redis::RedisError::from)?))
    }

    /// From now on the server says which keys with this prefix change.
    ///
    /// # Errors
    /// As above.
    pub async fn watch(&mut self, prefix: &str) -> Result<(), SurveyError> {
        let mut tracking = redis::cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(prefix);
        let watching: RedisResult<()> = tracking.query_async(&mut self.connection).await;
        Ok(watching?)
    }

    /// What has changed since the last call. The server says it at the end of the round of its loop in which it happened, so only the
    /// answer to a question that is asked after the answer to another one has everything before it that the first one has.
    ///
    /// # Errors
    /// As above.
    pub async fn changed(&mut self) -> Result<Changed, SurveyError> {
        for _ in 0..2 {
            let _: String = redis::cmd("PING").query_async(&mut self.connection).await?;
        }
        let mut changed = Changed::default();
        while let Ok(push) = self.pushes.try_recv() {
            match push.kind {
                PushKind::Invalidate => names(push.data, &mut changed),
                PushKind::Disconnection => return Err(SurveyError("the connection was lost".into())),
                _ => {}
            }
        }
        Ok(changed)
    }

    /// Holds all writes of the database until [`Survey::go_on`], at most a tenth of a second.
    ///
    /// # Errors
    /// As above; also, where the user may not.
    pub async fn hold(&mut self) -> Result<(), SurveyError> {
        let held: RedisResult<()> =
            redis::cmd("CLIENT").arg("PAUSE").arg(HOLD_MS).arg("WRITE").query_async(&mut self.connection).await;
        Ok(held?)
    }

    /// Lets writes go on.
    ///
    /// # Errors
    /// As above.
    pub async fn go_on(&mut self) -> Result<(), SurveyError> {
        let freed: RedisResult<()> = redis::cmd("CLIENT").arg("UNPAUSE").query_async(&mut self.connection).await;
        Ok(freed?)
    }
}

/// The keys that an invalidation names; nil stands for all of them.
fn names(data: Vec<Value>, changed: &mut Changed) {
    for value in data {
        match value {
            Value::Array(keys) => keys.into_iter().for_each(|key| match key {
                Value::BulkString(name) => changed.keys.push(String::from_utf8_lossy(&name).into_owned()),
                Value::SimpleString(name) => changed.keys.push(name),
                _ => {}
            }),
            _ => changed.all = true,
        }
    }
}
