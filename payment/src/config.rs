//! The payment service's settings. Only this file reads the environment.

use common::process::Description;
use common::service::ServiceSettings;
use common::settings::{Setting, WrongSetting};

/// The service.
pub const SERVICE: Description = Description {
    name: "payment",
    listen: "127.0.0.1:8002",
    about: "The payment service of the checkout platform: credit of users, debits and refunds of checkouts.",
    own: OWN,
};

/// Settings that only this service has.
pub const OWN: &[Setting] = &[];

/// Reads all settings.
///
/// # Errors
/// The first one that is wrong.
pub fn read() -> Result<ServiceSettings, WrongSetting> {
    let settings = ServiceSettings::read(SERVICE.name, SERVICE.listen)?;
    nats::check_urls(&settings.nats_url)?;
    Ok(settings)
}
