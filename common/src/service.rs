//! The settings that all three services share, read and checked in one place.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::secret::{Secret, with_sentinel_login};
use crate::settings::{
    WrongSetting, read, read_lifetime, read_login, read_ms, read_optional, read_sentinel_login, read_within,
};

/// How long a service waits at its start for its database and for NATS before it gives up and lets its supervisor try
/// again.
pub const START_PATIENCE: Duration = Duration::from_secs(60);

/// The value of `INSTANCE` that stands for the host's name.
const HOSTNAME: &str = "@hostname";
/// What a stream may be allowed: at least so much that the events of some seconds fit, and no more than the server can count.
const STREAM_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=i64::MAX as u64;

/// Settings of every service. See [`crate::settings::COMMON`] for what each means.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// Name of this instance.
    pub instance: String,
    /// Where to serve HTTP.
    pub listen: SocketAddr,
    /// The service's own database.
    pub redis_url: Secret,
    /// NATS servers, separated by commas.
    pub nats_url: Secret,
    /// Whether streams and durables that are missing are created, and different ones corrected; else only looked at.
    pub creates_topology: bool,
    /// Connections that write to the database.
    pub redis_lanes: usize,
    /// Replicas that must have a write before anybody is told of it.
    pub redis_wait_replicas: usize,
    /// How long a request may wait for its outcome.
    pub request_limit: Duration,
    /// How long a client may take for the head of a request.
    pub head_limit: Duration,
    /// How long a stopping instance says that it is not ready, and serves on.
    pub farewell: Duration,
    /// How long a stop may take after that.
    pub drain_limit: Duration,
    /// How long replies to requests with an `Idempotency-Key` are kept, in seconds.
    pub idempotency_ttl_s: u64,
    /// History that the `CHECKOUT` stream keeps, in bytes.
    pub stream_max_bytes: u64,
    /// History that the `CHECKOUT` stream keeps, in time.
    pub stream_max_age: Duration,
    /// How long NATS waits for the acknowledgement of a delivered event.
    pub ack_wait: Duration,
    /// NATS servers that keep each stream.
    pub stream_replicas: usize,
}

impl ServiceSettings {
    /// Reads them for a service that listens on `default_listen`, and arms the crash point if one is set.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn read(service: &'static str, default_listen: &str) -> Result<Self, WrongSetting> {
        let instance = read_instance(service)?;
        crate::id::validate(&instance).map_err(|why| WrongSetting::new("INSTANCE", &instance, why))?;
        let generation: u64 = read("GENERATION", "1")?;
        if let Some(point) = read_optional("CRASH_AT")
            && generation == 1
        {
            crate::crash::arm(&point).map_err(|why| WrongSetting::new("CRASH_AT", &point, why))?;
        }
        let stream_replicas: usize = read("STREAM_REPLICAS", "1")?;
        if ![1, 3, 5].contains(&stream_replicas) {
            return Err(WrongSetting::new("STREAM_REPLICAS", stream_replicas.to_string(), "expected 1, 3 or 5"));
        }
        let redis_lanes: usize = read("REDIS_LANES", "2")?;
        if !(1..=16).contains(&redis_lanes) {
            return Err(WrongSetting::new("REDIS_LANES", redis_lanes.to_string(), "expected 1 to 16"));
        }
        let redis_wait_replicas: usize = read("REDIS_WAIT_REPLICAS", "0")?;
        if redis_wait_replicas > 5 {
            let value = redis_wait_replicas.to_string();
            return Err(WrongSetting::new("REDIS_WAIT_REPLICAS", value, "expected 0 to 5"));
        }
        let creates_topology = match read::<String>("TOPOLOGY", "create")?.as_str() {
            "create" => true,
            "verify" => false,
            other => return Err(WrongSetting::new("TOPOLOGY", other, "expected create or verify")),
        };
        Ok(Self {
            instance,
            listen: read("LISTEN", default_listen)?,
            redis_url: read_redis_url()?,
            nats_url: read_nats_url()?,
            creates_topology,
            redis_lanes,
            redis_wait_replicas,
            request_limit: read_ms("REQUEST_LIMIT_MS", "10000")?,
            head_limit: read_ms("HEAD_LIMIT_MS", "60000")?,
            farewell: read_ms("FAREWELL_MS", "1000")?,
            drain_limit: read_ms("DRAIN_LIMIT_MS", "15000")?,
            idempotency_ttl_s: read_lifetime("IDEMPOTENCY_TTL_S", "86400")?,
            stream_max_bytes: read_within("STREAM_MAX_BYTES", "1073741824", STREAM_BYTES, "bytes")?,
            stream_max_age: Duration::from_secs(read_lifetime("STREAM_MAX_AGE_S", "86400")?),
            ack_wait: read_ms("ACK_WAIT_MS", "10000")?,
            stream_replicas,
        })
    }

    /// The time at which a request that begins now must be answered.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.request_limit
    }
}

/// The name of this instance. `@hostname` is the name of the host: of the container, where all instances have the same settings.
fn read_instance(service: &str) -> Result<String, WrongSetting> {
    let instance: String = read("INSTANCE", &format!("{service}-1"))?;
    if instance != HOSTNAME {
        return Ok(instance);
    }
    let name = nix::unistd::gethostname().map_err(|why| WrongSetting::new("INSTANCE", HOSTNAME, why))?;
    // A host's name may have dots, which would be separators in the instance's inbox.
    Ok(name.to_string_lossy().replace('.', "-"))
}

/// The database's URL with what the settings say of its login.
fn read_redis_url() -> Result<Secret, WrongSetting> {
    let url: String = read("REDIS_URL", "redis://127.0.0.1:6379")?;
    let mut whole = match read_login("REDIS_USER", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE")? {
        Some(login) if url.starts_with("redis+sentinel://") => login.in_url(&url),
        Some(login) => login.in_urls(&url),
        None => Secret::new(&url),
    };
    if let Some(login) = read_sentinel_login()? {
        whole = with_sentinel_login(&whole, &login);
    }
    crate::redis::check_url(&whole).map_err(|why| WrongSetting::new("REDIS_URL", url, why))?;
    Ok(whole)
}

/// The addresses of NATS with what the settings say of the login there.
///
/// # Errors
/// The setting that is wrong.
pub fn read_nats_url() -> Result<Secret, WrongSetting> {
    let urls: String = read("NATS_URL", "nats://127.0.0.1:4222")?;
    let login = read_login("NATS_USER", "NATS_PASSWORD", "NATS_PASSWORD_FILE")?;
    Ok(login.map_or_else(|| Secret::new(&urls), |login| login.in_urls(&urls)))
}

/// The wall clock, in milliseconds since the Unix epoch. For what people read; whatever decides uses a database's clock.
pub fn wall_clock_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
