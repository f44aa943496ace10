//! `checkout down`: asks the `checkout up` of a folder to stop, and waits until it has.

use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failure::Failure;
use crate::folder::{Folder, UP};
use crate::limits::{DOWN, READY_POLL};
use crate::procs::Birth;
use crate::say;
use crate::up::leftover;

/// Stop the platform that runs in a folder, as its own Ctrl-C would, and wait until it has stopped.
///
/// If its `checkout up` was killed, stops what that left behind.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Folder of the platform [default: checkout in the user's data folder]
    #[arg(long, value_name = "DIR", env = "CHECKOUT_DATA")]
    pub data: Option<PathBuf>,
}

/// Stops the platform.
///
/// # Errors
/// When it does not end.
pub async fn run(args: Args) -> Result<(), Failure> {
    let folder = Folder::at(args.data)?;
    if !folder.root().join("lock").exists() {
        say::out(&format!("nothing runs in {}", folder.root().display()));
        return Ok(());
    }
    if let Some(up) = folder.birth(UP).filter(Birth::is_alive) {
        ask_to_stop(&up).await?;
    }
    // Usually nothing is left. It is when `checkout up` was killed instead of asked, a moment ago or long before.
    let _lock = folder.lock()?;
    folder.retract();
    leftover::stop(&folder).await;
    folder.forget(UP);
    say::out("stopped");
    Ok(())
}

async fn ask_to_stop(up: &Birth) -> Result<(), Failure> {
    if let Ok(pid) = i32::try_from(up.pid) {
        kill(Pid::from_raw(pid), Signal::SIGTERM)
            .map_err(|error| Failure::failed(format!("cannot signal process {pid}: {error}")))?;
    }
    let end = Instant::now() + DOWN;
    while up.is_alive() {
        if Instant::now() >= end {
            return Err(Failure::failed(format!("process {} has not ended after {DOWN:?}", up.pid)));
        }
        tokio::time::sleep(READY_POLL).await;
    }
    Ok(())
}
