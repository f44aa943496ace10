//! Opens connections that are fit for use: TCP_NODELAY set, the function library loaded.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, RedisResult};

use super::Library;

/// How long opening a connection may take before it is tried anew.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Knows where the database is and what must be in it.
pub(super) struct Connector {
    client: Client,
    library: Library,
}

impl Connector {
    pub(super) fn new(url: &str, library: Library) -> Result<Self, RedisError> {
        let info = url.into_connection_info()?;
        let tcp = TcpSettings::default().set_nodelay(true);
        Ok(Self { client: Client::open(info.set_tcp_settings(tcp))?, library })
    }

    /// Where the database is, without user name and password.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// A new connection of the caller's own.
    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // The lane bounds each group by its callers' deadlines, so the client's own limit on replies is off.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_LIMIT)).set_response_timeout(None);
        let connect = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            self.load_library(&mut connection).await?;
            Ok(connection)
        };
        tokio::time::timeout(2 * CONNECT_LIMIT, connect).await.unwrap_or_else(|_| {
            Err(RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting took too long")))
        })
    }

    /// Loads the library unless the database has it already. Functions are kept and replicated by Redis like data.
    async fn load_library(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let source = self.library.source();
        let mut list = redis::cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg(self.library.name).arg("WITHCODE");
        let loaded: redis::Value = list.query_async(connection).await?;
        if contains(&loaded, source.as_bytes()) {
            return Ok(());
        }
        tracing::info!(library = self.library.name, "loading the function library");
        redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(source).query_async(connection).await
    }
}

/// Whether the text stands anywhere in a nested reply.
fn contains(value: &redis::Value, text: &[u8]) -> bool {
    match value {
        redis::Value::BulkString(bytes) => bytes == text,
        redis::Value::SimpleString(string) => string.as_bytes() == text,
        redis::Value::VerbatimString { text: string, .. } => string.as_bytes() == text,
        redis::Value::Array(values) | redis::Value::Set(values) => values.iter().any(|value| contains(value, text)),
        redis::Value::Map(pairs) => pairs.iter().any(|(key, value)| contains(key, text) || contains(value, text)),
        _ => false,
    }
}
