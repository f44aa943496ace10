//! The reconciler: finds sagas that are due, and replays or abandons them. Any instance may do it for any saga; there is no
//! leader, and nobody waits for an instance that crashed to come back.
//!
//! The pure [`plan`] says what is done about a saga and why; a [`Reconciler::tick`] does it for one page of them.

use common::event::{Event, Kind, SagaEvent, Watermark};
use common::redis::Database;
use common::service::wall_clock_ms;
use nats::Broker;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::ReconcileSettings;
use crate::effect::{self, Claimed};

/// What is done about a saga that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// `checkout.started` or `checkout.abandoned`.
    pub publish: Kind,
    /// Why, for the log.
    pub reason: String,
    /// Whether a person should look.
    pub is_stuck: bool,
}

/// A saga that is this many limits old is stuck: abandoning it should have closed it long ago.
const STUCK_AFTER_LIMITS: u64 = 2;

/// Decides what is done about a claimed saga.
pub fn plan(claimed: &Claimed, saga_limit: Duration) -> Plan {
    let limit_ms = u64::try_from(saga_limit.as_millis()).unwrap_or(u64::MAX);
    let Claimed { saga, age_ms, round, .. } = claimed;
    let saga_id = &saga.saga_id;
    if *age_ms < limit_ms {
        let reason =
            format!("{saga_id}: open for {age_ms} ms, under the limit of {limit_ms} ms: replay, round {round}");
        Plan { publish: Kind::CheckoutStarted, reason, is_stuck: false }
    } else {
        let reason =
            format!("{saga_id}: open for {age_ms} ms, past the limit of {limit_ms} ms: abandon, round {round}");
        let is_stuck = *age_ms >= limit_ms.saturating_mul(STUCK_AFTER_LIMITS);
        Plan { publish: Kind::CheckoutAbandoned, reason, is_stuck }
    }
}

/// Claims, plans and publishes.
pub struct Reconciler {
    database: Database,
    broker: Broker,
    settings: ReconcileSettings,
}

impl Reconciler {
    /// A reconciler of this database.
    pub fn new(database: Database, broker: Broker, settings: ReconcileSettings) -> Self {
        Self { database, broker, settings }
    }

    /// Ticks until `stop`, and tells the watermark in between.
    pub async fn run(self, stop: CancellationToken) {
        let mut next_watermark = Instant::now() + jittered(self.settings.watermark_every);
        loop {
            tokio::select! {
                () = tokio::time::sleep(jittered(self.settings.every)) => {}
                () = stop.cancelled() => return,
            }
            let work = async {
                while self.tick().await {}
                if Instant::now() >= next_watermark {
                    self.tell_watermark().await;
                    next_watermark = Instant::now() + jittered(self.settings.watermark_every);
                }
            };
            // What is cut off here is done by another instance when its lease is over.
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Takes one page of sagas that are due. Says whether there may be more.
    pub async fn tick(&self) -> bool {
        let Some(reply) = self.ask(effect::claim(&self.settings)).await else { return false };
        let (claimed, more) = match effect::read_claimed(&reply) {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::error!(%error, "the reconciler cannot read its claim");
                return false;
            }
        };
        let events: Vec<Event> = claimed.into_iter().map(|claimed| self.carry_out(claimed)).collect();
        if events.is_empty() {
            // A page of sagas that were closed meanwhile: the claim has put them away.
            return more;
        }
        metrics::counter!("sagas_reconciled_total").increment(events.len() as u64);
        if let Err(error) = self.broker.publish_all(&events).await {
            tracing::warn!(%error, sagas = events.len(), "not replayed; they are due again when their lease is over");
            return false;
        }
        more
    }

    fn carry_out(&self, claimed: Claimed) -> Event {
        let plan = plan(&claimed, self.settings.saga_limit);
        if plan.is_stuck {
            metrics::counter!("sagas_stuck_total").increment(1);
            tracing::error!(reason = plan.reason, "a saga is stuck");
        } else {
            tracing::info!(reason = plan.reason, "reconciling");
        }
        SagaEvent::first(plan.publish, claimed.saga, claimed.round, claimed.traceparent).at(wall_clock_ms()).into()
    }

    /// Raises the watermark and tells payment and stock.
    async fn tell_watermark(&self) {
        let Some(reply) = self.ask(effect::raise_watermark(&self.settings)).await else { return };
        let (Ok(closed_before_ms), Ok(open), Ok(oldest_ms)) =
            (reply.parse::<u64>(1), reply.parse::<u32>(2), reply.parse::<u32>(3))
        else {
            tracing::error!(?reply, "the reconciler cannot read the watermark");
            return;
        };
        metrics::gauge!("sagas_open").set(f64::from(open));
        metrics::gauge!("sagas_oldest_open_seconds").set(f64::from(oldest_ms) / 1_000.0);
        if let Err(error) = self.broker.publish_all(&[Event::Watermark(Watermark { closed_before_ms })]).await {
            tracing::warn!(%error, "the watermark was not told; the next one will be");
        }
    }

    /// Asks the database, but does not queue up behind an outage: the next tick asks again.
    async fn ask(&self, call: common::redis::Call) -> Option<common::redis::Reply> {
        let deadline = Instant::now() + Duration::from_secs(5);
        match self.database.call(call, Some(deadline)).await {
            Ok(reply) => Some(reply),
            Err(error) => {
                tracing::warn!(%error, "the reconciler has no database");
                None
            }
        }
    }
}

/// A duration with up to a quarter more or less, so that instances do not move in step.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.75 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::saga::{Items, Saga};
    use common::trace::TraceParent;

    fn claimed(age_ms: u64, round: u32) -> Claimed {
        let saga = Saga {
            saga_id: "5.k3.0".parse().unwrap(),
            order_id: "5".parse().unwrap(),
            started_at_ms: 17,
            user_id: "7".parse().unwrap(),
            amount: "20".parse().unwrap(),
            items: Items::default(),
        };
        Claimed { saga, age_ms, round, traceparent: TraceParent::random() }
    }

    #[test]
    fn plans_say_what_they_do_and_why() {
        let cases = [
            (
                2_000,
                1,
                "5.k3.0: open for 2000 ms, under the limit of 30000 ms: replay, round 1",
                "checkout.started",
                false,
            ),
            (
                29_999,
                5,
                "5.k3.0: open for 29999 ms, under the limit of 30000 ms: replay, round 5",
                "checkout.started",
                false,
            ),
            (
                30_000,
                6,
                "5.k3.0: open for 30000 ms, past the limit of 30000 ms: abandon, round 6",
                "checkout.abandoned",
                false,
            ),
            (
                60_000,
                9,
                "5.k3.0: open for 60000 ms, past the limit of 30000 ms: abandon, round 9",
                "checkout.abandoned",
                true,
            ),
        ];
        for (age_ms, round, reason, publish, is_stuck) in cases {
            let plan = plan(&claimed(age_ms, round), Duration::from_secs(30));
            assert_eq!((&*plan.reason, plan.publish.subject(), plan.is_stuck), (reason, publish, is_stuck));
        }
    }
}
