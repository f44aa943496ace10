//! The stock service's settings. Only this file reads the environment.

use common::process::Description;
use common::service::ServiceSettings;
use common::settings::{Setting, WrongSetting};

/// The service.
pub const SERVICE: Description = Description {
    name: "stock",
    listen: "127.0.0.1:8003",
    about: "The stock service of the checkout platform: items, prices, and the reservations of checkouts.",
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
