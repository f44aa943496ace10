//! Real redis-server processes for one test each, on free ports, with data in a temporary folder of their own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::aio::MultiplexedConnection;
use redis::{Connection, RedisResult, Value};

use crate::ports::Reserved;

/// How long anything may take. Only a failing test waits as long. Sentinels that have stood still for two seconds do nothing for thirty more.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What the platform's own databases are set to, apart from port and folder.
const DIRECTIVES: &[(&str, &str)] = &[
    ("bind", "127.0.0.1"),
    ("save", ""),
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("hash-max-listpack-value", "1024"),
    ("maxmemory-policy", "noeviction"),
];

/// How long a server may take for one answer to a question that is asked again if need be.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The same where it is not known whether one of ours is there at all.
const GREETING_LIMIT: Duration = Duration::from_secs(2);

/// A redis-server. It is killed and its folder removed when this is dropped, also by a panic.
pub struct Redis {
    child: Child,
    dir: PathBuf,
    /// Its own also while it is restarted.
    port: Reserved,
    directives: Vec<(String, String)>,
}

impl Redis {
    /// A server that is as durable as the platform's own.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server that forgets everything when it ends: faster, for tests that never end it.
    pub fn start_in_memory() -> Self {
        Self::start_with(&[("appendonly", "no")])
    }

    /// A server with directives of `redis.conf` that replace or extend those of [`Redis::start`].
    pub fn start_with(directives: &[(&str, &str)]) -> Self {
        let dir = new_dir();
        let mut own: Vec<(String, String)> =
            directives.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for _ in 0..20 {
            let port = Reserved::new();
            let child = spawn(&dir, port.port(), &own, &[]);
            let mut redis = Self { child, dir: dir.clone(), port, directives: own };
            if redis.wait_until_it_answers() {
                return redis;
            }
            // Another process took the port in between; its folder is used again.
            own = std::mem::take(&mut redis.directives);
        }
        panic!("redis-server does not start on any port");
    }

