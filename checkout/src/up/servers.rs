//! nats-server and redis-server: found, checked, configured.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;
use crate::folder::Folder;
use crate::secrets::{Secrets, make_private_folder, write_private};
use crate::service::Service;
use crate::up::access;
use crate::up::door::Door;

/// A server program we did not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its program file.
    pub program: PathBuf,
    /// What it calls itself: `nats-server`, `redis-server` or `valkey-server`.
    pub kind: String,
    /// Its version.
    pub version: Version,
}

/// A version number, compared from the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// The first thing in `text` that looks like a version: `nats-server: v2.15.1`, `Redis server v=7.0.15 sha=…`.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        text.split(|it: char| !(it.is_ascii_digit() || it == '.')).find_map(|word| {
            let mut numbers = word.split('.').map(|number| number.parse::<u32>().ok());
            let (major, minor) = (numbers.next()??, numbers.next()??);
            Some(Self(major, minor, numbers.next().flatten().unwrap_or(0)))
        })
    }
}

/// Streams that take events as batches came with 2.14; older servers refuse the setting.
const NATS_OLDEST: Version = Version(2, 14, 0);
/// Redis Functions came with 7.0.
const REDIS_OLDEST: Version = Version(7, 0, 0);

/// Finds nats-server.
///
/// # Errors
/// One line that says what to do.
pub fn find_nats() -> Result<Server, Failure> {
    find("NATS_SERVER", &["nats-server"], NATS_OLDEST)
}

/// Finds redis-server or valkey-server.
///
/// # Errors
/// One line that says what to do.
pub fn find_redis() -> Result<Server, Failure> {
    find("REDIS_SERVER", &["redis-server", "valkey-server"], REDIS_OLDEST)
}

/// `$variable` if it is set (and then nothing else: a person who names a program wants that one), else the first new enough program of
/// one of these names in PATH, else in `.tools/bin`.
fn find(variable: &str, names: &[&str], oldest: Version) -> Result<Server, Failure> {
    if let Some(program) = std::env::var_os(variable).filter(|it| !it.is_empty()) {
        let server = ask(Path::new(&program))
            .map_err(|why| Failure::usage(format!("{variable}={}: {why}", program.display())))?;
        if server.version < oldest {
            return Err(Failure::usage(format!(
                "{variable}={}: version {} is too old, {oldest} or newer is needed",
                program.display(),
                server.version
            )));
        }
        return Ok(server);
    }
    let mut too_old = String::new();
    for folder in search_folders() {
        for name in names {
            let candidate = folder.join(name);
            if !candidate.is_file() {
                continue;
            }
            match ask(&candidate) {
                Ok(server) if server.version >= oldest => return Ok(server),
                Ok(server) => {
                    too_old = format!(" ({} is {})", candidate.display(), server.version);
                }
                Err(why) => too_old = format!(" ({}: {why})", candidate.display()),
            }
        }
    }
    Err(Failure::failed(format!(
        "no {} {oldest} or newer found{too_old}: run `make tools`, install one in PATH, or set {variable}",
        names[0]
    )))
}

/// PATH, then `.tools/bin` in every folder above this program and above the working directory.
fn search_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let starts = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    for start in starts.into_iter().flatten() {
        folders.extend(start.ancestors().map(|above| above.join(".tools/bin")));
    }
    folders
}

/// Asks a program for its name and version.
fn ask(program: &Path) -> Result<Server, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| format!("cannot run it: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim();
    let version = Version::find(line).ok_or_else(|| format!("--version says '{line}', which is no version"))?;
    let kind = line.to_ascii_lowercase();
    let kind = ["nats", "valkey", "redis"]
        .into_iter()
        .find(|name| kind.starts_with(name))
        .ok_or_else(|| format!("--version says '{line}', which is another program"))?;
    // It is started in another folder than this one. A bare name is looked for in the PATH each time.
    let is_path = program.components().count() > 1;
    let program =
        if is_path { std::path::absolute(program).map_err(|error| error.to_string())? } else { program.into() };
    Ok(Server { program, kind: format!("{kind}-server"), version })
}

