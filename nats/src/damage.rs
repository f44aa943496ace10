//! What is done to a stream only to see that nothing is lost by it, and who has it in hand.

use crate::broker::{Broker, BrokerError, request_error};

impl Broker {
    /// The name of the server that leads a stream; nothing while nobody does, or where there is no cluster.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn leader_of(&self, stream: &str) -> Result<Option<String>, BrokerError> {
        let found = self.inner.jetstream.get_stream(stream).await.map_err(request_error("the stream"))?;
        Ok(found.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()))
    }

    /// Takes every message out of a stream.
    ///
    /// # Errors
    /// It was not done, or nobody said so.
    pub async fn purge(&self, stream: &str) -> Result<u64, BrokerError> {
        let found = self.inner.jetstream.get_stream(stream).await.map_err(request_error("the stream"))?;
        let purged = found.purge().await.map_err(request_error("the purge"))?;
        Ok(purged.purged)
    }

    /// Deletes a stream with its durables.
    ///
    /// # Errors
    /// It was not done, or nobody said so.
    pub async fn delete(&self, stream: &str) -> Result<(), BrokerError> {
        self.inner.jetstream.delete_stream(stream).await.map_err(request_error("the deletion"))?;
        Ok(())
    }
}
