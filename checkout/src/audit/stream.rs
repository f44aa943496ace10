//! The events that the stream still has, gone through by the same state machine that the continuous auditor runs.

use ::audit::Finding;
use ::audit::history::{Historian, Patience, Place};
use common::service::wall_clock_ms;
use nats::{Broker, BrokerError};

use super::Trouble;
use super::place::Looked;
use crate::dead::CONNECT;
use crate::failure::Failure;

/// What the stream told until now.
pub struct History {
    /// All its sagas.
    pub historian: Historian,
    /// How many events.
    pub events: u64,
    /// What of them can never be.
    pub findings: Vec<Finding>,
}

/// Reads at most so many events, the newest.
pub async fn read(looked: &Looked, most: u64) -> Result<History, Trouble> {
    let told = |error: BrokerError| match error {
        BrokerError::Address(..) => Trouble::Failure(Failure::usage(error.to_string())),
        _ => Trouble::Failure(Failure::failed(error.to_string())),
    };
    let broker = Broker::connect(&looked.nats, "audit", "checkout-audit", CONNECT).await.map_err(told)?;
    let patience = Patience { max_sagas: usize::MAX, forgets: false, ..Patience::default() };
    let mut historian = Historian::new(patience);
    let (mut findings, mut events) = (Vec::new(), 0);
    broker
        .recall(most, |past| {
            events += 1;
            let place = Place { sequence: past.sequence, at_ms: past.at_ms };
            // One that cannot be read is a dead letter, and the service that met it has told so.
            findings.extend(historian.hear(place, past.event.as_ref().ok()));
        })
        .await
        .map_err(told)?;
    findings.extend(historian.settle(wall_clock_ms().min(historian.now_ms())));
    Ok(History { historian, events, findings })
}
