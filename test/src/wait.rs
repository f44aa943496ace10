//! Waiting for a condition instead of a time.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine. Only a failing test waits as long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Looks again and again until `look` finds something.
///
/// # Panics
/// Nothing was found within [`PATIENCE`]; the message says what was waited for.
pub async fn until<T, Fut>(what: &str, mut look: impl FnMut() -> Fut) -> T
where
    Fut: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Looks again and again until `condition` holds.
///
/// # Panics
/// It did not hold within [`PATIENCE`].
pub async fn eventually<Fut>(what: &str, mut condition: impl FnMut() -> Fut)
where
    Fut: Future<Output = bool>,
{
    until(what, || {
        let holds = condition();
        async move { holds.await.then_some(()) }
    })
    .await;
}
