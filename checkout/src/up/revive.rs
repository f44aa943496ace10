//! How a server of `--ha` comes back after its death, possibly without its disk.
//!
//! A primary that is killed and has its disk may come back at once: with `appendfsync always` it has every write that anybody was told of,
//! and when the sentinels were faster they turn it into a replica. One that has *lost* its disk must not: its replicas would follow
//! it and throw everything away, because to Redis an empty primary is a primary. So it waits until the sentinels have made another node
//! the primary, and comes back as its replica. And no node that has just come back is made the primary before it has caught up (it
//! could be the only one that a sentinel can reach): it starts with priority 0, which forbids that, until its link is up.

use std::net::SocketAddr;
use std::path::Path;

use common::redis::locate_primary;
use common::settings::without_secrets;

use crate::failure::Failure;
use crate::folder::Folder;
use crate::http_client::address_of;
use crate::limits::REVIVAL_POLL;
use crate::say;
use crate::secrets::Secrets;
use crate::service::Service;
use crate::up::door::Door;
use crate::up::plan::{Probe, Process};
use crate::up::ready::{self, Role};
use crate::up::servers::Watched;
use crate::up::{roles, servers};

/// What is particular about starting a process again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revival {
    /// A node of this service's database. `config` is its configuration as a primary.
    Node {
        /// Whose database.
        service: Service,
        /// The configuration file's text, without the primary that it follows.
        config: String,
    },
    /// A sentinel.
    Sentinel,
    /// A nats-server, whose configuration never changes. What it stored it gets from the others.
    Nats {
        /// The configuration file's text.
        config: String,
    },
}

impl Revival {
    /// That of a nats-server with this configuration file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn nats(config: &Path) -> Result<Self, Failure> {
        Ok(Self::Nats { config: read(config)? })
    }

    /// That of a node with this configuration file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn node(service: Service, config: &Path) -> Result<Self, Failure> {
        let text = read(config)?;
        let lines = text.lines().filter(|line| !line.starts_with("replicaof "));
        Ok(Self::Node { service, config: lines.map(|line| format!("{line}\n")).collect() })
    }
}

fn read(config: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(config).map_err(|error| Failure::failed(format!("{}: {error}", config.display())))
}

impl Process {
    /// Whether it would start with what it finds on its disk.
    fn has_its_disk(&self, home: &Path) -> bool {
        match &self.revival {
            None => true,
            Some(Revival::Nats { .. }) => home.join("nats.conf").is_file(),
            Some(Revival::Sentinel) => home.join("sentinel.conf").is_file(),
            Some(Revival::Node { .. }) => home.join("redis.conf").is_file() && roles::last_written(home).is_some(),
        }
    }
}

/// Everything that a start after a death needs, done when the process can be started: its further arguments.
pub async fn prepare(process: &Process, folder: &Folder) -> Vec<String> {
    let home = folder.root().join(&process.name);
    if !process.has_its_disk(&home) {
        let mut told = false;
        while let Err(why) = restore(process, folder, &home).await {
            if !std::mem::replace(&mut told, true) {
                say::err(&format!("checkout: {} has lost its disk: {why}", process.name));
            }
            tokio::time::sleep(REVIVAL_POLL).await;
        }
        say::err(&format!("checkout: {} starts with an empty disk", process.name));
    }
    match &process.revival {
        Some(Revival::Node { .. }) => vec!["--replica-priority".to_owned(), "0".to_owned()],
        _ => Vec::new(),
    }
}

/// Puts on an empty disk what the process must find there.
async fn restore(process: &Process, folder: &Folder, home: &Path) -> Result<(), Failure> {
    match &process.revival {
        None => Ok(()),
        Some(Revival::Nats { config }) => servers::write_config(home, "nats.conf", config).map(drop),
        Some(Revival::Sentinel) => restore_sentinel(process, folder).await,
        Some(Revival::Node { service, config }) => restore_node(process, folder, *service, config).await,
    }
}

async fn restore_node(process: &Process, folder: &Folder, service: Service, config: &str) -> Result<(), Failure> {
    let primary = primary(folder, service).await?;
    if primary == process.address {
        return Err(Failure::failed("it was the primary; waiting until the sentinels have chosen another"));
    }
    let following = servers::follow(primary);
    servers::write_config(&folder.root().join(&process.name), "redis.conf", &format!("{config}{following}"))?;
    Ok(())
}

async fn restore_sentinel(process: &Process, folder: &Folder) -> Result<(), Failure> {
    let mut groups = Vec::new();
    for service in Service::ALL {
        let (group, primary) = (roles::group(service), primary(folder, service).await?);
        let prefix = format!("{group}-");
        let platform = folder.platform()?;
        let nodes = platform.processes.iter().filter(|it| it.name.starts_with(&prefix));
        let replicas = nodes.filter_map(|it| address_of(&it.url)).filter(|it| *it != primary).collect();
        groups.push(Watched { group, primary, replicas });
    }
    let door = Door { own: process.listens, told: process.address };
    servers::configure_sentinel(folder, &process.name, door, &groups, &Secrets::of(folder))?;
    Ok(())
}

/// Where the sentinels say that the primary is.
async fn primary(folder: &Folder, service: Service) -> Result<SocketAddr, Failure> {
    let platform = folder.platform()?;
    let url = platform.redis.get(&service).cloned().unwrap_or_default();
    let found = locate_primary(&url).await.map_err(|error| Failure::failed(error.to_string()))?;
    address_of(&found).ok_or_else(|| Failure::failed(format!("{} is no address", without_secrets(&found))))
}

/// Gives a node that has come back its priority again, as soon as it has caught up.
pub async fn trust_when_linked(process: Process) {
    let Probe::Node(address, login) = &process.probe else { return };
    loop {
        let role = ready::role(*address, login).await;
        if matches!(role, Ok(Role::Primary | Role::Replica)) && ready::trust(*address, login).await.is_ok() {
            return;
        }
        tokio::time::sleep(REVIVAL_POLL).await;
    }
}
