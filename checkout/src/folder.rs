//! The data folder of one platform, and what is found in it.
//!
//! ```text
//! DIR/lock                 held (flock) by the `checkout up` that runs here
//! DIR/run/NAME.pid         pid of a running process: up, gateway, nats-1, redis-order, order-1, …
//! DIR/run/NAME.birth       the same pid with its start time and what folder it runs in, so that a recycled pid is never taken for ours, nor are
//!                          the processes of a folder that this one is a copy of
//! DIR/run/platform.json    all addresses, with logins, and versions; there from the moment all is ready until the stop begins
//! DIR/secrets/*            one password each; like platform.json and nats.env readable by the owner alone
//! DIR/nats.env             what the `nats` command line needs to look inside: `. DIR/nats.env`
//! DIR/log/NAME.log         what the process wrote, appended
//! DIR/nats-*, DIR/redis-*, DIR/sentinel-*   configuration and data of the servers
//! ```

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::procs::Birth;
use crate::say;
use crate::secrets::write_private;
use crate::service::Service;

/// Name of the `checkout up` process itself among the pid files.
pub const UP: &str = "up";

/// A platform's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

/// Held as long as a `checkout up` runs in the folder; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Folder {
    /// The folder `root`, or the user's default; made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn create(root: Option<PathBuf>) -> Result<Self, Failure> {
        let folder = Self::at(root)?;
        // The servers read it from configuration files, line by line.
        if folder.root.to_str().is_none_or(|path| path.contains(char::is_control)) {
            let shown = say::word(&folder.root);
            return Err(Failure::usage(format!(
                "--data {shown}: choose a folder without line breaks and the like in its name, in UTF-8"
            )));
        }
        for part in ["run", "log"] {
            let path = folder.root.join(part);
            std::fs::create_dir_all(&path)
                .map_err(|error| Failure::failed(format!("cannot make the folder {}: {error}", path.display())))?;
        }
        // The servers get this path too, and run with a working directory of their own.
        let root = folder
            .root
            .canonicalize()
            .map_err(|error| Failure::failed(format!("{}: {error}", folder.root.display())))?;
        Ok(Self { root })
    }

    /// The folder `root`, or the user's default, as it is.
    ///
    /// # Errors
    /// When no folder is given and the user has no home.
    pub fn at(root: Option<PathBuf>) -> Result<Self, Failure> {
        let root = root
            .or_else(default_root)
            .ok_or_else(|| Failure::usage("neither XDG_DATA_HOME nor HOME is set: say where with --data DIR"))?;
        Ok(Self { root: root.canonicalize().unwrap_or(root) })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pid file of a process.
    #[must_use]
    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.pid"))
    }

    fn birth_file(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.birth"))
    }

    /// The log of a process.
    #[must_use]
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// The addresses of the running platform.
    #[must_use]
    pub fn platform_file(&self) -> PathBuf {
        self.root.join("run").join("platform.json")
    }

    /// Takes the folder for this process.
    ///
    /// # Errors
    /// When another `checkout up` holds it.
    pub fn lock(&self) -> Result<Lock, Failure> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Failure::failed(format!(
                "a platform already runs in {}{}: stop it with `checkout down --data {}`, or choose another folder with --data",
                self.root.display(),
                self.birth(UP).map(|birth| format!(" (pid {})", birth.pid)).unwrap_or_default(),
                say::word(&self.root),
            ))),
            Err(TryLockError::Error(error)) => Err(Failure::failed(format!("cannot lock {}: {error}", path.display()))),
        }
    }

    /// Whether a `checkout up` runs here. Asked of its identity, not of the lock: to try a lock is to hold it for a moment, and a
    /// `checkout up` that starts just then would be turned away.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.birth(UP).is_some_and(|birth| birth.is_alive())
    }

    /// Records that `name` runs as `pid`. The identity comes first: whoever finds a pid file can check it.
    pub fn record(&self, name: &str, pid: u32) {
        if let Some(birth) = Birth::of(pid) {
            self.keep(name, &birth);
        }
        write_whole(&self.pid_file(name), &format!("{pid}\n"));
    }

    pub(crate) fn keep(&self, name: &str, birth: &Birth) {
        write_whole(&self.birth_file(name), &format!("{} {}\n", birth.to_line().trim_end(), self.identity()));
    }

    /// Forgets the process `name`.
    pub fn forget(&self, name: &str) {
        let _ = std::fs::remove_file(self.pid_file(name));
        let _ = std::fs::remove_file(self.birth_file(name));
    }

    /// The identity recorded for `name`. Nothing where it was recorded in the folder that this one is a copy of: its processes are not ours.
    #[must_use]
    pub fn birth(&self, name: &str) -> Option<Birth> {
        let line = std::fs::read_to_string(self.birth_file(name)).ok()?;
        let (birth, folder) = line.trim_end().rsplit_once(' ')?;
        Birth::parse(birth).filter(|_| folder == self.identity())
    }

    /// What tells this folder from a copy of it, and stays when it is renamed.
    fn identity(&self) -> String {
        std::fs::metadata(&self.root)
            .map_or_else(|_| "none".to_owned(), |data| format!("{}:{}", data.dev(), data.ino()))
    }

    /// Every process that is recorded here, whether or not it still lives.
    #[must_use]
    pub fn recorded(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join("run")) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| {
                let file = entry.file_name();
                let name = file.to_str()?.strip_suffix(".birth")?;
                Some(name.to_owned())
            })
            .collect();
        names.sort();
        names
    }

    /// The end of a log, from `offset` on: its last lines.
    #[must_use]
    pub fn log_tail(&self, name: &str, offset: u64, lines: usize) -> Vec<String> {
        // Enough for a few long lines, whatever the size of the log.
        const WINDOW_BYTES: u64 = 64 << 10;
        let Ok(mut file) = File::open(self.log_file(name)) else {
            return Vec::new();
        };
        let end = file.metadata().map_or(0, |metadata| metadata.len());
        let from = offset.max(end.saturating_sub(WINDOW_BYTES)).min(end);
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// Writes the addresses.
    pub fn publish(&self, platform: &Platform) {
        if let Ok(text) = serde_json::to_string_pretty(platform) {
            // It holds the logins with which this command's other parts look into the servers.
            let _ = write_private(&self.platform_file(), &format!("{text}\n"));
        }
    }

    /// Takes the addresses back.
    pub fn retract(&self) {
        let _ = std::fs::remove_file(self.platform_file());
    }

    /// Reads the addresses of the platform that runs here.
    ///
    /// # Errors
    /// When none is ready here.
    pub fn platform(&self) -> Result<Platform, Failure> {
        let path = self.platform_file();
        let text = std::fs::read_to_string(&path).map_err(|_| {
            let hint = if self.is_running() { "one is starting or stopping" } else { "start one with `checkout up`" };
            Failure::failed(format!("no platform is ready in {}: {hint}", self.root.display()))
        })?;
        serde_json::from_str(&text).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
    }
}

