//! Opens connections that are fit for use: to the primary, TCP_NODELAY set, the function library loaded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisError, RedisResult};
use tokio_util::sync::CancellationToken;

use super::Library;
use super::recovery::{Position, Recoveries};
use super::replicated::Lively;
use super::sentinel::{Primary, Sentinels};
use super::standing::Needed;

/// How long opening a connection may take before it is tried anew.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Where the database is found.
enum Place {
    /// Always at the same address.
    Fixed(ConnectionInfo),
    /// Where its sentinels say.
    Watched(Arc<Sentinels>),
}

/// Knows where the database is and what must be in it.
pub(super) struct Connector {
    place: Place,
    library: Library,
    recoveries: Option<Recoveries>,
    /// Connections that are being made fit by a recovery.
    recovering: AtomicUsize,
    /// Why the last connection could not be had.
    trouble: Mutex<Option<String>>,
}

/// A connection of the caller's own.
pub(super) struct Open {
    pub(super) connection: MultiplexedConnection,
    /// The node that it leads to, where that may change.
    pub(super) primary: Option<Primary>,
    /// The mark that was last written through it.
    pub(super) mark: Option<Position>,
    /// Which replicas were seen to follow that node.
    pub(super) lively: Lively,
}

/// Whether this is the URL of a database, or of its sentinels.
pub(super) fn check(url: &str) -> RedisResult<()> {
    Place::of(url).map(drop)
}

impl Place {
    fn of(url: &str) -> RedisResult<Self> {
        Ok(match Sentinels::of(url)? {
            Some(sentinels) => Self::Watched(sentinels),
            None => Self::Fixed(url.into_connection_info()?),
        })
    }
}

impl Connector {
    pub(super) fn new(url: &str, library: Library, recoveries: Option<Recoveries>) -> Result<Self, RedisError> {
        Ok(Self {
            place: Place::of(url)?,
            library,
            recoveries,
            recovering: AtomicUsize::new(0),
            trouble: Mutex::default(),
        })
    }

    /// See [`super::Database::era`].
    pub(super) fn era(&self) -> u64 {
        let epoch = match &self.place {
            Place::Fixed(_) => 0,
            Place::Watched(sentinels) => sentinels.epoch(),
        };
        // Neither ever comes near to 2^32.
        self.recoveries.as_ref().map_or(0, Recoveries::met) << 32 | epoch
    }

    /// Whether some connection waits for a recovery.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovering.load(Ordering::Relaxed) > 0
    }

    /// Where the database is, without user name and password.
    pub(super) fn address(&self) -> String {
        match &self.place {
            Place::Fixed(info) => info.addr().to_string(),
            Place::Watched(sentinels) => sentinels.address(),
        }
    }

    /// Listens to the sentinels, if there are any, until `stop`.
    pub(super) async fn follow(&self, stop: CancellationToken) {
        if let Place::Watched(sentinels) = &self.place {
            sentinels.clone().follow(stop).await;
        }
    }

    /// Resolves when the connection must not be used any longer, because another node is the primary now.
    pub(super) async fn superseded(&self, primary: Option<&Primary>) {
        match (&self.place, primary) {
            (Place::Watched(sentinels), Some(primary)) => sentinels.superseded(primary).await,
            _ => std::future::pending().await,
        }
    }

    /// Which replicas must have a group before it is answered, so far as sentinels say.
    pub(super) fn needed(&self, open: &Open) -> Option<Needed> {
        match (&self.place, &open.primary) {
            (Place::Watched(sentinels), Some(primary)) => Some(sentinels.needed(primary)),
            _ => None,
        }
    }

    /// Whether [`Connector::superseded`] would resolve at once.
    pub(super) fn is_superseded(&self, open: &Open) -> bool {
        match (&self.place, &open.primary) {
            (Place::Watched(sentinels), Some(primary)) => sentinels.is_superseded(primary),
            _ => false,
        }
    }

    /// Why the last connection could not be had; nothing where it could.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new connection of the caller's own, to what is the primary now, when that may be used. Given up at `stop`.
    pub(super) async fn connect(&self, stop: &CancellationToken) -> RedisResult<Open> {
        let connected = self.connect_fit(stop).await;
        let trouble = connected.as_ref().err().map(ToString::to_string);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        connected
    }

    async fn connect_fit(&self, stop: &CancellationToken) -> RedisResult<Open> {
        let mut open = self.connect_somehow().await?;
        let Some(recoveries) = &self.recoveries else { return Ok(open) };
        let _counted = Counted::new(&self.recovering);
        let primary = open.primary.clone();
        let epoch = primary.as_ref().map_or(0, |primary| primary.epoch);
        tokio::select! {
            recovered = recoveries.ensure(&mut open.connection, epoch) => recovered?,
            () = self.superseded(primary.as_ref()) => return Err(superseded()),
            () = stop.cancelled() => return Err(trouble(std::io::ErrorKind::Interrupted, "stopping")),
        }
        Ok(open)
    }

    /// A new connection to what is the primary now.
    async fn connect_somehow(&self) -> RedisResult<Open> {
        let connect = async {
            let sentinels = match &self.place {
                Place::Fixed(info) => return self.connect_to(info.clone(), None).await,
                Place::Watched(sentinels) => sentinels,
            };
            let primary = sentinels.locate().await?;
            tokio::select! {
                open = self.connect_to(sentinels.node(&primary), Some(primary.clone())) => open,
                // A node that stands still is not waited for when another one has taken its place.
                () = sentinels.superseded(&primary) => Err(superseded()),
            }
        };
        let too_long = || Err(trouble(std::io::ErrorKind::TimedOut, "connecting took too long"));
        tokio::time::timeout(2 * CONNECT_LIMIT, connect).await.unwrap_or_else(|_| too_long())
    }

    async fn connect_to(&self, info: ConnectionInfo, primary: Option<Primary>) -> RedisResult<Open> {
        let mut connection = open(info).await?;
        if primary.is_some() {
            verify_role(&mut connection).await?;
        }
        self.library.load(&mut connection).await?;
        // So that it is seen at the database who uses which library, see [`super::libraries`].
        redis::cmd("CLIENT").arg("SETNAME").arg(self.library.loaded_name()).query_async::<()>(&mut connection).await?;
        Ok(Open { connection, primary, mark: None, lively: Lively::new() })
    }
}

