//! The servers of `checkout up --ha`: three of everything that keeps data, as it would run in production.
//!
//! Per service a primary and two replicas; three sentinels that watch over all three groups; three nats-servers in a cluster.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures::future::try_join_all;

use crate::failure::Failure;
use crate::service::Service;
use crate::up::door::Door;
use crate::up::plan::{self, Probe, Process, Servers};
use crate::up::revive::Revival;
use crate::up::servers::{self, Replication, Watched};
use crate::up::{Start, roles};

/// How many of each there are: the fewest of which one may die.
pub const NODES: u16 = 3;

/// The name of one nats-server.
fn nats_name(number: u16) -> String {
    format!("nats-{number}")
}

/// A service's database: the primary first, then its replicas.
type Nodes = Vec<Process>;

impl Start<'_> {
    /// Starts them all, and says where they are and where the first nats-server has its pages.
    pub async fn replicated_servers(&self) -> Result<(Servers, SocketAddr), Failure> {
        let (nats, order, payment, stock) = tokio::try_join!(
            self.nats_cluster(),
            self.nodes(Service::Order),
            self.nodes(Service::Payment),
            self.nodes(Service::Stock),
        )?;
        let nodes = BTreeMap::from([(Service::Order, order), (Service::Payment, payment), (Service::Stock, stock)]);
        let sentinels = self.sentinels(&nodes).await?;
        let watched: Vec<String> = sentinels.iter().map(|it| it.address.to_string()).collect();
        let url = |service: Service| format!("redis+sentinel://{}/{}", watched.join(","), roles::group(service));
        let (processes, pages): (Vec<_>, Vec<_>) = nats.into_iter().unzip();
        let monitor = pages.first().copied().ok_or_else(|| Failure::failed("there is no nats-server"))?;
        let urls: Vec<String> = processes.iter().map(Process::url).collect();
        let env = [("STREAM_REPLICAS", NODES.to_string()), ("REDIS_WAIT_REPLICAS", "1".to_owned())];
        let servers = Servers {
            nats: urls.join(","),
            redis: Service::ALL.into_iter().map(|service| (service, url(service))).collect(),
            env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        };
        Ok((servers, monitor))
    }

    /// The cluster comes up together: none of its servers is ready before two are there.
    async fn nats_cluster(&self) -> Result<Vec<(Process, SocketAddr)>, Failure> {
        let routes = (1..=NODES).map(|number| self.door(&nats_name(number))).collect::<Result<Vec<_>, _>>()?;
        try_join_all((1..=NODES).map(|number| self.nats_server(number, &routes))).await
    }

    /// One nats-server, with the address of its pages. `routes` are the addresses of all servers to each other; none where there is only
    /// one.
    pub async fn nats_server(&self, number: u16, routes: &[Door]) -> Result<(Process, SocketAddr), Failure> {
        let name = nats_name(number);
        let monitor = Cell::new(None);
        let process = self
            .fleet
            .start(|| {
                let client = self.door_at(&name, self.nats_port(number)?)?;
                let pages = self.ports.free()?;
                monitor.set(Some(pages));
                let config = servers::configure_nats(self.folder, &name, client, pages, number, routes, &self.secrets)?;
                let mut process = plan::nats(&name, self.programs.nats.program.clone(), &config, client, pages);
                process.revival = Some(Revival::nats(&config)?);
                Ok(process)
            })
            .await?;
        let pages = monitor.get().unwrap_or(process.listens);
        Ok((process, pages))
    }

    /// The nodes of one service's database. Who was the primary last is it again.
    async fn nodes(&self, service: Service) -> Result<Nodes, Failure> {
        let first = roles::last_primary(self.folder, service)?;
        let primary = self.node(service, first, None).await?;
        let rest = (1..=NODES).filter(|number| *number != first);
        let replicas = try_join_all(rest.map(|number| self.node(service, number, Some(primary.address)))).await?;
        Ok(std::iter::once(primary).chain(replicas).collect())
    }

    async fn node(&self, service: Service, number: u16, replica_of: Option<SocketAddr>) -> Result<Process, Failure> {
        let (group, name) = (roles::group(service), roles::node(service, number));
        self.fleet
            .start(|| {
                let door = self.door(&name)?;
                let of_group = self.shape.settings_of("redis", &group);
                let own = self.shape.settings_of(&name, &name);
                let replication = Replication::Node { replica_of };
                let policy = &self.shape.appendfsync;
                let extra = of_group.chain(own);
                let (folder, secrets) = (self.folder, &self.secrets);
                let config =
                    servers::configure_redis(folder, service, &name, door, policy, replication, secrets, extra)?;
                let login = self.secrets.redis_admin()?;
                let program = self.programs.redis.program.clone();
                let mut process = plan::redis(&name, program, &config, door, login.clone());
                process.probe = Probe::Node(door.told, login);
                process.revival = Some(Revival::node(service, &config)?);
                Ok(process)
            })
            .await
    }

    /// Started when all replicas are there, so that they are known from the first moment.
    async fn sentinels(&self, nodes: &BTreeMap<Service, Nodes>) -> Result<Vec<Process>, Failure> {
        let watched: Vec<Watched> = nodes
            .iter()
            .filter_map(|(service, nodes)| {
                let (primary, replicas) = nodes.split_first()?;
                let (primary, replicas) = (primary.address, replicas.iter().map(|it| it.address).collect());
                Some(Watched { group: roles::group(*service), primary, replicas })
            })
            .collect();
        let watched = &watched;
        let starts = (1..=NODES).map(|number| async move {
            let name = format!("sentinel-{number}");
            self.fleet
                .start(|| {
                    let door = self.door(&name)?;
                    let config = servers::configure_sentinel(self.folder, &name, door, watched, &self.secrets)?;
                    let groups = watched.iter().map(|it| it.group.clone()).collect();
                    let login = self.secrets.sentinel()?;
                    Ok(plan::sentinel(&name, self.programs.redis.program.clone(), &config, door, login, groups))
                })
                .await
        });
        try_join_all(starts).await
    }
}
