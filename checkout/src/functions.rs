//! `checkout functions`: which versions of the services' functions their databases hold, and the removal of those that nobody uses.

use std::collections::BTreeMap;

use common::redis::libraries::{self, Loaded};
use common::secret::Secret;

use crate::audit::place::{Looked, Place};
use crate::failure::Failure;
use crate::say;
use crate::service::Service;

/// See which versions of each service's Redis functions its database holds, and remove old ones.
///
/// Each version of a service loads functions of its own, so that old and new instances can share a database while one follows the other. Those of
/// the old one stay there (some ten kilobytes) until they are removed. `checkout up` does so at its start.
///
/// Needs a user that may list connections and delete functions: the administrator.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = "\
Examples:
  checkout functions
  checkout functions --remove-unused
  REDIS_USER=admin REDIS_PASSWORD_FILE=/run/secrets/redis-admin checkout functions --nats nats://nats:4222 \\
    --order redis+sentinel://s1:26379,s2:26379/redis-order --payment redis://pay:6379 --stock redis://stock:6379")]
pub struct Args {
    /// Where
    #[command(flatten)]
    place: Place,

    /// Remove those that no instance uses now. One that was only away loads them again
    #[arg(long)]
    remove_unused: bool,
}

/// Runs the command.
///
/// # Errors
/// A database does not answer, or does not permit it.
pub async fn run(args: Args) -> Result<(), Failure> {
    let looked = args.place.looked()?;
    for (service, url) in databases(&looked) {
        let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("the database of {service}: {error}"));
        if args.remove_unused {
            for name in libraries::remove_unused(url, service).await.map_err(|error| failed(&error))? {
                say::out(&format!("{service}: removed {name}"));
            }
        }
        for Loaded { name, connections } in libraries::list(url).await.map_err(|error| failed(&error))? {
            say::out(&format!("{service}: {name}, used by {connections} connections"));
        }
    }
    Ok(())
}

fn databases(looked: &Looked) -> [(&'static str, &Secret); 3] {
    [("order", &looked.order), ("payment", &looked.payment), ("stock", &looked.stock)]
}

/// Removes what earlier versions have left in these databases, where that is possible: it is only housekeeping.
pub async fn tidy_up(databases: &BTreeMap<Service, String>) {
    for (service, url) in databases {
        match libraries::remove_unused(url, service.name()).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                say::err(&format!("checkout: removed functions of an earlier version: {}", removed.join(", ")))
            }
            Err(error) => say::err(&format!("checkout: functions of earlier versions are not removed: {error}")),
        }
    }
}