/// The user's data folder, by the XDG rules.
fn default_root() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("checkout"))
}

/// Writes a small file so that a reader sees the old text or the new one, never half.
fn write_whole(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    if std::fs::write(&temporary, text).is_ok() {
        let _ = std::fs::rename(&temporary, path);
    }
}

/// The addresses of a running platform: `DIR/run/platform.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The one URL for all routes.
    pub gateway: String,
    /// Where NATS clients connect; of several servers the URLs are separated by commas.
    pub nats: String,
    /// The monitoring pages of the first nats-server.
    pub nats_monitor: String,
    /// The database of each service: `redis://…`, or `redis+sentinel://…` where sentinels know which node is the primary now.
    pub redis: BTreeMap<Service, String>,
    /// Whether everything that keeps data is there three times.
    #[serde(default)]
    pub ha: bool,
    /// The instances of each service: base URLs, in the order of their numbers.
    pub services: BTreeMap<Service, Vec<String>>,
    /// Every process by its name, with its address.
    pub processes: Vec<Address>,
    /// Names and versions of what runs, for reports.
    pub versions: BTreeMap<String, String>,
    /// The fsync policy of the databases.
    pub appendfsync: String,
}

/// A process and where it listens. Its pid is in `run/NAME.pid`, and changes when it is restarted; this does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Name of the process.
    pub name: String,
    /// URL of the process.
    pub url: String,
    /// Where a nats-server has its monitoring pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn temporary(name: &str) -> Folder {
        let root = std::env::temp_dir().join(format!("checkout-{name}-{}", std::process::id()));
        Folder::create(Some(root)).unwrap()
    }

    #[test]
    fn the_folder_is_taken_once() {
        let folder = temporary("lock");
        let lock = folder.lock().unwrap();
        assert!(folder.lock().unwrap_err().to_string().contains("already runs"));
        drop(lock);
        assert!(folder.lock().is_ok());
        std::fs::remove_dir_all(folder.root()).unwrap();
    }

    #[test]
    fn a_folder_that_no_configuration_file_could_name_is_refused() {
        for name in [OsStr::new("line\nbreak"), OsStr::from_bytes(b"no\xffutf8")] {
            let root = std::env::temp_dir().join(name);
            assert!(Folder::create(Some(root.clone())).is_err());
            assert!(!root.exists());
        }
    }

    #[test]
    fn a_copy_of_a_folder_does_not_have_its_processes() {
        let (folder, copy) = (temporary("original"), temporary("copy"));
        folder.record("order-1", std::process::id());
        std::fs::copy(folder.birth_file("order-1"), copy.birth_file("order-1")).unwrap();
        assert!(folder.birth("order-1").unwrap().is_alive());
        assert_eq!(copy.birth("order-1"), None);
        for folder in [folder, copy] {
            std::fs::remove_dir_all(folder.root()).unwrap();
        }
    }

    #[test]
    fn what_is_recorded_is_found_again_and_forgotten() {
        let folder = temporary("record");
        folder.record("order-1", std::process::id());
        assert_eq!(folder.recorded(), ["order-1"]);
        assert!(folder.birth("order-1").unwrap().is_alive());
        let pid = std::fs::read_to_string(folder.pid_file("order-1")).unwrap();
        assert_eq!(pid.trim(), std::process::id().to_string());
        folder.forget("order-1");
        assert!(folder.recorded().is_empty());
        std::fs::remove_dir_all(folder.root()).unwrap();
    }

    #[test]
    fn the_tail_of_a_log_begins_where_this_start_began() {
        let folder = temporary("tail");
        std::fs::write(folder.log_file("x"), "old\n").unwrap();
        let offset = std::fs::metadata(folder.log_file("x")).unwrap().len();
        std::fs::write(folder.log_file("x"), "old\none\n\ntwo\nthree\n").unwrap();
        assert_eq!(folder.log_tail("x", offset, 2), ["two", "three"]);
        assert_eq!(folder.log_tail("x", offset, 9), ["one", "two", "three"]);
        assert!(folder.log_tail("x", 999, 9).is_empty());
        std::fs::remove_dir_all(folder.root()).unwrap();
    }
}
