//! One drain with a deadline for every kind of task.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The order in which a process stops. Each stage ends before the next is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// What takes requests in. It finishes those in hand, for which it may need the next two stages.
    Intake,
    /// What reacts to events and reconciles: a waiting checkout ends only through it.
    Work,
    /// What the others depend on: database writers, inboxes.
    Support,
}

const STAGES: [Stage; 3] = [Stage::Intake, Stage::Work, Stage::Support];

/// The tasks of a process, and the tokens that ask them to stop, stage by stage.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stages: [(TaskTracker, CancellationToken); 3],
    /// Set before the first stage is asked to stop.
    leaving: Arc<AtomicBool>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn stage(&self, stage: Stage) -> &(TaskTracker, CancellationToken) {
        let [intake, work, support] = &self.stages;
        match stage {
            Stage::Intake => intake,
            Stage::Work => work,
            Stage::Support => support,
        }
    }

    /// The token that asks the stage's tasks to stop.
    pub fn stop(&self, stage: Stage) -> CancellationToken {
        self.stage(stage).1.clone()
    }

    /// Runs a task that stops with its stage.
    pub fn spawn<F>(&self, stage: Stage, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.stage(stage).0.spawn(task);
    }

    /// Whether the process is about to stop. Readiness must say so, see [`Tasks::say_farewell`].
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Says "not ready" and goes on serving for a while, so that whoever spreads requests over the instances stops sending here
    /// before anything is refused. Without it, a request could be written into a connection that is just being closed, and
    /// nobody could say whether it was read.
    pub async fn say_farewell(&self, farewell: Duration) {
        self.leaving.store(true, Ordering::Relaxed);
        tokio::time::sleep(farewell).await;
    }

    /// Stops everything in order and waits for it, at most `limit`. Says whether all ended by themselves.
    pub async fn drain(&self, limit: Duration) -> bool {
        let all = async {
            for stage in STAGES {
                let (tasks, stop) = self.stage(stage);
                stop.cancel();
                tasks.close();
                tasks.wait().await;
            }
        };
        let clean = tokio::time::timeout(limit, all).await.is_ok();
        if clean {
            tracing::info!("drained: all work in hand is finished");
        } else {
            let left = STAGES.map(|stage| (stage, self.stage(stage).0.len()));
            tracing::warn!(
                limit_ms = limit.as_millis(),
                ?left,
                "not drained in time; what was in hand is finished by others, from the stream and the undo log"
            );
        }
        clean
    }
}

/// SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen, so that no signal from here on is lost.
    ///
    /// # Errors
    /// The operating system refuses the handler.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for the first signal, says farewell, drains, and ends at once on a second one. Says whether the drain was clean.
pub async fn run_until_signal(mut signals: Signals, tasks: &Tasks, farewell: Duration, limit: Duration) -> bool {
    signals.next().await;
    tracing::info!("asked to stop; draining");
    let leave = async {
        tasks.say_farewell(farewell).await;
        tasks.drain(limit).await
    };
    tokio::select! {
        clean = leave => clean,
        () = signals.next() => {
            tracing::warn!("asked to stop a second time; ending at once");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn each_stage_stops_only_after_the_one_before_has_finished() {
        let tasks = Tasks::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        for stage in [Stage::Support, Stage::Work, Stage::Intake] {
            let (order, stop) = (order.clone(), tasks.stop(stage));
            tasks.spawn(stage, async move {
                stop.cancelled().await;
                tokio::task::yield_now().await;
                order.lock().unwrap().push(stage);
            });
        }
        assert!(tasks.drain(Duration::from_secs(60)).await);
        assert_eq!(*order.lock().unwrap(), STAGES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_never_ends_is_not_waited_for_beyond_the_limit() {
        let tasks = Tasks::new();
        tasks.spawn(Stage::Intake, std::future::pending());
        assert!(!tasks.drain(Duration::from_secs(1)).await);
    }
}
