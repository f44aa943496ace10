//! The books: everything that the three databases hold, read directly, and what must be true of it.

use std::ops::Deref;

use crate::platform::Platform;
use crate::servers::open;
use crate::stream::Nats;
use crate::wait::eventually;

pub mod read;

/// The books of a platform. What must be true of them stands in [`audit::books`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books(pub audit::Books);

impl Deref for Books {
    type Target = audit::Books;
    fn deref(&self) -> &audit::Books {
        &self.0
    }
}

impl Books {
    /// Waits until nothing is open and nobody works any more, reads everything, and checks it. There are no dead letters.
    ///
    /// # Panics
    /// Something stays open, or is not right.
    pub async fn closed(platform: &Platform) -> Self {
        let books = Self::closed_with_dead_letters(platform).await;
        let letters = Nats::of(platform).await.messages(crate::stream::DEAD_LETTERS).await;
        let reasons: Vec<_> = letters.iter().map(|it| (it.header("dead-subject"), it.header("dead-reason"))).collect();
        assert!(reasons.is_empty(), "dead letters: {reasons:?}");
        books
    }

    /// The same, where the test itself has caused dead letters.
    ///
    /// # Panics
    /// Something stays open, or is not right.
    pub async fn closed_with_dead_letters(platform: &Platform) -> Self {
        let nats = Nats::of(platform).await;
        eventually("every saga is closed", async || Self::count_open(platform).await == Some(0)).await;
        eventually("every consumer is idle", async || nats.is_idle().await).await;
        let books = Self::read(platform).await;
        books.assert_right();
        books
    }

    /// How many sagas are open; nothing while the database does not answer.
    pub async fn count_open(platform: &Platform) -> Option<usize> {
        let mut connection = open(&platform.primary_url("order").await?).await.ok()?;
        let mut pipe = redis::pipe();
        for key in ["open", "retry", "retry_started"] {
            pipe.cmd("ZCARD").arg(key);
        }
        let counts: Vec<usize> = pipe.query_async(&mut connection).await.ok()?;
        Some(counts.into_iter().sum())
    }

    /// Panics with everything that is not as it must be once all sagas are closed.
    ///
    /// # Panics
    /// See above.
    pub fn assert_right(&self) {
        let wrong = self.check();
        let shown: Vec<_> = wrong.iter().take(20).map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{} things are wrong in the books:\n{}", wrong.len(), shown.join("\n"));
    }

    /// Whether a checkout of the order was ever begun.
    ///
    /// # Panics
    /// There is no such order.
    pub fn has_saga(&self, order: &str) -> bool {
        self.order_has_saga(order).unwrap_or_else(|| panic!("order {order} is gone"))
    }
}
