//! The function libraries that a database holds, for people who upgrade its service: which versions there are, how many connections use
//! each, and the removal of those that nobody uses any more.

use std::collections::BTreeMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::connection::{locate_primary, open};

/// A library as a database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its name, with its version.
    pub name: String,
    /// Connections of instances that use it now.
    pub connections: usize,
}

/// The libraries of a database, sorted by name.
///
/// # Errors
/// There is no primary, or it does not answer.
pub async fn list(url: &str) -> RedisResult<Vec<Loaded>> {
    look(&mut connect(url).await?).await
}

/// Removes the libraries of this service that no instance uses, and says which. One that an instance needs again, because it was only away, is
/// loaded again by that instance.
///
/// # Errors
/// There is no primary, or it does not answer, or does not permit it.
pub async fn remove_unused(url: &str, service: &str) -> RedisResult<Vec<String>> {
    let mut connection = connect(url).await?;
    let mut unused: Vec<String> = Vec::new();
    let of_service = |name: &str| name.rsplit_once('_').map_or(name, |(service, _version)| service) == service;
    for library in look(&mut connection).await? {
        if library.connections > 0 || !of_service(&library.name) {
            continue;
        }
        redis::cmd("FUNCTION").arg("DELETE").arg(&library.name).query_async::<()>(&mut connection).await?;
        unused.push(library.name);
    }
    Ok(unused)
}

async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let primary = locate_primary(url).await?;
    open(redis::IntoConnectionInfo::into_connection_info(primary.as_str())?).await
}

async fn look(connection: &mut MultiplexedConnection) -> RedisResult<Vec<Loaded>> {
    // The libraries first: one that is loaded after this is not removed.
    let libraries: Value = redis::cmd("FUNCTION").arg("LIST").query_async(connection).await?;
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(connection).await?;
    let mut names = BTreeMap::new();
    for name in clients.lines().flat_map(|line| line.split(' ')).filter_map(|field| field.strip_prefix("name=")) {
        *names.entry(name).or_default() += 1;
    }
    let mut found: Vec<Loaded> = library_names(&libraries)
        .into_iter()
        .map(|name| Loaded { connections: names.get(&*name).copied().unwrap_or_default(), name })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The values of `library_name`, whatever the protocol's version makes of a map.
fn library_names(value: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    match value {
        Value::Array(values) => {
            let own = values.chunks_exact(2).filter(|pair| text(&pair[0]).as_deref() == Some("library_name"));
            let own: Vec<String> = own.filter_map(|pair| text(&pair[1])).collect();
            if own.is_empty() { values.iter().flat_map(library_names).collect() } else { own }
        }
        Value::Map(pairs) => {
            let own = pairs.iter().filter(|(key, _)| text(key).as_deref() == Some("library_name"));
            own.filter_map(|(_, value)| text(value)).collect()
        }
        _ => Vec::new(),
    }
}
