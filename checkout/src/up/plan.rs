//! What each process of the platform is: program, arguments, environment, address, and how one sees that it is ready.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::folder::Address;
use common::secret::Login;

use crate::service::Service;
use crate::up::args::Shape;
use crate::up::door::Door;
use crate::up::revive::Revival;

/// Every child carries this with the data folder as value, so that one that was started in the instant before its parent was killed,
/// and has no pid file, is still recognised. It is there from the child's first instant, and none of them writes over it.
pub const MARKER: &str = "CHECKOUT_CHILD_OF";

/// The groups of processes, in the order in which they stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The one port for all routes.
    Gateway,
    /// Instances of a service.
    Service(Service),
    /// Who follows the stream and tells what can never be.
    Auditor,
    /// nats-server.
    Nats,
    /// Those who watch over the databases and choose their primaries.
    Sentinel,
    /// The databases.
    Redis,
}

impl Group {
    /// Name of the group in flags and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Service(service) => service.name(),
            Self::Auditor => "auditor",
            Self::Nats => "nats",
            Self::Sentinel => "sentinel",
            Self::Redis => "redis",
        }
    }

    /// The group of the process `name` (`order-2`, `redis-stock`, `nats-1`, `gateway`).
    #[must_use]
    pub fn of_process(name: &str) -> Option<Self> {
        let kind = name.split('-').next()?;
        match kind {
            "gateway" => Some(Self::Gateway),
            "auditor" => Some(Self::Auditor),
            "nats" => Some(Self::Nats),
            "sentinel" => Some(Self::Sentinel),
            "redis" => Some(Self::Redis),
            service => service.parse().ok().map(Self::Service),
        }
    }
}

/// How one sees that a process does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET` of this path answers 200.
    Http(SocketAddr, &'static str),
    /// `PING` answers `PONG` (and not that it still loads its data).
    Redis(SocketAddr, Login),
    /// The same of one of several nodes, which is the primary or follows it.
    Node(SocketAddr, Login),
    /// It sees enough other sentinels to choose a new primary for each of these groups.
    Sentinel(SocketAddr, Login, Vec<String>),
}

/// One process to run and keep running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its name in pid files, logs and messages.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// The program file.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is added to our own environment.
    pub env: Vec<(String, String)>,
    /// Where the others are told that it is.
    pub address: SocketAddr,
    /// Where it listens.
    pub listens: SocketAddr,
    /// How its readiness is seen.
    pub probe: Probe,
    /// What has to be seen to when it is started again after its death.
    pub revival: Option<Revival>,
}

impl Process {
    /// What others are told of it.
    #[must_use]
    pub fn published(&self) -> Address {
        let monitor = match (&self.probe, self.group) {
            (Probe::Http(pages, _), Group::Nats) => Some(format!("http://{pages}")),
            _ => None,
        };
        Address { name: self.name.clone(), url: self.url(), monitor }
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.group {
            Group::Gateway | Group::Service(_) | Group::Auditor => "http",
            Group::Nats => "nats",
            Group::Redis | Group::Sentinel => "redis",
        };
        format!("{scheme}://{}", self.address)
    }
}

/// How many threads nats-server (the Go runtime's `GOMAXPROCS`) and a service (tokio's `TOKIO_WORKER_THREADS`) run at a time: half as many as there
/// are cores, which they share with each other and with the databases. With as many as cores, two busy cores spend a tenth of their time on
/// waking threads that find nothing to do. Who sets the variable for us, or with `--set`, knows better.
fn threads(variable: &str) -> Option<(String, String)> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::env::var_os(variable).is_none().then(|| (variable.to_owned(), (cores / 2).max(1).to_string()))
}

/// nats-server with its configuration file.
#[must_use]
pub fn nats(name: &str, program: PathBuf, config: &std::path::Path, client: Door, monitor: SocketAddr) -> Process {
    Process {
        name: name.to_owned(),
        group: Group::Nats,
        program,
        args: vec!["--config".to_owned(), config.display().to_string()],
        env: threads("GOMAXPROCS").into_iter().collect(),
        address: client.told,
        listens: client.own,
        probe: Probe::Http(monitor, "/healthz"),
        revival: None,
    }
}

/// How the C library keeps freed memory at hand for a redis-server that was built without jemalloc (as the one of `make tools` is; the
/// others do not read it). With glibc's own limits, seven pieces of a size and none beyond a kilobyte, a fifth of its CPU time goes into looking for
/// memory; with these a checkout costs the databases a seventh less, and each of them some 6 MB. (glibc manual, *Memory Allocation Tunables*.)
const MALLOC: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=2000:glibc.malloc.tcache_max=65536");

