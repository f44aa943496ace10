//! The platform as one sees it who wants to hurt it: who is there, who leads, and whether all is whole again.

use std::time::{Duration, Instant};

use nats::Broker;
use nats::topology::CHECKOUT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chaos::faults::kind::Lane;
use crate::chaos::open::OpenSagas;
use crate::failure::Failure;
use crate::folder::{Address, Folder, Platform};
use crate::http_client::address_of;
use crate::secrets::Secrets;
use crate::service::Service;
use crate::status;
use crate::up::ready::{self, Role, say_to_redis};

/// How often it is looked whether all is whole.
const POLL: Duration = Duration::from_millis(200);

/// One running platform.
#[derive(Debug)]
pub struct Field {
    folder: Folder,
    platform: Platform,
    broker: Broker,
}

impl Field {
    /// The platform that runs in a folder.
    ///
    /// # Errors
    /// None is ready there, or its NATS cannot be reached.
    pub async fn of(folder: &Folder) -> Result<Self, Failure> {
        let platform = folder.platform()?;
        let broker = Broker::connect(&platform.nats, "chaos", "checkout-chaos", Duration::from_secs(20)).await;
        let broker = broker.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Self { folder: folder.clone(), platform, broker })
    }

    /// Its addresses.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// What the order database says of open sagas.
    #[must_use]
    pub fn open_sagas(&self) -> OpenSagas {
        OpenSagas::at(self.platform.redis.get(&Service::Order).map_or("", String::as_str))
    }

    /// Its NATS.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Names of all processes whose name begins so.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let all = self.platform.processes.iter().map(|it| it.name.clone());
        all.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Names of the instances of a service, in their order.
    pub fn instances(&self, service: Service) -> Vec<String> {
        self.names(&format!("{service}-"))
    }

    /// All lanes of this platform.
    pub fn lanes(&self) -> Vec<Lane> {
        Lane::all(|service| self.instances(service).len())
    }

    /// The pid of a process now.
    #[must_use]
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.folder.birth(name).filter(|birth| birth.is_alive()).map(|birth| birth.pid)
    }

    /// Sends a signal to a process if it is still the one with this pid.
    pub fn signal(&self, name: &str, pid: u32, signal: Signal) -> bool {
        let Ok(raw) = i32::try_from(pid) else { return false };
        self.pid(name) == Some(pid) && kill(Pid::from_raw(raw), signal).is_ok()
    }

    fn process(&self, name: &str) -> Option<&Address> {
        self.platform.processes.iter().find(|it| it.name == name)
    }

    /// Whether a process does its work.
    ///
    /// # Errors
    /// What it says instead.
    pub async fn is_ready(&self, name: &str) -> Result<(), String> {
        self.pid(name).ok_or_else(|| format!("{name} does not run"))?;
        let process = self.process(name).ok_or_else(|| format!("there is no {name}"))?;
        let probe =
            status::probe(&self.folder, &self.platform, process).ok_or_else(|| format!("{name} has no address"))?;
        ready::ask(&probe).await.map_err(|why| format!("{name}: {why}"))
    }

    /// Which node the sentinels hold to be the primary of a service's database.
    pub async fn primary(&self, service: Service) -> Option<String> {
        let found = common::redis::locate_primary(self.platform.redis.get(&service)?).await.ok()?;
        let address = address_of(&found)?;
        let is_it = |it: &&Address| address_of(&it.url) == Some(address);
        self.platform.processes.iter().filter(|it| it.name.starts_with("redis-")).find(is_it).map(|it| it.name.clone())
    }

    /// The nats-server that leads the stream.
    pub async fn leader(&self) -> Option<String> {
        let name = tokio::time::timeout(Duration::from_secs(5), self.broker.leader_of(CHECKOUT)).await.ok()?.ok()??;
        Some(name.trim_start_matches("checkout-").to_owned())
    }

    /// Tells a sentinel to make another node of a database the primary.
    ///
    /// # Errors
    /// What it says instead.
    pub async fn fail_over(&self, sentinel: &str, service: Service) -> Result<(), String> {
        let answer = self.say(sentinel, &format!("SENTINEL FAILOVER redis-{service}")).await?;
        if answer.starts_with("+OK") { Ok(()) } else { Err(answer.trim().to_owned()) }
    }

    /// Says something to a node of a database or to a sentinel.
    async fn say(&self, name: &str, words: &str) -> Result<String, String> {
        let address =
            self.process(name).and_then(|it| address_of(&it.url)).ok_or_else(|| format!("there is no {name}"))?;
        let secrets = Secrets::of(&self.folder);
        let login = if name.starts_with("sentinel") { secrets.sentinel() } else { secrets.redis_admin() };
        say_to_redis(address, &login.map_err(|failure| failure.to_string())?, words).await
    }

    /// Waits until a lane is whole, at most so long.
    ///
    /// # Errors
    /// What is still wrong then.
    pub async fn wait_until_whole(&self, lane: Lane, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.is_whole(lane).await {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() >= deadline => return Err(why),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Whether a lane does its work again, be it not whole yet.
    ///
    /// # Errors
    /// What it lacks.
    pub async fn serves(&self, lane: Lane) -> Result<(), String> {
        match lane {
            Lane::Redis(service) if self.platform.ha => {
                let primary = self.primary(service).await.ok_or_else(|| format!("redis-{service} has no primary"))?;
                match self.role(&primary).await? {
                    Role::Primary => Ok(()),
                    role => Err(format!("{primary} is a {role}")),
                }
            }
            // Two of three choose.
            Lane::Sentinels => Ok(()),
            Lane::Nats if self.platform.ha => match self.leader().await {
                None => Err("the stream has no leader".to_owned()),
                Some(_) => Ok(()),
            },
            other => self.is_whole(other).await,
        }
    }

    /// What a node of a database is now.
    async fn role(&self, name: &str) -> Result<Role, String> {
        let address =
            self.process(name).and_then(|it| address_of(&it.url)).ok_or_else(|| format!("there is no {name}"))?;
        let login = Secrets::of(&self.folder).redis_admin().map_err(|failure| failure.to_string())?;
        ready::role(address, &login).await
    }

    /// Whether everything in a lane is as it was at the beginning, so that it bears the next fault.
    async fn is_whole(&self, lane: Lane) -> Result<(), String> {
        match lane {
            Lane::Instance(service, number) => match self.instances(service).get(number) {
                Some(name) => self.is_ready(name).await,
                None => Ok(()),
            },
            Lane::Gateway => self.is_ready("gateway").await,
            Lane::Redis(service) if self.platform.ha => self.is_group_whole(service).await,
            Lane::Redis(service) => self.is_ready(&format!("redis-{service}")).await,
            Lane::Sentinels => {
                for name in self.names("sentinel-") {
                    self.is_ready(&name).await?;
                }
                Ok(())
            }
            Lane::Nats => {
                for name in self.names("nats-") {
                    self.is_ready(&name).await?;
                }
                match self.leader().await {
                    None if self.platform.ha => Err("the stream has no leader".to_owned()),
                    _ => Ok(()),
                }
            }
            Lane::Platform => {
                for lane in self.lanes().into_iter().filter(|lane| *lane != Lane::Platform) {
                    Box::pin(self.is_whole(lane)).await?;
                }
                Ok(())
            }
        }
    }

    /// One primary that every sentinel names and nobody doubts, and two replicas that have caught up and could take its place.
    async fn is_group_whole(&self, service: Service) -> Result<(), String> {
        let group = format!("redis-{service}");
        let primary = self.primary(service).await.ok_or_else(|| format!("{group} has no primary"))?;
        for name in self.names(&format!("{group}-")) {
            let wanted = if name == primary { Role::Primary } else { Role::Replica };
            let role = self.role(&name).await?;
            if role != wanted {
                return Err(format!("{name} is a {role} and should be a {wanted}"));
            }
            let priority = self.say(&name, "CONFIG GET replica-priority").await?;
            if !priority.lines().any(|line| line.trim() == "100") {
                return Err(format!("{name} is not trusted yet"));
            }
        }
        for sentinel in self.names("sentinel-").iter().filter(|it| self.pid(it).is_some()) {
            // One that stands still or is about to come back says nothing, and the others suffice.
            let Ok(facts) = self.say(sentinel, &format!("SENTINEL MASTER {group}")).await else { continue };
            let facts: Vec<&str> = facts.lines().filter(|line| !line.starts_with('$')).map(str::trim).collect();
            let fact = |name: &str| facts.iter().position(|it| *it == name).and_then(|at| facts.get(at + 1)).copied();
            let port = self.process(&primary).and_then(|it| address_of(&it.url)).map(|it| it.port().to_string());
            if fact("flags") != Some("master") || fact("port") != port.as_deref() {
                return Err(format!("{sentinel} is not sure of the primary of {group}"));
            }
        }
        Ok(())
    }
}

/// Lets everything go on that may have been stopped.
pub fn wake_all(folder: &Folder) {
    for birth in folder.recorded().iter().filter_map(|name| folder.birth(name)).filter(|birth| birth.is_alive()) {
        if let Ok(pid) = i32::try_from(birth.pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }
}