    /// `redis://host:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.port.address())
    }

    /// The port it listens at.
    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills it, if it runs, and starts it on the same port and data; waits until it answers.
    pub fn restart(&mut self) {
        self.restart_without_waiting(&[]);
        let deadline = Instant::now() + PATIENCE;
        while !self.wait_until_it_answers() {
            assert!(Instant::now() < deadline, "redis-server does not restart: {}", self.log());
            self.restart_without_waiting(&[]);
        }
    }

    /// As [`Redis::restart`], but with further directives, and without waiting: it may still be loading its data.
    pub fn restart_without_waiting(&mut self, directives: &[(&str, &str)]) {
        self.kill();
        self.child = spawn(&self.dir, self.port.port(), &self.directives, directives);
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// A connection to look into it, and to change it, by hand.
    pub fn console(&self) -> Console {
        let connection = connect(&self.url(), PATIENCE).expect("redis-server answers");
        Console(connection)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for PING. Says whether the process lives; if not, it could not have its port.
    fn wait_until_it_answers(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if is_answered_by(&self.url(), self.child.id()) {
                return true;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(dir: &Path, port: u16, own: &[(String, String)], more: &[(&str, &str)]) -> Child {
    std::fs::create_dir_all(dir).unwrap();
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new(binary());
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(dir);
    let own = own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // Where a directive is given more than once, the last one counts.
    for (name, value) in DIRECTIVES.iter().copied().chain(own).chain(more.iter().copied()) {
        command.arg(format!("--{name}")).arg(value);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().expect("redis-server starts")
}

/// An empty folder for a server.
pub(crate) fn new_dir() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("redis-test-{}-{number}-{:x}", std::process::id(), random()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// `$REDIS_SERVER`, or the first redis-server or valkey-server in the PATH or in `.tools/bin` of a folder above.
pub(crate) fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("REDIS_SERVER").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let starts = [Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))), std::env::current_dir().ok()];
    let above = starts.iter().flatten().flat_map(|start| start.ancestors()).map(|dir| dir.join(".tools/bin"));
    std::env::split_paths(&path)
        .chain(above)
        .flat_map(|dir| ["redis-server", "valkey-server"].map(|name| dir.join(name)))
        .find(|path| path.is_file())
        .expect("redis-server: run `make tools`, put one in the PATH, or set REDIS_SERVER")
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A connection for a test's own questions. (By itself the library waits for half a second.)
///
/// # Errors
/// Nobody answers.
pub async fn open(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_LIMIT))
        .set_response_timeout(Some(ANSWER_LIMIT));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

fn connect(url: &str, limit: Duration) -> RedisResult<Connection> {
    let connection = redis::Client::open(url)?.get_connection_with_timeout(limit)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Whether this very process answers at `url`, and not another one that has the port.
fn is_answered_by(url: &str, pid: u32) -> bool {
    let Ok(mut connection) = connect(url, GREETING_LIMIT) else { return false };
    let info: RedisResult<String> = redis::cmd("INFO").arg("server").query(&mut connection);
    let pong: RedisResult<String> = redis::cmd("PING").query(&mut connection);
    pong.is_ok() && info.is_ok_and(|info| info.lines().any(|line| line == format!("process_id:{pid}")))
}

/// A connection to a [`Redis`] for a test's own questions. It panics where the server answers with an error.
pub struct Console(Connection);

impl Console {
    /// A connection; nothing where nobody answers.
    pub fn open(url: &str) -> Option<Self> {
        connect(url, ANSWER_LIMIT).ok().map(Self)
    }

    /// Runs a command and returns its reply as one sequence, with `None` for nil.
    pub fn ask(&mut self, words: &[&str]) -> Vec<Option<String>> {
        let value = self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let mut parts = Vec::new();
        flatten(value, &mut parts);
        parts
    }

    /// Runs a command that may fail.
    ///
    /// # Errors
    /// The server answered with an error, or not at all.
    pub fn try_ask(&mut self, words: &[&str]) -> RedisResult<Value> {
        let (name, arguments) = words.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query(&mut self.0)
    }

    /// Runs a command with a single reply; nil is nothing.
    pub fn text(&mut self, words: &[&str]) -> Option<String> {
        self.ask(words).into_iter().next().flatten()
    }

    /// Runs a command with a single reply that is a number; nil is 0.
    pub fn number(&mut self, words: &[&str]) -> i64 {
        self.text(words).map_or(0, |text| text.parse().expect("a number"))
    }

    /// Calls a function and returns its reply; nil is empty.
    pub fn fcall(&mut self, name: &str, keys: &[&str], arguments: &[&str]) -> Vec<String> {
        let count = keys.len().to_string();
        let words: Vec<&str> = ["FCALL", name, &count].iter().chain(keys).chain(arguments).copied().collect();
        self.ask(&words).into_iter().map(Option::unwrap_or_default).collect()
    }

    /// The names of all keys that begin with `prefix`, sorted.
    pub fn keys(&mut self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", &format!("{prefix}*")]).into_iter().flatten().collect();
        keys.sort();
        keys
    }

    /// All fields of a hash; empty where there is none.
    pub fn hash(&mut self, key: &str) -> BTreeMap<String, String> {
        let parts: Vec<String> = self.ask(&["HGETALL", key]).into_iter().flatten().collect();
        parts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }

    /// A field of a hash that holds a whole number; 0 where there is none.
    pub fn field(&mut self, key: &str, field: &str) -> i128 {
        self.text(&["HGET", key, field]).map_or(0, |text| text.parse().expect("a number"))
    }

    /// Everything that is stored, as text to compare: key, type, value and whether it expires.
    pub fn dump(&mut self) -> BTreeMap<String, String> {
        let keys = self.keys("");
        keys.into_iter().map(|key| (key.clone(), self.describe(&key))).collect()
    }

    fn describe(&mut self, key: &str) -> String {
        let kind = self.text(&["TYPE", key]).unwrap_or_default();
        let expires = if self.number(&["PTTL", key]) >= 0 { ", expires" } else { "" };
        let value = match kind.as_str() {
            "string" => format!("{:?}", self.text(&["GET", key]).unwrap_or_default()),
            "hash" => format!("{:?}", self.hash(key)),
            "zset" => format!("{:?}", self.ask(&["ZRANGE", key, "0", "-1", "WITHSCORES"])),
            _ => {
                let mut members = self.ask(&["SMEMBERS", key]);
                members.sort();
                format!("{members:?}")
            }
        };
        format!("{kind} {value}{expires}")
    }
}

fn flatten(value: Value, parts: &mut Vec<Option<String>>) {
    match value {
        Value::Nil => parts.push(None),
        Value::Int(number) => parts.push(Some(number.to_string())),
        Value::Double(number) => parts.push(Some(number.to_string())),
        Value::BulkString(bytes) => parts.push(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => parts.push(Some(text)),
        Value::Okay => parts.push(Some("OK".into())),
        Value::Array(values) | Value::Set(values) => values.into_iter().for_each(|value| flatten(value, parts)),
        Value::Map(pairs) => pairs.into_iter().for_each(|(key, value)| {
            flatten(key, parts);
            flatten(value, parts);
        }),
        other => parts.push(Some(format!("{other:?}"))),
    }
}
