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

use crate::failure::Failure;
use crate::folder::Folder;
use crate::http_client::address_of;
use crate::limits::REVIVAL_POLL;
use crate::say;
use crate::service::Service;
use crate::up::plan::Process;
use crate::up::ready::{self, Role};
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
}

impl Revival {
    /// That of a node with this configuration file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn node(service: Service, config: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(config)
            .map_err(|error| Failure::failed(format!("{}: {error}", config.display())))?;
        let lines = text.lines().filter(|line| !line.starts_with("replicaof "));
        Ok(Self::Node { service, config: lines.map(|line| format!("{line}\n")).collect() })
    }
}

/// Everything that a start after a death needs, done when the process can be started: its further arguments.
pub async fn prepare(process: &Process, folder: &Folder) -> Vec<String> {
    let home = folder.root().join(&process.name);
    match &process.revival {
        None => Vec::new(),
        Some(Revival::Sentinel) => {
            if !home.join("sentinel.conf").is_file() {
                repeat_until_done(process, || restore_sentinel(process, folder)).await;
            }
            Vec::new()
        }
        Some(Revival::Node { service, config }) => {
            if !home.join("redis.conf").is_file() || roles::last_written(&home).is_none() {
                repeat_until_done(process, || restore_node(process, folder, *service, config)).await;
            }
            vec!["--replica-priority".to_owned(), "0".to_owned()]
        }
    }
}

/// Tries until it works, and says once why it does not.
async fn repeat_until_done<F: Future<Output = Result<(), Failure>>>(process: &Process, step: impl Fn() -> F) {
    let mut told = false;
    while let Err(why) = step().await {
        if !std::mem::replace(&mut told, true) {
            say::err(&format!("checkout: {} has lost its disk: {why}", process.name));
        }
        tokio::time::sleep(REVIVAL_POLL).await;
    }
    say::err(&format!("checkout: {} starts with an empty disk", process.name));
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
        groups.push((roles::group(service), primary(folder, service).await?));
    }
    servers::configure_sentinel(folder, &process.name, process.address, &groups)?;
    Ok(())
}

/// Where the sentinels say that the primary is.
async fn primary(folder: &Folder, service: Service) -> Result<SocketAddr, Failure> {
    let platform = folder.platform()?;
    let url = platform.redis.get(&service).cloned().unwrap_or_default();
    let found = locate_primary(&url).await.map_err(|error| Failure::failed(error.to_string()))?;
    address_of(&found).ok_or_else(|| Failure::failed(format!("{found} is no address")))
}

/// Gives a node that has come back its priority again, as soon as it has caught up.
pub async fn trust_when_linked(process: Process) {
    if !matches!(process.revival, Some(Revival::Node { .. })) {
        return;
    }
    loop {
        let role = ready::role(process.address).await;
        if matches!(role, Ok(Role::Primary | Role::Replica)) && ready::trust(process.address).await.is_ok() {
            return;
        }
        tokio::time::sleep(REVIVAL_POLL).await;
    }
}
