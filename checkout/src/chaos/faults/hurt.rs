//! Carries one fault out, waits until what was hurt is whole again, and tells what it did.

use std::time::{Duration, Instant};

use nats::topology::CHECKOUT;
use nix::sys::signal::Signal;

use crate::chaos::faults::field::Field;
use crate::chaos::faults::kind::{Act, Victim};
use crate::chaos::faults::schedule::Planned;
use crate::chaos::faults::{full, wire};
use crate::links::Held;
use crate::links::fault::{Fault, Trouble};
use crate::service::Service;
use crate::up::servers::DOWN_AFTER_MS;

/// Everything that was hurt must be whole again in this time, or the run is not clean. Far more than anything takes on an idle machine.
pub const WHOLE_WITHIN: Duration = Duration::from_secs(180);
/// How often it is looked whether a process has died or come back.
const POLL: Duration = Duration::from_millis(20);
/// How often, where it is to die before it has served anybody.
const AT_BIRTH: Duration = Duration::from_millis(3);

/// The end of an effect after which another one has the role that the victim had.
pub const MOVED: &str = ", another took its place";

/// What became of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whom it met.
    pub target: String,
    /// What it did, in a few words.
    pub effect: String,
    /// Whether it did anything that the platform had to answer.
    pub had_effect: bool,
}

pub(super) fn outcome(target: &str, effect: impl Into<String>) -> Outcome {
    Outcome { target: target.to_owned(), effect: effect.into(), had_effect: true }
}

/// A fault that could not be carried out; not the platform's error.
pub(super) fn nothing(target: &str, why: impl Into<String>) -> Outcome {
    Outcome { target: target.to_owned(), effect: why.into(), had_effect: false }
}

/// Carries a fault out. What it stopped goes on when this returns.
pub async fn hurt(field: &Field, planned: &Planned) -> Outcome {
    let Planned { kind, pick, lasts, .. } = *planned;
    if let Victim::Link(link) = kind.victim {
        return wire::hurt(field, link, planned).await;
    }
    let before = standing(field, kind.victim).await;
    let target = match target(field, kind.victim, pick, before.as_deref()).await {
        Some(target) => target,
        None => return nothing("-", "nobody to hurt"),
    };
    let done = match kind.act {
        Act::Kill => match kept_down(planned) {
            Some(time) => keep_down(field, &target, time).await,
            None => end(field, &target, Signal::SIGKILL).await,
        },
        Act::Restart => end(field, &target, Signal::SIGTERM).await,
        Act::Wipe => wipe(field, &target).await,
        Act::Pause => pause(field, &target, lasts).await,
        Act::Failover => fail_over(field, kind.victim, pick).await,
        Act::Lag => lag(field, kind.victim, &target, planned).await,
        Act::Fill => full::fill(field, &target, planned).await,
        Act::Purge => match with_patience(field.broker().purge(CHECKOUT)).await {
            Ok(0) => Err("it was empty".to_owned()),
            purged => purged.map(|count| format!("{count} messages gone")),
        },
        Act::Delete => with_patience(field.broker().delete(CHECKOUT)).await.map(|()| "gone".to_owned()),
        Act::Roll => roll(field).await,
        Act::Command | Act::Cut | Act::Delay | Act::Hold | Act::HalfOpen => Err("not here".to_owned()),
    };
    match done {
        Err(why) => nothing(&target, why),
        Ok(done) => {
            let after = standing(field, kind.victim).await;
            let moved = before.is_some() && after.is_some() && before != after && !done.ends_with(MOVED);
            outcome(&target, if moved { format!("{done}{MOVED}") } else { done })
        }
    }
}

/// Who is in the place that the victim has by its role.
pub(super) async fn standing(field: &Field, victim: Victim) -> Option<String> {
    match victim {
        Victim::Primary(service) => field.primary(service).await,
        Victim::Leader => field.leader().await,
        _ => None,
    }
}

async fn target(field: &Field, victim: Victim, pick: usize, standing: Option<&str>) -> Option<String> {
    let one_of = |names: Vec<String>| names.get(pick % names.len().max(1)).cloned();
    match victim {
        Victim::Instance(service) => one_of(field.instances(service)),
        Victim::Gateway => Some("gateway".to_owned()),
        Victim::Database(service) => Some(format!("redis-{service}")),
        Victim::Primary(_) | Victim::Leader => standing.map(str::to_owned),
        Victim::Replica(service) => {
            let primary = field.primary(service).await?;
            let nodes = field.names(&format!("redis-{service}-"));
            one_of(nodes.into_iter().filter(|name| *name != primary).collect())
        }
        Victim::Sentinel => one_of(field.names("sentinel-")),
        Victim::Nats => one_of(field.names("nats-")),
        Victim::Stream => Some(CHECKOUT.to_owned()),
        Victim::Link(_) => None,
        Victim::Platform => Some("all".to_owned()),
    }
}

