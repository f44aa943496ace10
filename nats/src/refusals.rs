//! What is said of dead letters that their stream refuses.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::topology::Durable;

/// How often it is said again.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Dead letters that the stream refuses: told at once, and again from time to time for as long as it does.
#[derive(Default)]
pub struct Refusals(Mutex<Refused>);

#[derive(Default)]
struct Refused {
    said: Option<Instant>,
    /// Refusals since then.
    since: usize,
}

impl Refusals {
    /// `refused` more of them are refused now.
    pub fn tell(&self, durable: Durable, refused: usize, why: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.since += refused;
        if state.said.is_some_and(|said| said.elapsed() < SAID_EVERY) {
            return;
        }
        tracing::error!(
            durable = durable.name(),
            refused = state.since,
            why,
            "dead letters are refused: their events stay with the durable, and come again until there is room; make some with \
             `checkout dead redrive` or `checkout dead drop`"
        );
        *state = Refused { said: Some(Instant::now()), since: 0 };
    }

    /// Whether it was said not long ago, which explains why messages come often.
    pub fn is_recent(&self) -> bool {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner).said;
        said.is_some_and(|said| said.elapsed() < 2 * SAID_EVERY)
    }
}
