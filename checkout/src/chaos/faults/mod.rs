//! The faults of a run: drawn by the seed, lane by lane, singly at first and then overlapping.
//!
//! [`kind`] says what there is, [`schedule`] draws, [`field`] knows the platform, [`hurt`] does it, with [`wire`] between processes and [`full`] to a disk;
//! [`recovery`] takes the time until nothing is to be seen of it any more. Here the lanes run.

pub mod field;
mod full;
pub mod hurt;
pub mod kind;
mod recovery;
pub mod schedule;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio::sync::{RwLock, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chaos::recorder::Recorder;
use crate::checker::history::Line;
use field::Field;
use hurt::{Outcome, WHOLE_WITHIN, hurt};
use kind::{Kind, Lane};
use schedule::Schedule;

/// One fault that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Its kind, like `kill:order`.
    pub fault: String,
    /// Whom it met, and what it did.
    pub outcome: Outcome,
    /// From when to when the platform was not whole, in the recorder's time.
    pub start_us: u64,
    /// See above.
    pub end_us: u64,
    /// When the stores were back: what was hurt is there again and serves; nothing where it never was.
    pub back_us: Option<u64>,
    /// When every saga was closed that was open then.
    pub closed_us: Option<u64>,
}

/// What all lanes share.
#[derive(Debug)]
pub struct Shared {
    recorder: Arc<Recorder>,
    /// How many faults there may be at once.
    places: Semaphore,
    /// Held by each fault; alone by one that concerns all.
    alone: RwLock<()>,
    happened: Mutex<Vec<Happened>>,
    /// What did not become whole again.
    findings: Mutex<Vec<String>>,
    stop: CancellationToken,
}

impl Shared {
    /// One fault at a time, for the present.
    #[must_use]
    pub fn new(recorder: Arc<Recorder>, stop: CancellationToken) -> Self {
        Self {
            recorder,
            places: Semaphore::new(1),
            alone: RwLock::default(),
            happened: Mutex::default(),
            findings: Mutex::default(),
            stop,
        }
    }

    /// From now on so many more at once.
    pub fn allow_more(&self, count: usize) {
        self.places.add_permits(count);
    }

    /// All that has happened.
    #[must_use]
    pub fn happened(&self) -> Vec<Happened> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many have happened.
    #[must_use]
    pub fn count(&self) -> usize {
        let happened = self.happened.lock().unwrap_or_else(PoisonError::into_inner);
        happened.iter().filter(|it| it.outcome.had_effect).count()
    }

    /// What did not become whole again.
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, happened: Happened) {
        let Happened { fault, outcome, start_us, end_us, back_us, closed_us } = happened.clone();
        let Outcome { target, effect, had_effect } = outcome;
        let missed = !had_effect;
        self.recorder.write(&Line::Fault { fault, target, start_us, end_us, back_us, closed_us, effect, missed });
        self.happened.lock().unwrap_or_else(PoisonError::into_inner).push(happened);
    }
}

/// Lets all lanes run until told to stop; then each finishes what it has begun, and is whole.
pub async fn run(field: Arc<Field>, shared: Arc<Shared>, seed: u64, kinds: &[Kind], pause: Duration) {
    let lanes = field.lanes();
    let is_instance = |lane: &Lane| matches!(lane, Lane::Instance(..));
    // Over all instances as often as in another lane: more of them are not to make everything else rare.
    let instances = u32::try_from(lanes.iter().filter(|lane| is_instance(lane)).count()).unwrap_or(u32::MAX);
    let mut running = JoinSet::new();
    for lane in lanes {
        let pause = if is_instance(&lane) { pause.saturating_mul(instances) } else { pause };
        if let Some(schedule) = Schedule::new(seed, lane, kinds, pause) {
            running.spawn(run_lane(field.clone(), shared.clone(), lane, schedule));
        }
    }
    while running.join_next().await.is_some() {}
}

async fn run_lane(field: Arc<Field>, shared: Arc<Shared>, lane: Lane, schedule: Schedule) {
    for planned in schedule {
        tokio::select! {
            () = tokio::time::sleep(planned.after) => {}
            () = shared.stop.cancelled() => return,
        }
        let place = tokio::select! {
            place = shared.places.acquire() => place,
            () = shared.stop.cancelled() => return,
        };
        let Ok(_place) = place else { return };
        // Held to the end of the fault: by one that concerns all, alone.
        let _guards = if lane == Lane::Platform {
            (Some(shared.alone.write().await), None)
        } else {
            (None, Some(shared.alone.read().await))
        };
        if shared.stop.is_cancelled() {
            return;
        }
        let start_us = shared.recorder.now_us();
        let outcome = hurt(&field, &planned).await;
        let (whole, recovered) =
            tokio::join!(field.wait_until_whole(lane, WHOLE_WITHIN), recovery::watch(&field, lane, &shared.recorder));
        if let Err(why) = whole {
            let (kind, target) = (planned.kind, &outcome.target);
            let finding = format!("after {kind} of {target} all was not whole again within {WHOLE_WITHIN:?}: {why}");
            shared.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
        }
        let end_us = shared.recorder.now_us();
        let (back_us, closed_us) = (recovered.back_us, recovered.closed_us);
        shared.keep(Happened { fault: planned.kind.to_string(), outcome, start_us, end_us, back_us, closed_us });
    }
}

/// Faults of a person's own: commands, one after the other, for a platform that runs elsewhere. One that fails has not hurt, or not healed.
pub async fn run_commands(shared: Arc<Shared>, seed: u64, commands: &[String], pause: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    while let Some(command) = commands.choose(&mut rng) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.stop.cancelled() => return,
        }
        let start_us = shared.recorder.now_us();
        let status = tokio::process::Command::new("sh").args(["-c", command]).status().await;
        let is_done = status.as_ref().is_ok_and(std::process::ExitStatus::success);
        let effect = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if !is_done {
            let finding = format!("the fault command '{command}' did not do what it should: {effect}");
            shared.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
        }
        let outcome = Outcome { target: command.clone(), effect, had_effect: true };
        let end_us = shared.recorder.now_us();
        let (back_us, closed_us) = (None, None);
        shared.keep(Happened { fault: "command".to_owned(), outcome, start_us, end_us, back_us, closed_us });
    }
}