/// What is asked of NATS may have no answer while others hurt it.
async fn with_patience<T, E: ToString>(asked: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(Duration::from_secs(20), asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("nobody answers".to_owned()),
    }
}

/// Sends a signal that ends a process, and waits until another one has its name.
async fn end(field: &Field, name: &str, signal: Signal) -> Result<String, String> {
    let pid = field.pid(name).ok_or("it does not run")?;
    if !field.signal(name, pid, signal) {
        return Err("it does not run any more".to_owned());
    }
    Ok(format!("back after {:.1} s", came_back(field, name, pid).await?.as_secs_f64()))
}

/// For how long a killed process is not let live again; nothing where it is started again at once. A primary comes back with its disk faster than
/// sentinels miss it, so only one that stays away for longer than their patience has another one take its place by its death alone: every second
/// one, and by so much longer that it comes back before, while and after it is replaced.
fn kept_down(planned: &Planned) -> Option<Duration> {
    let (shortest, longest) = (DOWN_AFTER_MS + 500, DOWN_AFTER_MS + 6_000);
    let is_kept = matches!(planned.kind.victim, Victim::Primary(_)) && planned.dose.is_multiple_of(2);
    is_kept.then(|| Duration::from_millis(shortest + planned.dose / 2 % (longest - shortest)))
}

/// Kills a process, and whoever comes in its place, for a while; then waits until it is back.
async fn keep_down(field: &Field, name: &str, time: Duration) -> Result<String, String> {
    let mut last = field.pid(name).ok_or("it does not run")?;
    if !field.signal(name, last, Signal::SIGKILL) {
        return Err("it does not run any more".to_owned());
    }
    let began = Instant::now();
    while began.elapsed() < time {
        if let Some(pid) = field.pid(name).filter(|pid| *pid != last)
            && field.signal(name, pid, Signal::SIGKILL)
        {
            last = pid;
        }
        tokio::time::sleep(AT_BIRTH).await;
    }
    came_back(field, name, last).await?;
    let (kept, back) = (time.as_secs_f64(), began.elapsed().as_secs_f64());
    Ok(format!("kept down for {kept:.1} s, back after {back:.1} s"))
}