/// redis-server with its configuration file.
#[must_use]
pub fn redis(name: &str, program: PathBuf, config: &std::path::Path, door: Door, login: Login) -> Process {
    Process {
        name: name.to_owned(),
        group: Group::Redis,
        program,
        args: vec![config.display().to_string()],
        env: vec![(MALLOC.0.to_owned(), MALLOC.1.to_owned())],
        address: door.told,
        listens: door.own,
        probe: Probe::Redis(door.told, login),
        revival: None,
    }
}

/// redis-server as a sentinel, with its configuration file, which it rewrites.
#[must_use]
pub fn sentinel(
    name: &str,
    program: PathBuf,
    config: &std::path::Path,
    door: Door,
    login: Login,
    groups: Vec<String>,
) -> Process {
    Process {
        name: name.to_owned(),
        group: Group::Sentinel,
        program,
        args: vec![config.display().to_string(), "--sentinel".to_owned()],
        env: Vec::new(),
        address: door.told,
        listens: door.own,
        probe: Probe::Sentinel(door.told, login, groups),
        revival: Some(Revival::Sentinel),
    }
}

/// Where the services find their servers.
#[derive(Debug, Clone)]
pub struct Servers {
    /// URLs of NATS, separated by commas.
    pub nats: String,
    /// URL of each service's database.
    pub redis: BTreeMap<Service, String>,
    /// Settings that follow from the kind of the servers.
    pub env: Vec<(String, String)>,
}

/// One instance of a service.
#[must_use]
pub fn instance(
    service: Service,
    number: u16,
    program: PathBuf,
    door: Door,
    servers: &Servers,
    secrets: Vec<(String, String)>,
    shape: &Shape,
) -> Process {
    let name = format!("{service}-{number}");
    let mut env = vec![
        ("LISTEN".to_owned(), door.own.to_string()),
        ("INSTANCE".to_owned(), name.clone()),
        ("NATS_URL".to_owned(), servers.nats.clone()),
        ("REDIS_URL".to_owned(), servers.redis.get(&service).cloned().unwrap_or_default()),
    ];
    env.extend(threads("TOKIO_WORKER_THREADS"));
    env.extend(servers.env.iter().cloned());
    env.extend(secrets);
    let settings = shape.settings_of(service.name(), &name);
    env.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Process {
        group: Group::Service(service),
        program,
        args: Vec::new(),
        env,
        address: door.told,
        listens: door.own,
        probe: Probe::Http(door.told, "/health/ready"),
        revival: None,
        name,
    }
}

/// The gateway: this same program.
#[must_use]
pub fn gateway(
    program: PathBuf,
    address: SocketAddr,
    services: &BTreeMap<Service, Vec<String>>,
    shape: &Shape,
) -> Process {
    let mut args = vec!["gateway".to_owned(), format!("--listen={address}")];
    for (service, urls) in services {
        args.extend(urls.iter().map(|url| format!("--{service}={url}")));
    }
    let settings = shape.settings_of("gateway", "gateway");
    // Whoever listens on all interfaces is reached on the loopback one too.
    let reached = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        ip if ip.is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
        _ => address,
    };
    Process {
        name: "gateway".to_owned(),
        group: Group::Gateway,
        program,
        args,
        env: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        address: reached,
        listens: reached,
        probe: Probe::Http(reached, "/health/ready"),
        revival: None,
    }
}

/// The auditor: this same program.
#[must_use]
pub fn auditor(
    program: PathBuf,
    address: SocketAddr,
    nats: &str,
    mut env: Vec<(String, String)>,
    shape: &Shape,
) -> Process {
    let settings = shape.settings_of("auditor", "auditor");
    env.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Process {
        name: "auditor".to_owned(),
        group: Group::Auditor,
        program,
        args: vec!["auditor".to_owned(), format!("--listen={address}"), format!("--nats={nats}")],
        env,
        address,
        listens: address,
        probe: Probe::Http(address, "/health/ready"),
        revival: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_read_from_the_name() {
        assert_eq!(Group::of_process("order-12"), Some(Group::Service(Service::Order)));
        assert_eq!(Group::of_process("redis-order"), Some(Group::Redis));
        assert_eq!(Group::of_process("nats-1"), Some(Group::Nats));
        assert_eq!(Group::of_process("gateway"), Some(Group::Gateway));
        assert_eq!(Group::of_process("auditor"), Some(Group::Auditor));
        assert_eq!(Group::of_process("up"), None);
    }

    #[test]
    fn groups_stop_from_the_outside_in() {
        let mut groups =
            [Group::Redis, Group::Service(Service::Stock), Group::Gateway, Group::Nats, Group::Service(Service::Order)];
        groups.sort();
        assert_eq!(groups[0], Group::Gateway);
        assert_eq!(groups[1], Group::Service(Service::Order));
        assert_eq!(groups[4], Group::Redis);
    }
}
