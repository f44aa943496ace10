//! What Linux tells about a process in `/proc`: whether it lives, since when, what it has used.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What is read from `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The state letter: `R`, `S`, … `Z` for a process that has ended and is not yet collected.
    pub state: char,
    /// User and system time together, in clock ticks.
    pub cpu_ticks: u64,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Resident memory in pages.
    pub rss_pages: u64,
}

impl Stat {
    /// Reads the one line of `/proc/PID/stat`. The second field is the command in parentheses and may contain anything, spaces
    /// and parentheses included, so the fields are counted from the last `)`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // `fields[0]` is field 3 of proc(5).
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
            rss_pages: number(24)?,
        })
    }

    /// Reads the process `pid`, or nothing when there is none.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether it still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// CPU time used so far, in microseconds.
    #[must_use]
    pub fn cpu_us(&self) -> u64 {
        self.cpu_ticks * 1_000_000 / sysconf(nix::unistd::SysconfVar::CLK_TCK, 100)
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        self.rss_pages * sysconf(nix::unistd::SysconfVar::PAGE_SIZE, 4096)
    }
}

fn sysconf(variable: nix::unistd::SysconfVar, usual: u64) -> u64 {
    nix::unistd::sysconf(variable)
        .ok()
        .flatten()
        .and_then(|value| u64::try_from(value).ok())
        .filter(|value| *value > 0)
        .unwrap_or(usual)
}

/// Which process exactly: a pid alone is given to a stranger sooner or later, a pid with its start time in one boot never is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// The process id.
    pub pid: u32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Which boot; start times of another boot say nothing.
    pub boot: String,
}

impl Birth {
    /// The identity of a process that lives now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start_ticks: Stat::read(pid)?.start_ticks, boot: boot_id() })
    }

    /// Whether the process that `now` describes (what has this pid at present) is the one that was born here, and lives.
    #[must_use]
    pub fn is(&self, now: Option<Stat>, boot: &str) -> bool {
        now.is_some_and(|stat| stat.is_alive() && stat.start_ticks == self.start_ticks && self.boot == boot)
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.is(Stat::read(self.pid), &boot_id())
    }

    /// The one line kept in a file.
    #[must_use]
    pub fn to_line(&self) -> String {
        format!("{} {} {}\n", self.pid, self.start_ticks, self.boot)
    }

    /// Reads what [`Birth::to_line`] wrote.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        Some(Self {
            pid: fields.next()?.parse().ok().filter(|pid| *pid > 1)?,
            start_ticks: fields.next()?.parse().ok()?,
            boot: fields.next()?.to_owned(),
        })
    }
}

/// The id of this boot.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// Raises the limit of open files as far as it goes; children inherit it. Thousands of clients are thousands of sockets, twice in
/// the gateway, and the usual limit is 1,024.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Lets the processes that this thread starts be told by an error that a file cannot become longer, as where a disk is full, instead of being killed: the
/// signal that the kernel sends as well, where it is a limit that forbids it, stays blocked. `checkout chaos` sets such limits.
pub fn survive_full_disks() {
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGXFSZ);
    let _ = signals.thread_block();
}

/// All processes that carry `NAME=value` in the environment they were started with and may be read by us.
#[must_use]
pub fn with_environment(name: &str, value: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let wanted = format!("{name}={}", value.display());
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
        })
        .collect()
}

/// Whether the process `pid` itself listens on TCP port `port`: an answer from there may come from a stranger who had it first.
#[must_use]
pub fn listens(pid: u32, port: u16) -> bool {
    let inodes: Vec<String> = ["tcp", "tcp6"]
        .into_iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    sockets(pid).any(|socket| inodes.contains(&socket))
}

/// The sockets of this machine that are connected by IPv4: own address and the other's, and the inode.
#[must_use]
pub fn connected_sockets() -> HashMap<(SocketAddr, SocketAddr), String> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(((address(fields.get(1)?)?, address(fields.get(2)?)?), (*fields.get(9)?).to_owned()))
    };
    table.lines().filter_map(socket).collect()
}

/// An address as it stands in `/proc/net/tcp`: the number that is in memory, and the port, in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    Some(SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
}

/// The inodes of all sockets that a process has open and we may see.
pub fn sockets(pid: u32) -> impl Iterator<Item = String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| {
        let target = std::fs::read_link(file.path()).ok()?;
        Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    })
}

/// The inodes of the sockets that listen on `port` in a table like `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTENING;
            listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LINE: &str = "1234 (a) b (c) S 1 1234 1234 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 987654 1000000 321 \
                        18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0";

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = Stat::parse(LINE).unwrap();
        assert_eq!((stat.state, stat.cpu_ticks, stat.start_ticks, stat.rss_pages), ('S', 300, 987_654, 321));
    }

    #[test]
    fn a_line_that_is_no_stat_is_refused() {
        for line in ["", "1 (x)", "1 (x) S 1 2 3", "1 x S"] {
            assert_eq!(Stat::parse(line), None, "{line}");
        }
    }

    #[test]
    fn we_ourselves_are_alive_and_are_recognised() {
        let me = Birth::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert_eq!(Birth::parse(&me.to_line()).unwrap(), me);
    }

    #[test]
    fn the_owner_of_a_listening_port_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listens(std::process::id(), port));
        assert!(!listens(1, port));
        drop(listener);
        assert!(!listens(std::process::id(), port));
    }

    #[test]
    fn the_owner_of_a_connection_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let socket = connected_sockets().remove(&ends).unwrap();
        assert!(sockets(std::process::id()).any(|it| it == socket));
        assert!(!sockets(1).any(|it| it == socket));
    }

    #[test]
    fn a_recycled_pid_another_boot_and_a_zombie_are_not_ours() {
        let stat = Stat::parse(LINE).unwrap();
        let birth = Birth { pid: 1234, start_ticks: stat.start_ticks, boot: "this".to_owned() };
        assert!(birth.is(Some(stat), "this"));
        let recycled = Stat { start_ticks: stat.start_ticks + 1, ..stat };
        assert!(!birth.is(Some(recycled), "this"));
        assert!(!birth.is(Some(stat), "another"));
        assert!(!birth.is(Some(Stat { state: 'Z', ..stat }), "this"));
        assert!(!birth.is(None, "this"));
    }

    #[test]
    fn a_birth_line_that_could_name_everyone_or_init_is_refused() {
        for line in ["", "0 5 x", "1 5 x", "-1 5 x", "77", "77 5"] {
            assert_eq!(Birth::parse(line), None, "{line}");
        }
    }
}