/// Writes the configuration of nats-server `number` and returns its path. `routes` are the addresses at which the servers of a cluster
/// meet, its own among them; none where it is alone.
///
/// # Errors
/// When the folder cannot be written.
pub fn configure_nats(
    folder: &Folder,
    name: &str,
    client: Door,
    monitor: SocketAddr,
    number: u16,
    routes: &[Door],
    secrets: &Secrets,
) -> Result<PathBuf, Failure> {
    let home = folder.root().join(name);
    let mut text = format!(
        "# Written by `checkout up` at every start; changes here are lost.\n\
         server_name: \"checkout-{name}\"\n\
         listen: \"{}\"\n\
         http: \"{monitor}\"\n\
         max_payload: 1MB\n\
         jetstream {{\n\
         \x20 store_dir: {}\n\
         \x20 max_memory_store: 256MB\n\
         \x20 # The streams have limits of their own; this one must only not be in their way.\n\
         \x20 max_file_store: 1TB\n\
         }}\n",
        client.own,
        quoted(&home)
    );
    if client.is_fronted() {
        text.push_str(&format!("client_advertise: \"{}\"\n", client.told));
    }
    text.push_str(&access::nats_users(secrets)?);
    if let Some(own) = usize::from(number).checked_sub(1).and_then(|index| routes.get(index)) {
        text.push_str(&access::nats_cluster(*own, routes, secrets)?);
    }
    write_config(&home, "nats.conf", &text)
}

/// Whether and how a database has replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// It has none.
    None,
    /// It is one of several nodes.
    Node {
        /// The primary that it begins to follow; none where it is that itself.
        replica_of: Option<SocketAddr>,
    },
}

impl Replication {
    fn directives(self) -> String {
        let Self::Node { replica_of } = self else { return String::new() };
        let mut text = "\
             # A primary that nobody follows might be one that was replaced: it must not take writes that will be thrown away.\n\
             min-replicas-to-write 1\nmin-replicas-max-lag 3\n\
             # A replica that comes back is needed at once, and mostly has to catch up only.\n\
             repl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-backlog-size 64mb\n\
             # A link that is dead without a word is noticed in seconds.\n\
             repl-ping-replica-period 1\nrepl-timeout 10\n"
            .to_owned();
        if let Some(primary) = replica_of {
            text.push_str(&follow(primary));
        }
        text
    }
}

/// The configuration line that makes a node follow this primary.
pub fn follow(primary: SocketAddr) -> String {
    format!("replicaof {} {}\n", primary.ip(), primary.port())
}

/// How long a database may be silent before a sentinel holds it to be dead.
pub(crate) const DOWN_AFTER_MS: u64 = 2_000;
/// How long a failover may take; after twice as long another one is tried.
const FAILOVER_LIMIT_MS: u64 = 4_000;

/// A group of nodes as a sentinel is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its name.
    pub group: String,
    /// Its primary.
    pub primary: SocketAddr,
    /// Its replicas. A primary tells a sentinel of them; but one that has lost its disk while a primary is dead would know of none, be elected
    /// all the same, find nobody to choose, and keep the others from choosing, for a minute and more.
    pub replicas: Vec<SocketAddr>,
}

/// Writes the configuration of a sentinel that watches over these groups, and returns its path.
///
/// # Errors
/// When the folder cannot be written.
pub fn configure_sentinel(
    folder: &Folder,
    name: &str,
    door: Door,
    groups: &[Watched],
    secrets: &Secrets,
) -> Result<PathBuf, Failure> {
    let home = folder.root().join(name);
    let mut text = format!(
        "# Written by `checkout up` at every start, and then by the sentinel itself.\n\
         bind {}\nport {}\nprotected-mode yes\ndaemonize no\nset-proc-title no\ndir {}\n",
        door.own.ip(),
        door.own.port(),
        quoted(&home),
    );
    if door.is_fronted() {
        let told = door.told;
        text.push_str(&format!("sentinel announce-ip {}\nsentinel announce-port {}\n", told.ip(), told.port()));
    }
    text.push_str(&access::sentinel_users(secrets)?);
    for Watched { group, primary, replicas } in groups {
        text.push_str(&format!(
            "sentinel monitor {group} {} {} 2\n\
             sentinel down-after-milliseconds {group} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {group} {FAILOVER_LIMIT_MS}\n\
             sentinel parallel-syncs {group} 2\n",
            primary.ip(),
            primary.port()
        ));
        text.push_str(&access::sentinel_login(group, secrets)?);
        for replica in replicas {
            text.push_str(&format!("sentinel known-replica {group} {} {}\n", replica.ip(), replica.port()));
        }
    }
    write_config(&home, "sentinel.conf", &text)
}

