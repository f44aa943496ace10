//! How long the platform takes from the moment in which what was hurt serves again to that in which nothing is left of it: every saga that was open then
//! is closed. (When clients have definite answers again is read from the history, see [`crate::chaos::report`].)

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::redis::survey::{Survey, SurveyError};

use crate::chaos::faults::field::Field;
use crate::chaos::faults::kind::Lane;
use crate::chaos::recorder::Recorder;
use crate::service::Service;

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
    let (mut survey, mut left) = (None, None::<HashSet<String>>);
    while Instant::now() < until && recovered.back_us.is_some() {
        match open(field, &mut survey).await {
            Ok(open) => {
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
            Err(_) => survey = None,
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

/// The sagas that are open now, by the order database, of which `order/src/effect.rs` is the dictionary.
async fn open(field: &Field, survey: &mut Option<Survey>) -> Result<HashSet<String>, SurveyError> {
    let url = field.platform().redis.get(&Service::Order).cloned().unwrap_or_default();
    let mut connection = match survey.take() {
        Some(connection) => connection,
        None => Survey::open(&url).await?,
    };
    // In this order: a saga that is claimed between the two questions is in both answers, and not in neither.
    let fresh = connection.ranked("open").await?;
    let claimed = connection.ranked("retry_started").await?;
    connection.verify_primary().await?;
    *survey = Some(connection);
    Ok(fresh.into_iter().chain(claimed).collect())
}
