//! Whether a stream that was made anew can store.
//!
//! nats-server (2.15.1) forgets a stream before it has moved its folder away, and no message tells when that is over. One that is made anew
//! in between can lose its own folder to that, and then refuses every message ("error opening msg block file") until the server is
//! started again. So a stream that has taken the place of another one is given a message to store, and is deleted if it refuses: that can
//! lose nothing, because it holds nothing.

use std::sync::PoisonError;

use async_nats::jetstream::context::PublishErrorKind;
use common::event::{Event, Watermark};

use crate::broker::{Broker, BrokerError, request_error};
use crate::topology::{CHECKOUT, DEAD_LETTERS, DEAD_LETTERS_LOG, REDRIVEN_SUBJECT};

/// A message that a stream takes and that says nothing: it is taken away again at once, but a durable may be faster. Nothing for the stream
/// to which only the server speaks.
fn trial(stream: &str) -> Option<(&'static str, Vec<u8>)> {
    match stream {
        CHECKOUT => {
            // Every watermark that was ever told is beyond it.
            let nothing_is_closed = Event::Watermark(Watermark { closed_before_ms: 0 });
            Some((nothing_is_closed.subject(), nothing_is_closed.encode().ok()?))
        }
        DEAD_LETTERS => Some(("dead.trial", Vec::new())),
        DEAD_LETTERS_LOG => Some((REDRIVEN_SUBJECT, Vec::new())),
        _ => None,
    }
}

impl Broker {
    /// Tries a stream that is not the one that was there before; the first one of its name is believed.
    ///
    /// # Errors
    /// It cannot store, and is deleted; or nothing can be said about it yet.
    pub(crate) async fn try_again(&self, name: &'static str) -> Result<(), BrokerError> {
        let jetstream = &self.inner.jetstream;
        let failed = |error: &dyn std::fmt::Display| BrokerError::Request(format!("stream {name}: {error}"));
        let mut stream = jetstream.get_stream(name).await.map_err(|error| failed(&error))?;
        let born = stream.cached_info().created;
        let known = self.inner.born.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some((subject, payload)) = trial(name).filter(|_| known.is_some_and(|known| known != born)) {
            let sent = jetstream.publish(subject, payload.into()).await.map_err(|error| failed(&error))?;
            match sent.await {
                Ok(stored) => {
                    // What is not taken away does no harm.
                    let _ = stream.delete_message(stored.sequence).await;
                }
                Err(error) if error.kind() == PublishErrorKind::Other => {
                    let holds = stream.info().await.map_err(request_error("the stream"))?.state.messages;
                    if holds == 0 {
                        tracing::warn!("stream {name}: made anew, and cannot store ({error}); making it once more");
                        jetstream.delete_stream(name).await.map_err(|error| failed(&error))?;
                    }
                    return Err(failed(&error));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        self.inner.born.lock().unwrap_or_else(PoisonError::into_inner).insert(name, born);
        Ok(())
    }
}
