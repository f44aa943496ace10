//! Where the databases and the stream are that are audited.

use std::path::PathBuf;

use common::secret::{Secret, with_sentinel_login};
use common::settings::{WrongSetting, read_login, read_sentinel_login};

use crate::failure::Failure;
use crate::folder::Folder;
use crate::service::Service;

/// A platform of this machine, or one anywhere.
#[derive(clap::Args, Debug, Clone)]
pub struct Place {
    /// Folder of the platform [default: checkout in the user's data folder]
    #[arg(long, value_name = "DIR", env = "CHECKOUT_DATA")]
    data: Option<PathBuf>,

    /// NATS servers of another platform, separated by commas; NATS_USER and NATS_PASSWORD or NATS_PASSWORD_FILE say who one is there
    #[arg(long, value_name = "URL", requires_all = ["order", "payment", "stock"])]
    nats: Option<String>,

    /// Its order database: redis://… or redis+sentinel://HOST:PORT,…/NAME; REDIS_USER and REDIS_PASSWORD or REDIS_PASSWORD_FILE say who one
    /// is at all three, SENTINEL_USER and SENTINEL_PASSWORD or SENTINEL_PASSWORD_FILE who one is to the sentinels
    #[arg(long, value_name = "URL", requires = "nats")]
    order: Option<String>,

    /// Its payment database
    #[arg(long, value_name = "URL", requires = "nats")]
    payment: Option<String>,

    /// Its stock database
    #[arg(long, value_name = "URL", requires = "nats")]
    stock: Option<String>,
}

/// The URLs with their logins.
#[derive(Debug, Clone)]
pub struct Looked {
    /// NATS.
    pub nats: Secret,
    /// The database of the order service.
    pub order: Secret,
    /// That of payment.
    pub payment: Secret,
    /// That of stock.
    pub stock: Secret,
}

impl Place {
    /// The platform of a folder on this machine.
    #[must_use]
    pub fn of_folder(root: PathBuf) -> Self {
        Self { data: Some(root), nats: None, order: None, payment: None, stock: None }
    }

    /// Finds it.
    ///
    /// # Errors
    /// No platform is ready in the folder, or a setting is wrong.
    pub fn looked(self) -> Result<Looked, Failure> {
        if let (Some(nats), Some(order), Some(payment), Some(stock)) = (self.nats, self.order, self.payment, self.stock)
        {
            let wrong = |error: WrongSetting| Failure::usage(error.to_string());
            let login = read_login("NATS_USER", "NATS_PASSWORD", "NATS_PASSWORD_FILE").map_err(wrong)?;
            let nats = login.map_or_else(|| Secret::new(&nats), |login| login.in_urls(&nats));
            nats::check_urls(&nats).map_err(wrong)?;
            return Ok(Looked {
                nats,
                order: database(&order).map_err(wrong)?,
                payment: database(&payment).map_err(wrong)?,
                stock: database(&stock).map_err(wrong)?,
            });
        }
        let folder = Folder::at(self.data)?;
        let platform = folder.platform()?;
        let of = |service: Service| Secret::new(platform.redis.get(&service).cloned().unwrap_or_default());
        Ok(Looked {
            nats: Secret::new(&platform.nats),
            order: of(Service::Order),
            payment: of(Service::Payment),
            stock: of(Service::Stock),
        })
    }
}

fn database(url: &str) -> Result<Secret, WrongSetting> {
    let login = read_login("REDIS_USER", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE")?;
    let mut whole = login.map_or_else(|| Secret::new(url), |login| login.in_url(url));
    if let Some(login) = read_sentinel_login()? {
        whole = with_sentinel_login(&whole, &login);
    }
    common::redis::check_url(&whole).map_err(|why| WrongSetting::new("REDIS_URL", url, why))?;
    Ok(whole)
}
