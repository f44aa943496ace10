//! How long the platform takes from the moment in which what was hurt serves again to that in which nothing is left of it: every saga that was open then
//! is closed. (When clients have definite answers again is read from the history, see [`crate::chaos::report`].)

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::chaos::faults::field::Field;
use crate::chaos::faults::kind::Lane;
use crate::chaos::recorder::Recorder;

/// How often it is looked.
const POLL: Duration = Duration::from_millis(50);
/// Who takes longer has not recovered.
const LIMIT: Duration = Duration::from_secs(90);

/// Two moments of the recorder's time.
#[derive(Debug, Default)]
pub struct Recovered {
    /// When what was hurt served again.
    pub back_us: Option<u64>,
    /// When every saga was closed that was open then.
    pub closed_us: Option<u64>,
}

/// Watches a lane in which something was hurt, until all is over.
pub async fn watch(field: &Field, lane: Lane, recorder: &Recorder) -> Recovered {
    let until = Instant::now() + LIMIT;
    let mut recovered = Recovered::default();
    while Instant::now() < until {
        if field.serves(lane).await.is_ok() {
            recovered.back_us = Some(recorder.now_us());
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let (mut sagas, mut left) = (field.open_sagas(), None::<HashSet<String>>);
    while Instant::now() < until && recovered.back_us.is_some() {
        if let Ok(open) = sagas.now().await {
            let still = match &left {
                None => open,
                Some(left) => left.intersection(&open).cloned().collect(),
            };
            if still.is_empty() {
                recovered.closed_us = Some(recorder.now_us());
                break;
            }
            left = Some(still);
        }
        tokio::time::sleep(POLL).await;
    }
    // The next fault is not to come before that, or it would be counted as this one's.
    while let Some(back_us) = recovered.back_us
        && !recorder.has_answered_since(back_us)
        && Instant::now() < until
    {
        tokio::time::sleep(POLL).await;
    }
    recovered
}