/// Writes the configuration of a redis-server and returns its path.
///
/// # Errors
/// When the folder cannot be written.
#[allow(clippy::too_many_arguments)]
pub fn configure_redis<'a>(
    folder: &Folder,
    service: Service,
    name: &str,
    door: Door,
    appendfsync: &str,
    replication: Replication,
    secrets: &Secrets,
    extra: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<PathBuf, Failure> {
    let home = folder.root().join(name);
    let mut text = format!(
        "# Written by `checkout up` at every start; changes here are lost (use --set {name}.DIRECTIVE=VALUE).\n\
         bind {}\nport {}\nprotected-mode yes\ndaemonize no\ndir {}\n\
         # With a title of its own it would write over the environment that it was started with, by which we know our processes.\n\
         set-proc-title no\n\
         # Every instance of a service, and its restarted successor, may connect at once.\n\
         tcp-backlog 4096\n\
         # The append-only file is the truth; snapshots would only double the writing.\n\
         save \"\"\nappendonly yes\nappendfsync {appendfsync}\n\
         # While the file is rewritten, answered writes must be as safe as at any other time.\n\
         no-appendfsync-on-rewrite no\n\
         auto-aof-rewrite-percentage 100\nauto-aof-rewrite-min-size 256mb\n\
         # Orders and records are small hashes; as listpacks they take a third of the memory.\n\
         hash-max-listpack-value 1024\n\
         # Evicting anything would be losing money: a full database must refuse instead.\n\
         maxmemory-policy noeviction\n\
         # Large deletions are freed in the background, not in front of the queue of writes.\n\
         lazyfree-lazy-expire yes\nlazyfree-lazy-server-del yes\nlazyfree-lazy-user-del yes\nlazyfree-lazy-user-flush yes\n",
        door.own.ip(),
        door.own.port(),
        quoted(&home),
    );
    if door.is_fronted() {
        let told = door.told;
        text.push_str(&format!("replica-announce-ip {}\nreplica-announce-port {}\n", told.ip(), told.port()));
    }
    text.push_str(&replication.directives());
    text.push_str(&access::redis_users(service, secrets)?);
    for (directive, value) in extra {
        text.push_str(&format!("{directive} {value}\n"));
    }
    write_config(&home, "redis.conf", &text)
}

/// Writes a configuration file and returns its path.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_config(home: &Path, file: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = home.join(file);
    // Passwords stand in it, and a sentinel that rewrites its own makes that readable; the folder keeps others out.
    make_private_folder(home)?;
    write_private(&path, text)?;
    Ok(path)
}

/// A path as both configuration languages take it: in double quotes, with backslashes.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_each_server_says() {
        for (text, version) in [
            ("nats-server: v2.15.1", Version(2, 15, 1)),
            ("nats-server: v2.12.0-RC.3", Version(2, 12, 0)),
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=d63575eb", Version(7, 0, 15)),
            ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64", Version(9, 1, 2)),
            ("8.2", Version(8, 2, 0)),
        ] {
            assert_eq!(Version::find(text), Some(version), "{text}");
        }
        for text in ["", "nats-server", "v2", "..", "2."] {
            assert_eq!(Version::find(text), None, "{text}");
        }
    }

    #[test]
    fn versions_compare_as_numbers_not_as_text() {
        assert!(Version(2, 9, 25) < NATS_OLDEST);
        assert!(Version(2, 14, 0) >= NATS_OLDEST);
        assert!(Version(10, 0, 0) > REDIS_OLDEST);
    }

    #[test]
    fn a_folder_with_spaces_and_quotes_stays_one_word() {
        assert_eq!(quoted(Path::new("/a b/\"c\"")), "\"/a b/\\\"c\\\"\"");
    }
}
