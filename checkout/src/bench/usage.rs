//! What the processes of a platform have used.

use std::collections::BTreeMap;

use crate::bench::target::Target;
use crate::procs::Stat;
use crate::up::plan::Group;

/// Name of the load generator among the groups.
pub const LOAD: &str = "load";

/// The columns of the report, in its order.
pub const GROUPS: [&str; 7] = ["order", "payment", "stock", "nats", "redis", "gateway", LOAD];

/// A look at all processes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    processes: BTreeMap<String, Process>,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    pid: u32,
    group: &'static str,
    cpu_us: u64,
    rss_bytes: u64,
}

impl Usage {
    /// Looks now.
    #[must_use]
    pub fn now(target: &Target) -> Self {
        let mut usage = Self::default();
        usage.add(LOAD, LOAD, std::process::id());
        if let Some((folder, platform)) = &target.platform {
            for process in &platform.processes {
                let group = Group::of_process(&process.name).map(Group::name);
                if let (Some(group), Some(birth)) = (group, folder.birth(&process.name)) {
                    usage.add(&process.name, group, birth.pid);
                }
            }
        }
        usage
    }

    fn add(&mut self, name: &str, group: &'static str, pid: u32) {
        if let Some(stat) = Stat::read(pid) {
            let process = Process { pid, group, cpu_us: stat.cpu_us(), rss_bytes: stat.rss_bytes() };
            self.processes.insert(name.to_owned(), process);
        }
    }

    /// CPU microseconds that each group used since `before`. A process that was restarted in between counts from its restart.
    #[must_use]
    pub fn cpu_us_since(&self, before: &Self) -> BTreeMap<&'static str, u64> {
        let mut groups = BTreeMap::new();
        for (name, now) in &self.processes {
            let then = before.processes.get(name).filter(|then| then.pid == now.pid);
            let used = now.cpu_us.saturating_sub(then.map_or(0, |then| then.cpu_us));
            *groups.entry(now.group).or_default() += used;
        }
        groups
    }

    /// Resident memory of each group.
    #[must_use]
    pub fn rss_bytes(&self) -> BTreeMap<&'static str, u64> {
        let mut groups = BTreeMap::new();
        for process in self.processes.values() {
            *groups.entry(process.group).or_default() += process.rss_bytes;
        }
        groups
    }

    /// The processes that are not the same as before.
    #[must_use]
    pub fn restarted_since(&self, before: &Self) -> Vec<String> {
        before
            .processes
            .iter()
            .filter(|(name, then)| self.processes.get(*name).is_none_or(|now| now.pid != then.pid))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(processes: &[(&str, u32, &'static str, u64)]) -> Usage {
        let process = |(name, pid, group, cpu_us): &(&str, u32, &'static str, u64)| {
            let process = Process { pid: *pid, group, cpu_us: *cpu_us, rss_bytes: 10 };
            ((*name).to_owned(), process)
        };
        Usage { processes: processes.iter().map(process).collect() }
    }

    #[test]
    fn a_group_is_the_sum_of_its_processes_and_a_restart_is_seen() {
        let before = usage(&[("order-1", 7, "order", 100), ("order-2", 8, "order", 50), ("nats-1", 9, "nats", 5)]);
        let after = usage(&[("order-1", 7, "order", 130), ("order-2", 18, "order", 4), ("nats-1", 9, "nats", 5)]);
        assert_eq!(after.cpu_us_since(&before), BTreeMap::from([("order", 34), ("nats", 0)]));
        assert_eq!(after.rss_bytes(), BTreeMap::from([("order", 20), ("nats", 10)]));
        assert_eq!(after.restarted_since(&before), ["order-2"]);
    }
}
