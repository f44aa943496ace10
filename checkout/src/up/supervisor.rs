//! Keeps one process running: starts it, records its pid, starts it again when it dies, stops it when told.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::EXIT_USAGE;
use crate::folder::Folder;
use crate::limits::{DIED_AT_ONCE, LOG_LINES_QUOTED, LOG_ROTATE_BYTES};
use crate::say;
use crate::up::backoff::Backoff;
use crate::up::plan::{MARKER, Process};
use crate::up::ports::tells_of_a_taken_port;
use crate::up::revive;

/// What a supervisor tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs, or is about to be started again.
    Running,
    /// It could not have its port at its first start, and is not tried again there.
    PortTaken,
    /// It refused its configuration, and would refuse it again.
    Refused(String),
    /// It has ended because it was told to.
    Stopped {
        /// Whether it ended by itself in time.
        clean: bool,
    },
}

/// A process under supervision. To drop it is to kill it.
#[derive(Debug)]
pub struct Supervised {
    /// What runs.
    pub process: Process,
    /// The moment until which it may drain, once it is to end.
    drain: watch::Sender<Option<Instant>>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts the process and its supervision. `kill` ends it at once, whatever else was said.
    #[must_use]
    pub fn start(process: Process, folder: Folder, kill: CancellationToken) -> Self {
        let (drain, told) = watch::channel(None);
        let (tell, state) = watch::channel(State::Running);
        let supervisor = Supervisor { process: process.clone(), folder, told, kill, tell };
        Self { process, drain, state, task: tokio::spawn(supervisor.run()) }
    }

    /// What is known of it, for as long as one likes.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Tells it to finish and end; at the deadline it is killed.
    pub fn drain(&self, deadline: Instant) {
        self.drain.send_replace(Some(deadline));
    }

    /// Waits for the end after it was told to end, and says whether it was clean.
    pub async fn ended(mut self) -> bool {
        let clean = self
            .state
            .wait_for(|state| *state != State::Running)
            .await
            .is_ok_and(|state| !matches!(*state, State::Stopped { clean: false }));
        let _ = self.task.await;
        clean
    }
}

struct Supervisor {
    process: Process,
    folder: Folder,
    told: watch::Receiver<Option<Instant>>,
    kill: CancellationToken,
    tell: watch::Sender<State>,
}

