//! The JSON bodies of events: how this build writes them, and what it takes for granted when it reads those of others.

use serde::de::Error;
use serde::{Deserialize, Serialize};

use super::{NEWEST_VERSION, Poison, Step};
use crate::amount::Amount;
use crate::id::{OrderId, UserId};
use crate::reason::FailureReason;
use crate::saga::{Items, SagaId};

/// The JSON body of a saga event as it is written. Its fields stand in one level, because a person reads them in
/// `nats stream view`; they are listed instead of flattened, because flattening makes reading three times as dear.
#[derive(Serialize)]
pub(super) struct BodyOut<'a> {
    pub(super) version: u32,
    pub(super) saga_id: &'a SagaId,
    pub(super) order_id: &'a OrderId,
    pub(super) started_at_ms: u64,
    pub(super) user_id: &'a UserId,
    pub(super) amount: Amount,
    pub(super) items: &'a Items,
    pub(super) at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a FailureReason>,
    pub(super) round: u32,
    pub(super) trail: &'a [Step],
    /// What the next version may add, for the test of upgrades.
    #[cfg(feature = "next-version")]
    pub(super) a_later_field: [u8; 2],
}

/// The same body as it is read.
#[derive(Deserialize)]
pub(super) struct BodyIn {
    pub(super) version: u32,
    pub(super) saga_id: SagaId,
    pub(super) order_id: OrderId,
    pub(super) started_at_ms: u64,
    pub(super) user_id: UserId,
    pub(super) amount: Amount,
    pub(super) items: Items,
    #[serde(default)]
    pub(super) at_ms: u64,
    #[serde(default)]
    pub(super) reason: Option<FailureReason>,
    #[serde(default)]
    pub(super) round: u32,
    #[serde(default, deserialize_with = "known_steps")]
    pub(super) trail: Vec<Step>,
}

/// The steps of a trail whose events this build knows. The trail is for people who look at a saga: a step that a later version has put
/// in between is no reason not to go on.
fn known_steps<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
    #[derive(Deserialize)]
    struct AnyStep {
        event: String,
        at_ms: u64,
    }
    let steps = Vec::<AnyStep>::deserialize(deserializer)?;
    let known =
        steps.into_iter().filter_map(|AnyStep { event, at_ms }| Some(Step { event: event.parse().ok()?, at_ms }));
    Ok(known.collect())
}

/// The JSON body of a watermark. The first builds wrote no version.
#[derive(Serialize, Deserialize)]
pub(super) struct WatermarkBody {
    #[serde(default)]
    pub(super) version: u32,
    pub(super) closed_before_ms: u64,
}

/// A body that says its version.
pub(super) trait Body: for<'de> Deserialize<'de> {
    fn version(&self) -> u32;

    /// Reads a body. One of a newer version may look quite different, so what does not fit is asked for its version first.
    fn read(body: &[u8]) -> Result<Self, Poison> {
        // A list of values would fit as well, as the fields in their order; which those are changes from version to version.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(serde_json::Error::custom("not a JSON object").into());
        }
        let version = match serde_json::from_slice::<Self>(body) {
            Ok(read) if read.version() <= NEWEST_VERSION => return Ok(read),
            Ok(read) => read.version(),
            Err(error) => match serde_json::from_slice::<Versioned>(body) {
                Ok(Versioned { version }) if version > NEWEST_VERSION => version,
                _ => return Err(error.into()),
            },
        };
        Err(Poison::Version(version))
    }
}

impl Body for BodyIn {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Body for WatermarkBody {
    fn version(&self) -> u32 {
        self.version
    }
}

/// Only the version, of a body that may be newer.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}
