//! `checkout up`: the whole platform on this machine, until it is told to stop.

pub mod access;
mod args;
mod backoff;
mod door;
mod fleet;
mod ha;
pub mod leftover;
pub mod plan;
mod ports;
pub mod ready;
mod revive;
mod roles;
pub mod servers;
mod supervisor;
mod welcome;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::folder::{Folder, Platform, UP};
use crate::functions;
use crate::limits::{DRAIN, SERVERS_STOP};
use crate::links::Links;
use crate::procs;
use crate::say;
use crate::secrets::Secrets;
use crate::service::Service;
use crate::signals::StopSignals;
use crate::topology::{self, Kept};
use crate::up::args::DEFAULT_PORT;
use crate::up::args::Shape;
pub use crate::up::args::{Args, ShapeArgs};
use crate::up::fleet::Fleet;
use crate::up::plan::{Group, Process, Servers};
use crate::up::ports::Ports;
use crate::up::servers::{Replication, Server};

/// The port on which a NATS client looks when it is told nothing.
const NATS_PORT: u16 = 4222;

/// Runs the platform.
///
/// # Errors
/// When it cannot be started, or did not stop cleanly.
pub async fn run(args: Args) -> Result<(), Failure> {
    let shape = Shape::new(&args.shape)?;
    let programs = Programs::find()?;
    procs::raise_open_files();
    let folder = Folder::create(args.data.clone())?;
    // From here to the end of this function nobody else touches the folder.
    let _lock = folder.lock()?;
    // Listening from here on: a signal that comes during the next lines is kept, and stops the start.
    let stop = StopSignals::new()?;
    folder.retract();
    folder.record(UP, std::process::id());
    leftover::stop(&folder).await;
    let outcome = Box::pin(live(&args, &shape, &programs, &folder, stop)).await;
    folder.retract();
    folder.forget(UP);
    outcome
}

/// Start, be there, stop.
async fn live(
    args: &Args,
    shape: &Shape,
    programs: &Programs,
    folder: &Folder,
    mut stop: StopSignals,
) -> Result<(), Failure> {
    let fleet = Fleet::new(folder.clone(), Instant::now() + args::ready_timeout(args), args.quiet);
    let start = Start {
        args,
        shape,
        programs,
        folder,
        fleet: &fleet,
        ports: Ports::new(),
        secrets: Secrets::of(folder),
        links: shape.links.then(|| Links::new(folder)).transpose()?,
        keeping: CancellationToken::new(),
    };
    let _keeping = start.keeping.clone().drop_guard();
    let started = tokio::select! {
        started = start.all() => started.map(Some),
        () = stop.next() => Ok(None),
    };
    let outcome = match started {
        Ok(Some(platform)) => {
            // All instances that run are ours, and of one version.
            functions::tidy_up(&platform.redis).await;
            folder.publish(&platform);
            welcome::write_env(&platform, folder)?;
            if !args.quiet {
                welcome::print(&platform, folder);
            }
            stop.next().await;
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    folder.retract();
    if fleet.is_empty() {
        return outcome;
    }
    let news = |line: &str| {
        if !args.quiet {
            say::err(&format!("checkout: {line}"));
        }
    };
    news("stopping; again (Ctrl-C) kills");
    let clean = tokio::select! {
        clean = wind_down(&fleet, &news) => clean,
        // The drain goes on after the second signal: it then only collects what was killed.
        () = async { stop.next().await; fleet.kill(); std::future::pending().await } => false,
    };
    match outcome {
        Ok(()) if clean => {
            news("stopped");
            Ok(())
        }
        Ok(()) => Err(Failure::failed("stopped, but not everything ended by itself in time")),
        Err(failure) => Err(failure),
    }
}

/// Stops everything from the outside in: first who accepts work, last who keeps the data.
async fn wind_down(fleet: &Fleet, news: &impl Fn(&str)) -> bool {
    let deadline = Instant::now() + DRAIN;
    let mut clean = fleet.drain(DRAIN, &[Group::Gateway]).await;
    if clean {
        news("the gateway has drained");
    }
    // The order service first: its clients wait for outcomes that payment and stock still have to bring.
    let patience = deadline.saturating_duration_since(Instant::now()).max(DRAIN / 2);
    clean &= fleet.drain(patience, &[Group::Service(Service::Order)]).await;
    let rest = [Group::Service(Service::Payment), Group::Service(Service::Stock)];
    clean &= fleet.drain(patience, &rest).await;
    if clean {
        news("the services have drained");
    }
    clean &= fleet.drain(SERVERS_STOP, &[Group::Auditor]).await;
    // Who watches over the databases must not see them die.
    clean &= fleet.drain(SERVERS_STOP, &[Group::Sentinel]).await;
    clean &= fleet.drain(SERVERS_STOP, &[Group::Nats, Group::Redis]).await;
    clean
}

/// The programs that are run.
#[derive(Debug)]
struct Programs {
    nats: Server,
    redis: Server,
    services: BTreeMap<Service, PathBuf>,
    own: PathBuf,
}

impl Programs {
    /// Finds them all, before anything is started.
    fn find() -> Result<Self, Failure> {
        let own = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("cannot find this program's own file: {error}")))?;
        let mut services = BTreeMap::new();
        for service in Service::ALL {
            let program = own.with_file_name(service.name());
            if !program.is_file() {
                return Err(Failure::failed(format!(
                    "{} is missing: build all services with `make build`",
                    program.display()
                )));
            }
            services.insert(service, program);
        }
        Ok(Self { nats: servers::find_nats()?, redis: servers::find_redis()?, services, own })
    }
}

