//! `checkout topology`: makes streams and durables as the platform needs them, as the one NATS user who may.

use std::time::Duration;

use clap::Parser;
use common::service::START_PATIENCE;
use nats::topology::Limits;
use nats::{Broker, BrokerError};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::say;
use crate::signals::StopSignals;

/// Create the streams and durables that are missing, and correct those that differ.
///
/// Where NATS knows users, the services may not do it themselves: run this before them (TOPOLOGY=verify has them wait), or beside them
/// with --keep. `checkout up` does it by itself.
///
/// NATS_URL, NATS_USER and NATS_PASSWORD (or NATS_PASSWORD_FILE) say where, and who one is: the user `admin`.
///
/// Exit codes: 0 when all is as it should be, 64 for a wrong setting, 1 when it cannot be made so.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Go on, and make again what is deleted or changed, until told to stop
    #[arg(long)]
    pub keep: bool,

    /// What the streams keep
    #[command(flatten)]
    pub kept: Kept,
}

/// The settings that the services know under the same names.
#[derive(clap::Args, Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// History that the CHECKOUT stream keeps, in bytes
    #[arg(long, env = "STREAM_MAX_BYTES", default_value_t = 1 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub stream_max_bytes: u64,

    /// History that the CHECKOUT stream keeps, in seconds
    #[arg(long, env = "STREAM_MAX_AGE_S", default_value_t = 86_400, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub stream_max_age_s: u64,

    /// NATS servers that keep each stream: 1, 3 or 5
    #[arg(long, env = "STREAM_REPLICAS", default_value_t = 1, value_name = "N")]
    pub stream_replicas: usize,

    /// How long an event may be in hand without a sign of life before another instance gets it
    #[arg(long, env = "ACK_WAIT_MS", default_value_t = 10_000, value_name = "MS")]
    pub ack_wait_ms: u64,
}

impl Kept {
    /// Those that the settings of a service name, and for the rest the defaults.
    ///
    /// # Errors
    /// A value that is none.
    pub fn of_settings<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Failure> {
        #[derive(Parser)]
        struct Words {
            #[command(flatten)]
            kept: Kept,
        }
        let known = ["STREAM_MAX_BYTES", "STREAM_MAX_AGE_S", "STREAM_REPLICAS", "ACK_WAIT_MS"];
        // Of two values for the same name the later one holds.
        let mut words = std::collections::BTreeMap::new();
        for (name, value) in settings.filter(|(name, _)| known.contains(name)) {
            words.insert(name, format!("--{}={value}", name.to_lowercase().replace('_', "-")));
        }
        let all = std::iter::once("topology".to_owned()).chain(words.into_values());
        Words::try_parse_from(all).map(|words| words.kept).map_err(|error| Failure::usage(error.to_string()))
    }

    fn limits(&self) -> Result<Limits, Failure> {
        if ![1, 3, 5].contains(&self.stream_replicas) {
            return Err(Failure::usage(format!("STREAM_REPLICAS={}: expected 1, 3 or 5", self.stream_replicas)));
        }
        Ok(Limits {
            creates: true,
            max_bytes: self.stream_max_bytes,
            max_age: Duration::from_secs(self.stream_max_age_s),
            replicas: self.stream_replicas,
            ack_wait: Duration::from_millis(self.ack_wait_ms),
            ..Limits::default()
        })
    }
}

/// Runs the command.
///
/// # Errors
/// When a setting is wrong, or the topology cannot be made as it should be.
pub async fn run(args: &Args) -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let urls = common::service::read_nats_url().map_err(|error| Failure::usage(error.to_string()))?;
    let mut stop = StopSignals::new()?;
    let broker = make(&urls, &args.kept).await?;
    say::out("the topology is as it should be");
    if args.keep {
        let token = CancellationToken::new();
        tokio::select! {
            kept = broker.keep_topology(token.clone()) => kept.map_err(|error| Failure::failed(error.to_string()))?,
            () = stop.next() => token.cancel(),
        }
    }
    Ok(())
}

/// Makes it once, and returns the connection with which it can be kept.
///
/// # Errors
/// As [`run`].
pub async fn make(urls: &str, kept: &Kept) -> Result<Broker, Failure> {
    let limits = kept.limits()?;
    let broker =
        Broker::connect(urls, "topology", "checkout-topology", START_PATIENCE).await.map_err(|error| told(&error))?;
    broker.ensure_topology(&limits).await.map_err(|error| told(&error))?;
    Ok(broker)
}

fn told(error: &BrokerError) -> Failure {
    match error {
        BrokerError::Address(..) => Failure::usage(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_service_that_are_about_streams_are_taken_and_the_last_one_holds() {
        let settings = [("LOG", "debug"), ("ACK_WAIT_MS", "1"), ("STREAM_REPLICAS", "3"), ("ACK_WAIT_MS", "2")];
        let kept = Kept::of_settings(settings.into_iter()).unwrap();
        assert_eq!((kept.ack_wait_ms, kept.stream_replicas, kept.stream_max_age_s), (2, 3, 86_400));
        let wrong = Kept::of_settings([("ACK_WAIT_MS", "soon")].into_iter()).unwrap_err();
        assert_eq!(wrong.exit_code(), 64);
        assert!(wrong.to_string().contains("soon"), "{wrong}");
    }
}
