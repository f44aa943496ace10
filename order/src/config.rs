//! The order service's settings. Only this file reads the environment.

use std::time::Duration;

use common::process::Description;
use common::service::ServiceSettings;
use common::settings::{Setting, WrongSetting, read, read_lifetime, read_ms};

/// The service.
pub const SERVICE: Description = Description {
    name: "order",
    listen: "127.0.0.1:8001",
    about: "The order service of the checkout platform: orders, checkouts, the undo log and its reconciler.",
    own: OWN,
};

/// Settings that only this service has.
pub const OWN: &[Setting] = &[
    Setting { name: "SAGA_LIMIT_MS", default: "30000", help: "age at which an undecided saga is abandoned and undone" },
    Setting { name: "REPLAY_FIRST_MS", default: "2000", help: "age at which a saga is replayed for the first time" },
    Setting { name: "REPLAY_LONGEST_MS", default: "10000", help: "longest time between two replays of a saga" },
    Setting {
        name: "RECONCILE_EVERY_MS",
        default: "500",
        help: "how often the reconciler looks for sagas that are due",
    },
    Setting { name: "WATERMARK_EVERY_MS", default: "5000", help: "how often it is told which sagas are all closed" },
    Setting {
        name: "WATERMARK_MARGIN_MS",
        default: "60000",
        help: "how far the watermark stays behind the oldest open saga; outcome records are kept at least so long",
    },
    Setting { name: "UNDO_RETENTION_S", default: "120", help: "how long a closed undo entry can be read, in seconds" },
    Setting {
        name: "MAX_CHECKOUTS_IN_FLIGHT",
        default: "20000",
        help: "checkouts that wait in this instance at once; beyond, 429",
    },
    Setting {
        name: "MAX_SAGAS_OPEN",
        default: "100000",
        help: "sagas that may be open in the database at once; beyond, 429, and none is begun",
    },
    Setting { name: "PRICE_CACHE_ENTRIES", default: "100000", help: "prices that are remembered" },
];

/// The order service's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What all services have.
    pub service: ServiceSettings,
    /// When and how sagas are reconciled.
    pub reconcile: ReconcileSettings,
    /// How long a closed undo entry can be read, in seconds.
    pub undo_retention_s: u64,
    /// Checkouts that wait in this instance at once.
    pub max_checkouts_in_flight: usize,
    /// Sagas that may be open in the database at once, whoever began them.
    pub max_sagas_open: u64,
    /// Prices that are remembered.
    pub price_cache_entries: usize,
}

/// When and how sagas are reconciled.
#[derive(Debug, Clone)]
pub struct ReconcileSettings {
    /// Age at which an undecided saga is abandoned.
    pub saga_limit: Duration,
    /// Age at which a saga is replayed for the first time; also the first backoff.
    pub replay_first: Duration,
    /// Longest time between two replays.
    pub replay_longest: Duration,
    /// How often the reconciler looks.
    pub every: Duration,
    /// How often the watermark is told.
    pub watermark_every: Duration,
    /// How far the watermark stays behind.
    pub watermark_margin: Duration,
}

/// Reads all settings.
///
/// # Errors
/// The first one that is wrong.
pub fn read_all() -> Result<Settings, WrongSetting> {
    let settings = Settings {
        service: ServiceSettings::read(SERVICE.name, SERVICE.listen)?,
        reconcile: ReconcileSettings {
            saga_limit: own_ms("SAGA_LIMIT_MS")?,
            replay_first: own_ms("REPLAY_FIRST_MS")?,
            replay_longest: own_ms("REPLAY_LONGEST_MS")?,
            every: own_ms("RECONCILE_EVERY_MS")?,
            watermark_every: own_ms("WATERMARK_EVERY_MS")?,
            watermark_margin: own_ms("WATERMARK_MARGIN_MS")?,
        },
        undo_retention_s: read_lifetime("UNDO_RETENTION_S", default_of("UNDO_RETENTION_S"))?,
        max_checkouts_in_flight: read("MAX_CHECKOUTS_IN_FLIGHT", default_of("MAX_CHECKOUTS_IN_FLIGHT"))?,
        max_sagas_open: read("MAX_SAGAS_OPEN", default_of("MAX_SAGAS_OPEN"))?,
        price_cache_entries: read("PRICE_CACHE_ENTRIES", default_of("PRICE_CACHE_ENTRIES"))?,
    };
    nats::check_urls(&settings.service.nats_url)?;
    Ok(settings)
}

/// The default as the configuration table tells it, so that it is written once.
fn default_of(name: &str) -> &'static str {
    OWN.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default)
}

fn own_ms(name: &'static str) -> Result<Duration, WrongSetting> {
    read_ms(name, default_of(name))
}
