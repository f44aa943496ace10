//! The clients that wait in this instance for the end of a saga.
//!
//! Subscribe first, then look: a waiter is registered for its order before the saga is opened, so the end cannot slip
//! through between. A slow poll of the undo entry stands behind every wake-up: a lost notification costs time, never truth.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use common::id::OrderId;
use common::reason::FailureReason;
use common::saga::SagaId;
use common::undo::State;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// How a saga ended, as it travels to the inboxes of the instances that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which saga.
    pub saga_id: SagaId,
    /// Why it failed; nothing where it is completed.
    pub reason: Option<FailureReason>,
}

impl Ended {
    /// The end of a saga in this state; nothing while it is open.
    pub fn new(saga_id: SagaId, state: &State) -> Option<Self> {
        match state {
            State::Started => None,
            State::Completed => Some(Self { saga_id, reason: None }),
            State::Failed(reason) => Some(Self { saga_id, reason: Some(reason.clone()) }),
        }
    }

    /// The state that it tells.
    pub fn state(&self) -> State {
        self.reason.clone().map_or(State::Completed, State::Failed)
    }
}

type Waiters = HashMap<OrderId, Vec<(u64, mpsc::UnboundedSender<Ended>)>>;

/// All waiters of this instance. Cheap to clone.
#[derive(Clone, Default)]
pub struct Waiting {
    inner: Arc<Mutex<(u64, Waiters)>>,
}

impl Waiting {
    /// Registers a waiter for the next ends of an order's sagas.
    pub fn register(&self, order: &OrderId) -> Waiter {
        let (sender, ends) = mpsc::unbounded_channel();
        // The map holds no invariant that a panic in between could break.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0 += 1;
        let number = inner.0;
        inner.1.entry(order.clone()).or_default().push((number, sender));
        Waiter { waiting: self.clone(), order: order.clone(), number, ends }
    }

    /// Tells all who wait for the saga's order.
    pub fn tell(&self, ended: &Ended) {
        let Ok(order) = ended.saga_id.order().parse::<OrderId>() else { return };
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, waiter) in inner.1.get(&order).into_iter().flatten() {
            // A waiter that is just leaving does not want it.
            let _ = waiter.send(ended.clone());
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.values().map(Vec::len).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One waiting request. Leaves when dropped.
pub struct Waiter {
    waiting: Waiting,
    order: OrderId,
    number: u64,
    ends: mpsc::UnboundedReceiver<Ended>,
}

impl Waiter {
    /// The next end of this saga that somebody tells.
    pub async fn ended(&mut self, saga: &SagaId) -> Ended {
        loop {
            match self.ends.recv().await {
                Some(ended) if ended.saga_id == *saga => return ended,
                // Another attempt or incarnation of the same order.
                Some(_) => {}
                // The sender is in the map as long as this waiter lives.
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut inner = self.waiting.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiters) = inner.1.get_mut(&self.order) {
            waiters.retain(|(number, _)| *number != self.number);
            if waiters.is_empty() {
                inner.1.remove(&self.order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(saga: &str) -> Ended {
        Ended { saga_id: saga.parse().unwrap(), reason: None }
    }

    #[tokio::test]
    async fn a_waiter_hears_of_its_own_saga_only_even_if_told_before_it_listens() {
        let waiting = Waiting::default();
        let mut waiter = waiting.register(&"5".parse().unwrap());
        waiting.tell(&ended("5.k3.0"));
        waiting.tell(&ended("6.k3.1"));
        waiting.tell(&ended("5.k3.1"));
        assert_eq!(waiter.ended(&"5.k3.1".parse().unwrap()).await, ended("5.k3.1"));
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let waiting = Waiting::default();
        let first = waiting.register(&"5".parse().unwrap());
        let second = waiting.register(&"5".parse().unwrap());
        assert_eq!(waiting.len(), 2);
        drop(first);
        assert_eq!(waiting.len(), 1);
        drop(second);
        assert!(waiting.is_empty());
        assert!(waiting.inner.lock().unwrap().1.is_empty());
    }
}
