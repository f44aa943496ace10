//! Where the load goes.

use std::net::SocketAddr;

use crate::failure::Failure;
use crate::folder::{Folder, Platform};
use crate::http_client::address_of;
use crate::service::Service;

/// Which way requests take to the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// Straight to the instances, in turn.
    Services,
    /// Through the gateway.
    Gateway,
}

/// The platform under load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where checkouts go; client `i` takes the `i`-th of them, modulo.
    orders: Vec<SocketAddr>,
    payment: SocketAddr,
    stock: SocketAddr,
    /// What is known of the platform, if it runs in a folder here.
    pub platform: Option<(Folder, Platform)>,
    /// In words, for the report.
    pub way: String,
}

impl Target {
    /// A gateway somewhere.
    ///
    /// # Errors
    /// When the URL has no numeric address.
    pub fn url(url: &str) -> Result<Self, Failure> {
        let gateway = address(url).map_err(|_| {
            Failure::usage(format!("--url {url}: write an address with a port, like http://127.0.0.1:8000"))
        })?;
        Ok(Self {
            orders: vec![gateway],
            payment: gateway,
            stock: gateway,
            platform: None,
            way: format!("through {url}"),
        })
    }

    /// The platform that runs in a folder.
    ///
    /// # Errors
    /// When none is ready there.
    pub fn folder(folder: Folder, via: Via) -> Result<Self, Failure> {
        let platform = folder.platform()?;
        let gateway = address(&platform.gateway)?;
        let of = |service| -> Result<Vec<SocketAddr>, Failure> {
            let urls = platform.services.get(&service).map(Vec::as_slice).unwrap_or_default();
            urls.iter().map(|url| address(url)).collect()
        };
        let first = |service: Service| {
            of(service)?.first().copied().ok_or_else(|| Failure::failed(format!("no instance of {service} runs")))
        };
        let (orders, payment, stock, way) = match via {
            Via::Gateway => (vec![gateway], gateway, gateway, "through the gateway"),
            Via::Services => (
                of(Service::Order)?,
                first(Service::Payment)?,
                first(Service::Stock)?,
                "straight to the service instances in turn, without the gateway",
            ),
        };
        if orders.is_empty() {
            return Err(Failure::failed("no instance of order runs"));
        }
        Ok(Self { orders, payment, stock, platform: Some((folder, platform)), way: way.to_owned() })
    }

    /// Where client number `client` sends its checkouts.
    #[must_use]
    pub fn for_client(&self, client: usize) -> SocketAddr {
        self.orders[client % self.orders.len()]
    }

    /// Where a service is seeded.
    #[must_use]
    pub fn of(&self, service: Service) -> SocketAddr {
        match service {
            Service::Order => self.orders[0],
            Service::Payment => self.payment,
            Service::Stock => self.stock,
        }
    }
}

fn address(url: &str) -> Result<SocketAddr, Failure> {
    address_of(url).ok_or_else(|| Failure::failed(format!("'{url}' is not an address")))
}