/// Counted for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn open(info: ConnectionInfo) -> RedisResult<MultiplexedConnection> {
    let tcp = TcpSettings::default().set_nodelay(true);
    // The lane bounds each group by its callers' deadlines, so the client's own limit on replies is off.
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_LIMIT)).set_response_timeout(None);
    Client::open(info.set_tcp_settings(tcp))?.get_multiplexed_async_connection_with_config(&config).await
}

/// A node that has been demoted refuses writes by itself, but would answer reads from a past that is over.
async fn verify_role(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let role: redis::Value = redis::cmd("ROLE").query_async(connection).await?;
    if contains(&role, b"master") {
        return Ok(());
    }
    Err(trouble(
        std::io::ErrorKind::NotConnected,
        "the node that the sentinels name is not a primary (yet, or any more)",
    ))
}

/// The URL at which the primary is reached now: for programs that look into a database, and use what they find at once.
///
/// # Errors
/// `url` is not that of a database, or no sentinel answers.
pub async fn locate_primary(url: &str) -> RedisResult<String> {
    let Some(sentinels) = Sentinels::of(url)? else { return Ok(url.to_owned()) };
    let primary = sentinels.locate().await?;
    let login =
        url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).and_then(|(it, _)| it.rsplit_once('@'));
    let login = login.map(|(login, _)| format!("{login}@")).unwrap_or_default();
    let db = sentinels.node(&primary).redis_settings().db();
    Ok(format!("redis://{login}{}:{}/{db}", primary.host, primary.port))
}

/// The error of a connection to a node that is not the primary any more.
pub(super) fn superseded() -> RedisError {
    trouble(std::io::ErrorKind::ConnectionAborted, "another node is the primary now")
}

pub(super) fn trouble(kind: std::io::ErrorKind, why: &'static str) -> RedisError {
    RedisError::from(std::io::Error::new(kind, why))
}

/// Whether the text stands anywhere in a nested reply.
pub(super) fn contains(value: &redis::Value, text: &[u8]) -> bool {
    match value {
        redis::Value::BulkString(bytes) => bytes == text,
        redis::Value::SimpleString(string) => string.as_bytes() == text,
        redis::Value::VerbatimString { text: string, .. } => string.as_bytes() == text,
        redis::Value::Array(values) | redis::Value::Set(values) => values.iter().any(|value| contains(value, text)),
        redis::Value::Map(pairs) => pairs.iter().any(|(key, value)| contains(key, text) || contains(value, text)),
        _ => false,
    }
}