/// Everything a start needs.
struct Start<'a> {
    args: &'a Args,
    shape: &'a Shape,
    programs: &'a Programs,
    folder: &'a Folder,
    fleet: &'a Fleet,
    ports: Ports,
    secrets: Secrets,
    /// Through which all connections go, where they can be hurt.
    links: Option<Links>,
    /// Ends the keeping of the topology.
    keeping: CancellationToken,
}

impl Start<'_> {
    /// Servers, then services, then the gateway. Each stage needs the addresses of the one before.
    async fn all(&self) -> Result<Platform, Failure> {
        // Kept from other platforms before anything is started; the gateway itself comes last.
        self.gateway_address()?;
        self.refuse_other_shape()?;
        let (nats, redis) = (&self.programs.nats, &self.programs.redis);
        let count = if self.shape.ha { ["3 × ", "9 × ", " and 3 sentinels"] } else { ["", "3 × ", ""] };
        self.news(&format!(
            "starting {}nats-server {} and {}{} {}{}",
            count[0], nats.version, count[1], redis.kind, redis.version, count[2]
        ));
        let (servers, monitor) = match self.shape.ha {
            true => Box::pin(self.replicated_servers()).await?,
            false => Box::pin(self.single_servers()).await?,
        };
        Box::pin(self.topology(&servers)).await?;
        let counts: Vec<String> = self.shape.scale.iter().map(|(it, count)| format!("{count} × {it}")).collect();
        self.news(&format!("starting {}", counts.join(", ")));
        let services = self.services(&servers).await?;
        let gateway = self
            .fleet
            .start(|| Ok(plan::gateway(self.programs.own.clone(), self.gateway_address()?, &services, self.shape)))
            .await?;
        if self.shape.auditor {
            self.auditor(&servers).await?;
        }
        self.platform(&gateway, &servers, monitor, services)
    }

    async fn auditor(&self, servers: &Servers) -> Result<Process, Failure> {
        self.fleet
            .start(|| {
                let env = access::of_auditor(&self.secrets)?;
                Ok(plan::auditor(self.programs.own.clone(), self.ports.free()?, &servers.nats, env, self.shape))
            })
            .await
    }

    /// Makes streams and durables, which the services may not, and keeps them as they are. With what the order service is told of
    /// streams: all services have the same.
    async fn topology(&self, servers: &Servers) -> Result<(), Failure> {
        let order = Service::Order.name();
        let told = servers.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let kept = Kept::of_settings(told.chain(self.shape.settings_of(order, order)))?;
        let broker = topology::make(&self.secrets.nats_admin()?.in_urls(&servers.nats), &kept).await?;
        let keeping = self.keeping.clone();
        tokio::spawn(async move { broker.keep_topology(keeping).await });
        Ok(())
    }

    fn gateway_address(&self) -> Result<SocketAddr, Failure> {
        let (host, port) = (self.args.host, self.args.port);
        if port == 0 {
            return Ok(SocketAddr::new(host, self.ports.free()?.port()));
        }
        let address = SocketAddr::new(host, port);
        if self.ports.take(address) {
            Ok(address)
        } else {
            Err(Failure::failed(format!(
                "{address} is taken by another program or platform: choose another port with --port (0 takes a free one)"
            )))
        }
    }

    /// Data that was written with `--ha` would not be found without it, and the other way round.
    fn refuse_other_shape(&self) -> Result<(), Failure> {
        let other = if self.shape.ha { "redis-order" } else { "redis-order-1" };
        if !self.folder.root().join(other).exists() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{} holds a platform {} --ha: start it so, or choose another folder with --data",
            self.folder.root().display(),
            if self.shape.ha { "without" } else { "with" }
        )))
    }

    /// One of each: nothing survives the loss of a disk.
    async fn single_servers(&self) -> Result<(Servers, SocketAddr), Failure> {
        let (nats, order, payment, stock) = tokio::try_join!(
            self.nats_server(1, &[]),
            self.redis(Service::Order),
            self.redis(Service::Payment),
            self.redis(Service::Stock),
        )?;
        let (nats, monitor) = nats;
        let databases = [(Service::Order, order), (Service::Payment, payment), (Service::Stock, stock)];
        let servers = Servers {
            nats: nats.url(),
            redis: databases.iter().map(|(service, process)| (*service, process.url())).collect(),
            env: Vec::new(),
        };
        Ok((servers, monitor))
    }

    /// Only the platform on the usual port takes the usual port of NATS, for its first server. Did all of them want it, one could take
    /// it while another restarts its server, and the services of the other would join the wrong stream.
    fn nats_port(&self, number: u16) -> Result<SocketAddr, Failure> {
        match (self.args.port, number) {
            (DEFAULT_PORT, 1) => self.ports.prefer(NATS_PORT),
            _ => self.ports.free(),
        }
    }

    async fn redis(&self, service: Service) -> Result<Process, Failure> {
        let name = format!("redis-{service}");
        self.fleet
            .start(|| {
                let door = self.door(&name)?;
                let config = servers::configure_redis(
                    self.folder,
                    service,
                    &name,
                    door,
                    &self.shape.appendfsync,
                    Replication::None,
                    &self.secrets,
                    self.shape.settings_of("redis", &name),
                )?;
                let login = self.secrets.redis_admin()?;
                Ok(plan::redis(&name, self.programs.redis.program.clone(), &config, door, login))
            })
            .await
    }

    /// All instances at once; they need nothing of each other to become ready.
    async fn services(&self, servers: &Servers) -> Result<BTreeMap<Service, Vec<String>>, Failure> {
        let instances =
            self.shape.scale.iter().flat_map(|(service, count)| (1..=*count).map(|number| (*service, number)));
        let starts = instances.map(|(service, number)| self.instance(service, number, servers));
        let mut urls: BTreeMap<Service, Vec<String>> = BTreeMap::new();
        for (service, process) in try_join_all(starts).await? {
            urls.entry(service).or_default().push(process.url());
        }
        Ok(urls)
    }

    async fn instance(&self, service: Service, number: u16, servers: &Servers) -> Result<(Service, Process), Failure> {
        let program = &self.programs.services[&service];
        let process = self
            .fleet
            .start(|| {
                let door = self.door(&format!("{service}-{number}"))?;
                let secrets = access::of_instance(service, self.shape.ha, &self.secrets)?;
                Ok(plan::instance(service, number, program.clone(), door, servers, secrets, self.shape))
            })
            .await?;
        Ok((service, process))
    }

    fn platform(
        &self,
        gateway: &Process,
        servers: &Servers,
        monitor: SocketAddr,
        services: BTreeMap<Service, Vec<String>>,
    ) -> Result<Platform, Failure> {
        let versions =
            [&self.programs.nats, &self.programs.redis].map(|server| (server.kind.clone(), server.version.to_string()));
        let with_login =
            |(service, url): (&Service, &String)| self.secrets.in_redis_url(url).map(|url| (*service, url.to_string()));
        Ok(Platform {
            gateway: gateway.url(),
            nats: self.secrets.nats_admin()?.in_urls(&servers.nats).to_string(),
            nats_monitor: format!("http://{monitor}"),
            redis: servers.redis.iter().map(with_login).collect::<Result<_, _>>()?,
            ha: self.shape.ha,
            services,
            processes: self.fleet.addresses(),
            versions: versions.into_iter().collect(),
            appendfsync: self.shape.appendfsync.clone(),
        })
    }

    fn news(&self, line: &str) {
        if !self.args.quiet {
            say::err(&format!("checkout: {line}"));
        }
    }
}
