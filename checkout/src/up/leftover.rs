//! What an earlier `checkout up` on the same folder left running because it was killed itself.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::folder::{Folder, UP};
use crate::limits::{DRAIN, READY_POLL, SERVERS_STOP};
use crate::procs::{self, Birth};
use crate::say;
use crate::up::plan::{Group, MARKER};

/// A process of an earlier run that still lives.
#[derive(Debug, Clone)]
struct Leftover {
    name: String,
    birth: Birth,
}

/// Stops every process that an earlier run left in this folder: the outer ones first, each group with SIGTERM and, when it does not
/// end in time, SIGKILL. A pid that now belongs to a stranger is left alone. The caller holds the folder's lock.
pub async fn stop(folder: &Folder) {
    let all = find(folder);
    if !all.is_empty() {
        let names: Vec<&str> = all.iter().map(|it| it.name.as_str()).collect();
        say::err(&format!(
            "checkout: an earlier run left {} process{} behind; stopping {}",
            all.len(),
            if all.len() == 1 { "" } else { "es" },
            names.join(", ")
        ));
    }
    let (servers, outer): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|it| matches!(Group::of_process(&it.name), Some(Group::Nats | Group::Redis)));
    end(&outer, DRAIN).await;
    end(&servers, SERVERS_STOP).await;
    for name in folder.recorded().iter().filter(|name| *name != UP) {
        folder.forget(name);
    }
}

/// The recorded ones that live, and any that carry our mark without a record (their parent was killed between start and record).
fn find(folder: &Folder) -> Vec<Leftover> {
    let mut found: Vec<Leftover> = folder
        .recorded()
        .into_iter()
        .filter(|name| name != UP)
        .filter_map(|name| {
            let birth = folder.birth(&name)?;
            birth.is_alive().then_some(Leftover { name, birth })
        })
        .collect();
    for pid in procs::with_environment(MARKER, folder.root()) {
        if found.iter().all(|it| it.birth.pid != pid)
            && let Some(birth) = Birth::of(pid)
            && birth.is_alive()
        {
            let name = format!("pid {pid}");
            found.push(Leftover { name, birth });
        }
    }
    found
}

async fn end(leftovers: &[Leftover], patience: Duration) {
    send(leftovers, Signal::SIGTERM);
    if !gone(leftovers, patience).await {
        send(leftovers, Signal::SIGKILL);
        gone(leftovers, patience).await;
    }
}

fn send(leftovers: &[Leftover], signal: Signal) {
    // Checked again right before: between the look and the signal the pid may have been freed.
    for leftover in leftovers.iter().filter(|it| it.birth.is_alive()) {
        if let Ok(pid) = i32::try_from(leftover.birth.pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

async fn gone(leftovers: &[Leftover], patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while leftovers.iter().any(|it| it.birth.is_alive()) {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(READY_POLL).await;
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::secrets::Secrets;
    use crate::service::Service;
    use crate::up::plan::Probe;
    use crate::up::{ready, servers};

    fn folder(name: &str) -> Folder {
        let root = std::env::temp_dir().join(format!("checkout-{name}-{}", std::process::id()));
        Folder::create(Some(root)).unwrap()
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    /// Whether the child is still running, collecting it if not.
    fn runs(child: &mut Child) -> bool {
        child.try_wait().unwrap().is_none()
    }

    #[tokio::test]
    async fn a_recorded_process_is_stopped_and_its_record_removed() {
        let folder = folder("leftover");
        let mut child = sleeper();
        folder.record("redis-order", child.id());
        stop(&folder).await;
        child.wait().unwrap();
        assert!(folder.recorded().is_empty());
        std::fs::remove_dir_all(folder.root()).unwrap();
    }

    #[tokio::test]
    async fn a_recycled_pid_is_left_alone() {
        let folder = folder("recycled");
        let mut child = sleeper();
        folder.record("order-1", child.id());
        // The record of a process that had this pid before: same pid, another start time.
        let mut birth = folder.birth("order-1").unwrap();
        birth.start_ticks -= 1;
        folder.keep("order-1", &birth);
        stop(&folder).await;
        assert!(runs(&mut child));
        assert!(folder.recorded().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(folder.root()).unwrap();
    }

    #[tokio::test]
    async fn a_redis_that_was_started_in_the_instant_before_its_parent_was_killed_is_known() {
        let folder = folder("unrecorded");
        // No platform takes the port as long as these live.
        let ports = crate::up::ports::Ports::new();
        let address = ports.free().unwrap();
        let secrets = Secrets::of(&folder);
        let door = crate::up::door::Door { own: address, told: address };
        let (service, none) = (Service::Order, servers::Replication::None);
        let name = "redis-order";
        let config =
            servers::configure_redis(&folder, service, name, door, "no", none, &secrets, std::iter::empty()).unwrap();
        let probe = Probe::Redis(address, secrets.redis_admin().unwrap());
        let program = servers::find_redis().unwrap().program;
        let mut redis = Command::new(program)
            .arg(config)
            .env(MARKER, folder.root())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Past the moment at which it would have given itself a title.
        while ready::ask(&probe).await.is_err() {
            assert!(runs(&mut redis), "redis ends");
            tokio::task::yield_now().await;
        }
        stop(&folder).await;
        redis.wait().unwrap();
        std::fs::remove_dir_all(folder.root()).unwrap();
    }

    #[tokio::test]
    async fn a_process_without_a_record_is_known_by_its_mark() {
        let folder = folder("marked");
        let mut child = Command::new("sleep").arg("600").env(MARKER, folder.root()).spawn().unwrap();
        let mut stranger = sleeper();
        stop(&folder).await;
        child.wait().unwrap();
        assert!(runs(&mut stranger));
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        std::fs::remove_dir_all(folder.root()).unwrap();
    }
}
