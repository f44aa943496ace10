//! Which sagas are open, by the order database itself, of which `order/src/effect.rs` is the dictionary.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::redis::survey::{Survey, SurveyError};

/// How often they are counted until there are none.
const POLL: Duration = Duration::from_millis(500);
/// So many times in a row there must be none: a request that was held up on its way may begin another one when all others are closed.
const STILL: u32 = 4;

/// Asks the order database again and again, by one connection while that holds.
pub struct OpenSagas {
    url: String,
    survey: Option<Survey>,
}

impl OpenSagas {
    /// Asks the one at this URL.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), survey: None }
    }

    /// Those that are open now.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn now(&mut self) -> Result<HashSet<String>, SurveyError> {
        let mut survey = match self.survey.take() {
            Some(survey) => survey,
            None => Survey::open(&self.url).await?,
        };
        // In this order: a saga that is claimed between the two questions is in both answers, and not in neither.
        let fresh = survey.ranked("open").await?;
        let claimed = survey.ranked("retry_started").await?;
        survey.verify_primary().await?;
        self.survey = Some(survey);
        Ok(fresh.into_iter().chain(claimed).collect())
    }

    /// Waits until none is open, at most so long: those that still are.
    ///
    /// # Errors
    /// The database cannot be read when the time is over, so nobody knows.
    pub async fn until_none(&mut self, limit: Duration) -> Result<HashSet<String>, SurveyError> {
        let deadline = Instant::now() + limit;
        let mut still = 0;
        loop {
            let open = self.now().await;
            still = if open.as_ref().is_ok_and(HashSet::is_empty) { still + 1 } else { 0 };
            if still == STILL || Instant::now() >= deadline {
                return open;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
