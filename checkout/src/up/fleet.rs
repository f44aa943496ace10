//! All supervised processes of one platform: started in stages, stopped in order.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::folder::{Address, Folder};
use crate::limits::{LOG_LINES_QUOTED, PORT_ATTEMPTS, READY_NEWS};
use crate::say;
use crate::up::plan::{Group, Process};
use crate::up::ready::{self, NotReady};
use crate::up::supervisor::{State, Supervised};

/// The running processes. Shared, so that a stop in the middle of the start finds all that has been started.
#[derive(Debug)]
pub struct Fleet {
    folder: Folder,
    deadline: Instant,
    quiet: bool,
    kill: CancellationToken,
    members: Mutex<Vec<Supervised>>,
}

impl Fleet {
    /// No process yet; what is started has until `deadline` to be ready.
    #[must_use]
    pub fn new(folder: Folder, deadline: Instant, quiet: bool) -> Self {
        Self { folder, deadline, quiet, kill: CancellationToken::new(), members: Mutex::default() }
    }

    /// Starts a process and waits until it is ready. `make` is asked for the process, and asked again (for one with another port) when
    /// somebody took the port in the moment before the process could.
    ///
    /// # Errors
    /// Why it is not ready, with the end of its log.
    pub async fn start(&self, make: impl Fn() -> Result<Process, Failure>) -> Result<Process, Failure> {
        for _ in 0..PORT_ATTEMPTS {
            let process = make()?;
            let supervised = Supervised::start(process.clone(), self.folder.clone(), self.kill.clone());
            let state = supervised.view();
            self.with(|members| members.push(supervised));
            match self.wait(&process, &state).await {
                Ok(()) => return Ok(process),
                Err(NotReady::PortTaken) => {
                    self.with(|members| members.retain(|it| it.process.name != process.name));
                    say::err(&format!(
                        "checkout: {}: port {} was taken a moment ago",
                        process.name,
                        process.listens.port()
                    ));
                }
                Err(NotReady::Refused(line)) => {
                    return Err(Failure::usage(format!("{} does not accept its configuration: {line}", process.name)));
                }
                Err(NotReady::Late(said)) => return Err(self.late(&process, &said)),
            }
        }
        Err(Failure::failed("no port could be kept free: too many processes start at once"))
    }

    fn late(&self, process: &Process, said: &str) -> Failure {
        let mut message = format!("{} is not ready: {said}", process.name);
        let tail = self.folder.log_tail(&process.name, 0, LOG_LINES_QUOTED);
        if !tail.is_empty() {
            message.push_str(&format!("\n  the end of {}:", self.folder.log_file(&process.name).display()));
        }
        for line in tail {
            message.push_str("\n    ");
            message.push_str(&line);
        }
        Failure::failed(message)
    }

    /// Waits, and now and then says for whom.
    async fn wait(&self, process: &Process, state: &watch::Receiver<State>) -> Result<(), NotReady> {
        let waiting = ready::wait(process, state, &self.folder, self.deadline);
        tokio::pin!(waiting);
        let began = Instant::now();
        loop {
            match tokio::time::timeout(READY_NEWS, &mut waiting).await {
                Ok(outcome) => return outcome,
                Err(_) if self.quiet => {}
                Err(_) => {
                    let said = ready::ask(&process.probe).await.err().unwrap_or_default();
                    say::err(&format!(
                        "checkout: waiting for {} for {} s: {said}",
                        process.name,
                        began.elapsed().as_secs()
                    ));
                }
            }
        }
    }

    /// Whether nothing was started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.with(|members| members.is_empty())
    }

    /// Name and address of every process.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let mut all = self.with(|members| {
            let address = |it: &Supervised| it.process.published();
            members.iter().map(address).collect::<Vec<_>>()
        });
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Drains the processes of these groups together; whether all ended by themselves in time.
    pub async fn drain(&self, patience: Duration, groups: &[Group]) -> bool {
        let leaving = self.with(|members| {
            let (leaving, staying) =
                std::mem::take(members).into_iter().partition(|it: &Supervised| groups.contains(&it.process.group));
            *members = staying;
            leaving
        });
        let deadline = Instant::now() + patience;
        for member in &leaving {
            member.drain(deadline);
        }
        let mut clean = true;
        for member in leaving {
            clean &= member.ended().await;
        }
        clean
    }

    /// Kills everything at once; a drain that is under way then ends soon.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Supervised>) -> T) -> T {
        act(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