/// How one life of the process ended.
enum Life {
    Died(ExitStatus),
    NotBorn(std::io::Error),
    Told { clean: bool },
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut generation = 1_u64;
        rotate_log(&self.folder, &self.process.name);
        let mut more = Vec::new();
        loop {
            let born = Instant::now();
            let offset = log_length(&self.folder, &self.process.name);
            let life = self.live(generation, &more).await;
            self.folder.forget(&self.process.name);
            let ended = match life {
                Life::Told { clean } => return self.finish(State::Stopped { clean }),
                Life::Died(status) => describe(status),
                Life::NotBorn(ref error) => format!("could not be started: {error}"),
            };
            let quoted = if born.elapsed() < DIED_AT_ONCE {
                self.folder.log_tail(&self.process.name, offset, LOG_LINES_QUOTED)
            } else {
                Vec::new()
            };
            if generation == 1 && tells_of_a_taken_port(&quoted) {
                return self.finish(State::PortTaken);
            }
            if let (1, Life::Died(status)) = (generation, &life)
                && status.code() == Some(i32::from(EXIT_USAGE))
            {
                let line = quoted.last().cloned().unwrap_or(ended);
                return self.finish(State::Refused(line));
            }
            let pause = backoff.pause_after(born.elapsed());
            generation += 1;
            self.say_death(&ended, pause, generation, &quoted);
            if self.told_within(pause).await {
                return self.finish(State::Stopped { clean: true });
            }
            let (process, folder) = (self.process.clone(), self.folder.clone());
            tokio::select! {
                arguments = revive::prepare(&process, &folder) => more = arguments,
                _ = self.told_to_end() => return self.finish(State::Stopped { clean: true }),
            }
        }
    }

    fn finish(&self, state: State) {
        self.tell.send_replace(state);
    }

    fn say_death(&self, ended: &str, pause: Duration, generation: u64, quoted: &[String]) {
        let mut lines = format!(
            "checkout: {} {ended}; starting it again in {pause:?} (generation {generation})",
            self.process.name
        );
        for line in quoted {
            lines.push_str("\n    ");
            lines.push_str(line);
        }
        say::err(&lines);
    }

    /// Whether it is told to end within the pause.
    async fn told_within(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.told_to_end()).await.is_ok()
    }

    /// Waits until it is told to end: until when it may drain, or nothing when it is to be killed.
    async fn told_to_end(&mut self) -> Option<Instant> {
        tokio::select! {
            // An error means that the other side was dropped, and with it every wish to drain.
            told = self.told.wait_for(Option::is_some) => told.ok().and_then(|deadline| *deadline),
            () = self.kill.cancelled() => None,
        }
    }

    async fn live(&mut self, generation: u64, more: &[String]) -> Life {
        let mut child = match self.spawn(generation, more) {
            Ok(child) => child,
            Err(error) => return Life::NotBorn(error),
        };
        if let Some(pid) = child.id() {
            self.folder.record(&self.process.name, pid);
        }
        // Ends with this life.
        let _trusting = (generation > 1)
            .then(|| AbortOnDropHandle::new(tokio::spawn(revive::trust_when_linked(self.process.clone()))));
        let told = tokio::select! {
            ended = child.wait() => match ended {
                Ok(status) => return Life::Died(status),
                Err(error) => return Life::NotBorn(error),
            },
            told = self.told_to_end() => told,
        };
        Life::Told { clean: self.stop(&mut child, told).await }
    }

    fn spawn(&self, generation: u64, more: &[String]) -> std::io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.log_file(&self.process.name))?;
        Command::new(&self.process.program)
            .args(&self.process.args)
            .args(more)
            .envs(self.process.env.iter().map(|(name, value)| (name, value)))
            .env("GENERATION", generation.to_string())
            .env(MARKER, self.folder.root())
            .current_dir(self.folder.root())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: the terminal's Ctrl-C reaches only us, and we stop the children in order.
            .process_group(0)
            // Should this program end by a panic, the children do not stay behind.
            .kill_on_drop(true)
            .spawn()
    }

    /// Ends the child, by a drain until the deadline if there is one; whether it ended by itself in time.
    async fn stop(&self, child: &mut Child, deadline: Option<Instant>) -> bool {
        if let (Some(deadline), Some(pid)) = (deadline, child.id()) {
            signal(pid, Signal::SIGTERM);
            tokio::select! {
                _ = child.wait() => return true,
                () = tokio::time::sleep_until(deadline.into()) => say::err(&format!(
                    "checkout: {} has not ended in time and is killed", self.process.name
                )),
                () = self.kill.cancelled() => {}
            }
        }
        let _ = child.start_kill();
        let _ = child.wait().await;
        false
    }
}

/// Sends a signal to a child that is not collected yet, so the pid cannot be a stranger's.
fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
            format!("was ended by signal {number} ({name})")
        }
        (None, None) => "ended".to_owned(),
    }
}

fn log_length(folder: &Folder, name: &str) -> u64 {
    File::open(folder.log_file(name)).and_then(|file| file.metadata()).map_or(0, |metadata| metadata.len())
}

/// Logs are appended to for ever; one that has grown large makes place before the process is first started.
fn rotate_log(folder: &Folder, name: &str) {
    if log_length(folder, name) > LOG_ROTATE_BYTES {
        let log = folder.log_file(name);
        let _ = std::fs::rename(&log, log.with_extension("log.1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_described_as_a_person_would() {
        assert_eq!(describe(ExitStatus::from_raw(1 << 8)), "ended with exit status 1");
        assert_eq!(describe(ExitStatus::from_raw(9)), "was ended by signal 9 (SIGKILL)");
    }
}