/// Waits until a process runs with another pid and does its work.
pub(super) async fn came_back(field: &Field, name: &str, before: u32) -> Result<Duration, String> {
    let began = Instant::now();
    loop {
        if field.pid(name).is_some_and(|pid| pid != before) && field.is_ready(name).await.is_ok() {
            return Ok(began.elapsed());
        }
        if began.elapsed() > WHOLE_WITHIN {
            // Told by whoever waits for the lane to be whole.
            return Ok(began.elapsed());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Holds a process still.
async fn pause(field: &Field, name: &str, lasts: Duration) -> Result<String, String> {
    let pid = field.pid(name).ok_or("it does not run")?;
    if !field.signal(name, pid, Signal::SIGSTOP) {
        return Err("it does not run any more".to_owned());
    }
    tokio::time::sleep(lasts).await;
    field.signal(name, pid, Signal::SIGCONT);
    Ok(format!("stood still for {:.1} s", lasts.as_secs_f64()))
}

/// Kills a process and takes its disk, in the instant before anybody could start it again.
fn lose(field: &Field, name: &str) -> Result<(), String> {
    let pid = field.pid(name).ok_or("it does not run")?;
    if !field.signal(name, pid, Signal::SIGSTOP) {
        return Err("it does not run any more".to_owned());
    }
    let gone = std::fs::remove_dir_all(field.folder().root().join(name));
    field.signal(name, pid, Signal::SIGKILL);
    gone.map_err(|error| format!("its disk stays: {error}"))
}

/// That, and waits until it is back.
async fn wipe(field: &Field, name: &str) -> Result<String, String> {
    let pid = field.pid(name).ok_or("it does not run")?;
    lose(field, name)?;
    Ok(format!("back without its disk after {:.1} s", came_back(field, name, pid).await?.as_secs_f64()))
}

/// Holds one replica back while the others go on, by standing still or by its link alone; then the primary is killed and loses its disk, so that one
/// of the two must take its place; and some time later the one that was behind is there again.
async fn lag(field: &Field, victim: Victim, primary: &str, planned: &Planned) -> Result<String, String> {
    let Victim::Primary(service) = victim else { return Err("only a primary has replicas".to_owned()) };
    let others = field.names(&format!("redis-{service}-")).into_iter().filter(|name| name != primary);
    let others: Vec<String> = others.collect();
    let replica = others.get(planned.pick % others.len().max(1)).ok_or("there are no replicas")?.clone();
    let stands_still = planned.dose.is_multiple_of(2);
    let pid = field.pid(&replica).ok_or("its replica does not run")?;
    let held = if stands_still {
        if !field.signal(&replica, pid, Signal::SIGSTOP) {
            return Err("its replica does not run any more".to_owned());
        }
        None
    } else {
        let between = Fault { one: vec![replica.clone()], other: vec![primary.to_owned()], trouble: Trouble::Hold };
        Some(Held::begin(field.folder(), &between).await?)
    };
    tokio::time::sleep(planned.lasts).await;
    let (before, began) = (field.pid(primary), Instant::now());
    let lost = lose(field, primary);
    tokio::time::sleep(Duration::from_millis(planned.dose % 4_000)).await;
    drop(held);
    if stands_still {
        field.signal(&replica, pid, Signal::SIGCONT);
    }
    lost?;
    came_back(field, primary, before.unwrap_or_default()).await?;
    let how = if stands_still { "stood still" } else { "heard nothing from it" };
    let (held, back) = (planned.lasts.as_secs_f64(), began.elapsed().as_secs_f64());
    Ok(format!("{replica} {how} for {held:.1} s before, back without its disk after {back:.1} s"))
}

async fn fail_over(field: &Field, victim: Victim, pick: usize) -> Result<String, String> {
    let Victim::Primary(service) = victim else { return Err("only a primary can be moved".to_owned()) };
    let sentinels = field.names("sentinel-");
    let sentinel = sentinels.get(pick % sentinels.len().max(1)).ok_or("there are no sentinels")?;
    let before = field.primary(service).await;
    field.fail_over(sentinel, service).await?;
    let began = Instant::now();
    while field.primary(service).await == before && began.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(POLL).await;
    }
    if field.primary(service).await == before {
        return Err("it stays in its place".to_owned());
    }
    Ok(format!("took {:.1} s{MOVED}", began.elapsed().as_secs_f64()))
}

/// Everything is restarted in peace, one after the other, as for an upgrade of the machine below it.
async fn roll(field: &Field) -> Result<String, String> {
    use crate::chaos::faults::kind::Lane;
    let began = Instant::now();
    let mut names: Vec<(String, Lane)> = Vec::new();
    for service in Service::ALL {
        let instances = field.instances(service).into_iter().enumerate();
        names.extend(instances.map(|(number, name)| (name, Lane::Instance(service, number))));
        let nodes = field.names(&format!("redis-{service}"));
        names.extend(nodes.into_iter().map(|it| (it, Lane::Redis(service))));
    }
    names.extend(field.names("sentinel-").into_iter().map(|it| (it, Lane::Sentinels)));
    names.extend(field.names("nats-").into_iter().map(|it| (it, Lane::Nats)));
    names.push(("gateway".to_owned(), Lane::Gateway));
    let count = names.len();
    for (name, lane) in names {
        end(field, &name, Signal::SIGTERM).await?;
        field.wait_until_whole(lane, WHOLE_WITHIN).await?;
    }
    Ok(format!("{count} processes in {:.0} s", began.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::faults::kind::{Kind, Lane};
    use crate::chaos::faults::schedule::Schedule;

    #[test]
    fn some_killed_primaries_stay_away_for_longer_than_sentinels_wait_and_nobody_else_does() {
        let of = |lane| {
            let schedule = Schedule::new(7, lane, &Kind::all(true), Duration::from_secs(5));
            let kills = schedule.into_iter().flat_map(|it| it.take(2_000)).filter(|it| it.kind.act == Act::Kill);
            kills.map(|it| (it.kind.victim, kept_down(&it))).collect::<Vec<_>>()
        };
        let service = Service::Stock;
        let kills = of(Lane::Redis(service));
        let primaries: Vec<_> = kills.iter().filter(|(victim, _)| *victim == Victim::Primary(service)).collect();
        let kept: Vec<Duration> = primaries.iter().filter_map(|(_, kept)| *kept).collect();
        assert!(
            (primaries.len() / 3..primaries.len() * 2 / 3).contains(&kept.len()),
            "{} of {}",
            kept.len(),
            kills.len()
        );
        assert!(kept.iter().all(|time| *time > Duration::from_millis(DOWN_AFTER_MS)), "{kept:?}");
        assert_eq!(kept.len(), kills.iter().filter(|(_, kept)| kept.is_some()).count(), "replicas are not");
        assert!(of(Lane::Instance(service, 0)).iter().all(|(_, kept)| kept.is_none()));
        assert_eq!(kills, of(Lane::Redis(service)), "one seed is one schedule");
    }
}
