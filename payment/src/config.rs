//! The payment service's settings. Only this file reads the environment.

use common::service::ServiceSettings;
use common::settings::{Setting, WrongSetting};

/// The service's name, in settings, events and consumers.
pub const SERVICE: &str = "payment";
/// Where it listens by default.
pub const LISTEN: &str = "127.0.0.1:8002";
/// The first line of `--help`.
pub const ABOUT: &str =
    "The payment service of the checkout platform: credit of users, debits and refunds of checkouts.";
/// Settings that only this service has.
pub const OWN: &[Setting] = &[];

/// Reads all settings.
///
/// # Errors
/// The first one that is wrong.
pub fn read() -> Result<ServiceSettings, WrongSetting> {
    ServiceSettings::read(SERVICE, LISTEN)
}
