//! The data folder of a platform.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A data folder, removed when nobody uses it any more; kept where a test failed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_ours: bool,
}

impl Folder {
    /// A new one.
    pub fn new_temporary() -> Arc<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("checkout-e2e-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Arc::new(Self { path: path.canonicalize().expect("the folder is there"), is_ours: true })
    }

    /// One that is neither made nor removed here.
    pub fn of_others(path: &Path) -> Arc<Self> {
        Arc::new(Self { path: path.canonicalize().expect("the folder is there"), is_ours: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pids of all processes that a `checkout up` started for this folder: those that have their working directory in it.
    /// (Their environment says it too, but a redis-server writes over its own.)
    pub fn children(&self) -> Vec<i32> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let works_here =
            |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|it| it.starts_with(&self.path));
        pids.filter(works_here).collect()
    }

    /// Names of the pid files that are there.
    pub fn pid_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.join("run")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".pid")?.to_owned()));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// The whole log of one process.
    pub fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path.join(format!("log/{name}.log"))).unwrap_or_default()).into_owned()
    }

    /// What `checkout up` itself printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.path.join("up.out")).unwrap_or_default()
    }

    fn print_tails(&self) {
        eprintln!("the folder is kept: {}", self.path.display());
        let logs = fs::read_dir(self.path.join("log")).into_iter().flatten().flatten().map(|entry| entry.path());
        // What the servers write tells little here.
        let ours = logs.filter(|path| {
            !["redis", "nats"].iter().any(|it| path.file_name().unwrap().to_string_lossy().starts_with(it))
        });
        for path in ours.chain([self.path.join("up.out")]) {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- {}, the last lines", path.display());
            for line in &lines[lines.len().saturating_sub(12)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        // Children of a parent that was killed on purpose, in a test that ended before the next parent could take them over.
        for pid in self.children() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            self.print_tails();
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
