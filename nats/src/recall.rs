//! The newest events of the stream once more, in their order, for those who judge them.

use common::event::{Event, Poison};

use crate::broker::{Broker, BrokerError};
use crate::message::decode_parts;
use crate::scan::{Found, Scan};
use crate::topology::CHECKOUT;

/// A message as it lies in the stream.
pub struct Past {
    /// Its place.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch by the server's clock.
    pub at_ms: u64,
    /// What it tells.
    pub event: Result<Event, Poison>,
}

impl From<Found> for Past {
    fn from(found: Found) -> Self {
        let at_ms = u64::try_from(found.time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let event = decode_parts(&found.subject, &found.payload, Some(&found.headers));
        Self { sequence: found.sequence, at_ms, event }
    }
}

const SCAN: Scan<'static> = Scan { stream: CHECKOUT, subject: None, headers_only: false };

impl Broker {
    /// Gives the newest `most` events to `take`, oldest of them first. Those that are stored meanwhile are not among them.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub async fn recall(&self, most: u64, mut take: impl FnMut(Past)) -> Result<(), BrokerError> {
        SCAN.newest(self, most, |found| take(found.into())).await
    }
}
