//! A service's function library, and how two versions of it live in one database.
//!
//! While a service is upgraded, instances of its old and of its new version work on one database, and each must call the functions that
//! belong to it. So a library and its functions carry a version in their names (`order_6f1c…`, `order_begin_6f1c…`), and it is not a
//! number that somebody has to remember to raise but a hash of the code: other code is another library, the same code is the same, also
//! for a developer who changes a line and starts again on the same data. A library is loaded where it is missing and never replaced.
//!
//! Old libraries stay until somebody removes them ([`super::libraries`]). To remove one that is still used is no harm: whoever misses its
//! function loads it again.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, RedisWrite, ToRedisArgs, Value};

const PRELUDE: &str = include_str!("prelude.lua");

// What makes the build of the feature `next-version` another version of every library; nothing elsewhere.
#[cfg(feature = "next-version")]
const NEXT: &str = include_str!("next.lua");
#[cfg(not(feature = "next-version"))]
const NEXT: &str = "";

/// A function library: what a service loads into its database.
#[derive(Debug, Clone, Copy)]
pub struct Library {
    name: &'static str,
    code: &'static str,
    version: u64,
}

impl Library {
    /// The library of the service `name`. `code` is the service's own functions, in Lua; the shared prelude is put in front. It registers
    /// each of them under its name followed by `VERSION`.
    pub const fn new(name: &'static str, code: &'static str) -> Self {
        let version = [name, NEXT, PRELUDE, code];
        let version = hash(hash(hash(hash(OFFSET, version[0]), version[1]), version[2]), version[3]);
        Self { name, code, version }
    }

    /// Its name in the database.
    pub fn loaded_name(&self) -> String {
        self.versioned(self.name).to_string()
    }

    /// The name under which the database knows its function `name`.
    pub fn versioned(&self, name: &'static str) -> Versioned {
        Versioned { name, version: self.version }
    }

    /// The whole text that `FUNCTION LOAD` takes.
    pub fn source(&self) -> String {
        let (name, version) = (self.loaded_name(), self.version);
        format!("#!lua name={name}\nlocal VERSION = '_{version:016x}'\n{NEXT}{PRELUDE}{}", self.code)
    }

    /// Loads the library unless the database has it already. Functions are kept and replicated by Redis like data.
    pub(super) async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let (name, source) = (self.loaded_name(), self.source());
        if self.is_loaded(connection, &name, &source).await? {
            return Ok(());
        }
        tracing::info!(library = name, "loading the function library");
        let loaded = redis::cmd("FUNCTION").arg("LOAD").arg(&source).query_async(connection).await;
        // Another instance may have been faster.
        if self.is_loaded(connection, &name, &source).await? { Ok(()) } else { loaded }
    }

    /// Whether the database has the library. Another one of its name is an error: to call what somebody has put there instead of our functions
    /// would be to trust a stranger with the money, to replace it might be to take it from others.
    async fn is_loaded(&self, connection: &mut MultiplexedConnection, name: &str, source: &str) -> RedisResult<bool> {
        let mut list = redis::cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg(name).arg("WITHCODE");
        let loaded: Value = list.query_async(connection).await?;
        match &loaded {
            Value::Array(libraries) if libraries.is_empty() => Ok(false),
            loaded if super::connection::contains(loaded, source.as_bytes()) => Ok(true),
            _ => Err(RedisError::from(std::io::Error::other(format!(
                "the database has other code under the name {name}: it was loaded by hand, or damaged; as its administrator remove it with \
                 FUNCTION DELETE {name}, and the right one is loaded"
            )))),
        }
    }
}

/// A name with the version of its library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versioned {
    name: &'static str,
    version: u64,
}

impl fmt::Display for Versioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{:016x}", self.name, self.version)
    }
}

impl ToRedisArgs for Versioned {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a, which the compiler can compute. Nothing depends on its strength: code is compared whole before it is trusted.
const fn hash(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(PRIME);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vectors of the function's authors.
        assert_eq!(hash(OFFSET, ""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(OFFSET, "a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(OFFSET, "foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn other_code_is_another_library_and_all_of_its_functions_are_others() {
        let (one, other) = (Library::new("order", "-- one"), Library::new("order", "-- other"));
        assert_eq!(one.loaded_name(), Library::new("order", "-- one").loaded_name());
        assert_ne!(one.loaded_name(), other.loaded_name());
        assert_ne!(one.loaded_name(), Library::new("stock", "-- one").loaded_name());
        assert_ne!(one.versioned("order_begin").to_string(), other.versioned("order_begin").to_string());
        let version = one.loaded_name().replace("order_", "_");
        assert_eq!(one.versioned("order_begin").to_string(), format!("order_begin{version}"));
        assert!(one.source().starts_with(&format!("#!lua name=order{version}\nlocal VERSION = '{version}'\n")));
    }
}
