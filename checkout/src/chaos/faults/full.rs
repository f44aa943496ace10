//! A disk without room: for one process, and without being root.
//!
//! The kernel refuses to let a process make a file longer than its limit (`RLIMIT_FSIZE`), in the middle of a write if need be, as it does where a disk is
//! full. A server that ends because of it is started again by `checkout up`, and finds the disk as full as before, a moment later.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::chaos::faults::field::Field;
use crate::chaos::faults::hurt::came_back;
use crate::chaos::faults::schedule::Planned;

/// How often it is looked whether the process is another one, that may write again.
const POLL: Duration = Duration::from_millis(10);

/// Lets a process have no room for a while.
pub async fn fill(field: &Field, name: &str, planned: &Planned) -> Result<String, String> {
    let home = field.folder().root().join(name);
    let began = Instant::now();
    let mut limited = None;
    let mut times = 0;
    let mut longest = 0;
    while began.elapsed() < planned.lasts {
        if let Some(pid) = field.pid(name).filter(|pid| limited != Some(*pid)) {
            let room = planned.dose % 500;
            longest = length_of_log(&home) + room;
            if limit(pid, Some(longest)) {
                limited = Some(pid);
                times += 1;
            }
        }
        tokio::time::sleep(POLL).await;
    }
    let Some(last) = limited else { return Err("it does not run".to_owned()) };
    let ended = field.pid(name) != Some(last);
    // The kernel lets a write that does not fit fill what is left, so a log of that length has met its end.
    let is_full = length_of_log(&home) >= longest;
    limit(last, None);
    if ended {
        came_back(field, name, last).await?;
    }
    if !is_full && !ended && times == 1 {
        return Err(format!("nobody needed the room in {:.1} s", planned.lasts.as_secs_f64()));
    }
    Ok(format!("no room for {:.1} s, it died {} times", planned.lasts.as_secs_f64(), times - 1 + u32::from(ended)))
}

/// The length of the append-only file that is written to: the newest.
fn length_of_log(home: &Path) -> u64 {
    let mut folders = vec![home.to_owned()];
    let mut newest = None;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(".aof") {
                newest = newest.max(metadata.modified().ok().map(|at| (at, metadata.len())));
            }
        }
    }
    newest.map_or(0, |(_, length)| length)
}

/// Sets how long the files of a process may become, as far as its own limit goes; whether that could be done.
fn limit(pid: u32, length: Option<u64>) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // Ours is what it had, because it is a child of a child of ours.
    let own = getrlimit(Resource::Fsize);
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: length.or(own.current), maximum: own.maximum }).is_ok()
}
