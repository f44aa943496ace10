//! A platform for one benchmark or one chaos run alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::failure::Failure;
use crate::folder::Folder;
use crate::limits::READY_POLL;
use crate::say;
use crate::up::ShapeArgs;

/// A running `checkout up` of our own.
#[derive(Debug)]
pub struct OwnPlatform {
    folder: Folder,
    up: Child,
    /// Whether the folder goes when the platform has stopped.
    temporary: bool,
}

impl OwnPlatform {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become so; its own words are on standard error already.
    pub async fn start(data: Option<PathBuf>, shape: &ShapeArgs) -> Result<Self, Failure> {
        let temporary = data.is_none();
        let root = data.unwrap_or_else(|| std::env::temp_dir().join(format!("checkout-bench-{}", std::process::id())));
        Self::start_in(root, temporary, shape, None).await
    }

    /// Starts one in this folder, which goes when it has stopped if it is `temporary`. What it says goes to standard error, or to a file.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_in(
        root: PathBuf,
        temporary: bool,
        shape: &ShapeArgs,
        said: Option<&Path>,
    ) -> Result<Self, Failure> {
        let folder = Folder::create(Some(root))?;
        folder.retract();
        let said = match said {
            None => Stdio::inherit(),
            Some(path) => File::create(path)
                .map(Stdio::from)
                .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?,
        };
        let program = std::env::current_exe().map_err(|error| Failure::failed(error.to_string()))?;
        let up = Command::new(program)
            .args(["up", "--quiet", "--port=0", "--data"])
            .arg(folder.root())
            .args(shape.to_words())
            .stdin(Stdio::null())
            .stderr(said)
            // It gets our SIGTERM and not the terminal's Ctrl-C on top, which would mean "kill".
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot start the platform: {error}")))?;
        let mut own = Self { folder, up, temporary };
        while own.folder.platform().is_err() {
            if let Ok(Some(status)) = own.up.try_wait() {
                own.remove();
                return Err(Failure::failed(format!("the platform could not be started ({status})")));
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Ok(own)
    }

    /// Where it runs.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it did not stop cleanly.
    pub async fn stop(mut self) -> Result<(), Failure> {
        say::err("  (stopping the platform)");
        if let Some(pid) = self.up.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let status = self.up.wait().await;
        self.remove();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::failed(format!("the platform did not stop cleanly ({status})"))),
            Err(error) => Err(Failure::failed(error.to_string())),
        }
    }

    fn remove(&self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(self.folder.root());
        }
    }
}
