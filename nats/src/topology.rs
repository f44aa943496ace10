//! Streams, subjects and durables, as data: who says what, who reacts, and how long it is kept. [`Broker::ensure_topology`]
//! makes a server look like this.
//!
//! [`Broker::ensure_topology`]: crate::Broker::ensure_topology

use std::fmt;
use std::time::Duration;

use common::event::{Kind, WATERMARK_SUBJECT};
use common::service::ServiceSettings;

/// The stream of all events. *Limits* retention, so that `nats stream view` shows what happened and a failed-over database
/// can be redone from it; WorkQueue retention forbids both (and lost messages with R3 in some 2.12 servers).
pub const CHECKOUT: &str = "CHECKOUT";

/// The stream of what could not be understood, kept for people.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";

/// All subjects of dead letters: `dead.<durable>`.
pub const DEAD_LETTER_SUBJECTS: &str = "dead.>";

/// The stream of what people did with dead letters: who redrove or dropped which, when and why.
pub const DEAD_LETTERS_LOG: &str = "DEAD_LETTERS_LOG";

/// Where it is recorded that a dead letter was published again.
pub const REDRIVEN_SUBJECT: &str = "dead-log.redriven";

/// Where it is recorded that a dead letter was dropped, with the whole letter.
pub const DROPPED_SUBJECT: &str = "dead-log.dropped";

/// The stream of what the server says about messages that a durable gave up on. It hears of those that no code of ours put
/// aside too: a durable whose `max_deliver` somebody changed, a message that a foreign client terminated.
pub const ADVISORIES: &str = "ADVISORIES";

/// The server's own subjects in [`ADVISORIES`]: delivered too often, and terminated, by any consumer of [`CHECKOUT`].
pub const ADVISORY_SUBJECTS: &[&str] =
    &["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.CHECKOUT.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.CHECKOUT.>"];

/// The subject of the price service, a NATS micro service of the stock service.
pub const PRICES_SUBJECT: &str = "prices.get";

/// The name of the micro service that answers [`PRICES_SUBJECT`].
pub const PRICE_SERVICE: &str = "stock";

/// All streams.
pub const STREAMS: &[&str] = &[CHECKOUT, DEAD_LETTERS, DEAD_LETTERS_LOG, ADVISORIES];

/// Which revision of the topology this build knows. It stands in the metadata of every stream and durable, and a build that finds a higher one
/// than its own changes nothing there: while services are upgraded, an instance of the old version that starts again must not take away what
/// the new one listens to. So whatever changes a subject, a filter or a setting here raises it; a test holds the two together.
pub const REVISION: u32 = if common::IS_NEXT_VERSION { 3 } else { 2 };

/// The key of [`REVISION`] in the metadata.
pub const REVISION_KEY: &str = "checkout-topology";

/// The server refuses a shorter one. No message carries a `Nats-Msg-Id`, so nothing is ever remembered in this window:
/// effects are idempotent anyway, the window would cost memory at 40,000 messages per second, and an id without the round
/// number would make the broker swallow the reconciler's replays.
pub const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// One of the three services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Orders and the undo log.
    Order,
    /// Users and their credit.
    Payment,
    /// Items and their stock.
    Stock,
}

/// A durable pull consumer on [`CHECKOUT`]: one per service, shared by all of its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durable {
    /// Closes undo entries.
    Order,
    /// Debits and refunds.
    Payment,
    /// Reserves and fails.
    Stock,
}

/// The durable of the auditor, which hears everything and reacts to nothing. It is there whether or not an auditor runs: on a stream with
/// *limits* retention it holds nothing back. It acknowledges *all* up to a message at once, so its floor says up to where everything was
/// heard and told.
pub const AUDITOR: &str = "auditor";

/// One subject of [`CHECKOUT`].
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// The subject, which is the event's name and CloudEvents type.
    pub subject: &'static str,
    /// The only service that publishes it.
    pub published_by: Service,
    /// The durables that take it.
    pub reacts: &'static [Durable],
}

/// Every subject of [`CHECKOUT`]. The stream lists them one by one instead of `checkout.>`: a misspelt subject then has no
/// stream, and its publisher hears of it at once.
pub const CHANNELS: &[Channel] = &[
    channel(Kind::CheckoutStarted.subject(), Service::Order, &[Durable::Payment]),
    channel(Kind::PaymentDebited.subject(), Service::Payment, &[Durable::Stock]),
    channel(Kind::PaymentDeclined.subject(), Service::Payment, &[Durable::Order]),
    channel(Kind::StockReserved.subject(), Service::Stock, &[Durable::Order]),
    channel(Kind::StockFailed.subject(), Service::Stock, &[Durable::Payment]),
    channel(Kind::PaymentRefunded.subject(), Service::Payment, &[Durable::Order]),
    channel(Kind::CheckoutAbandoned.subject(), Service::Order, &[Durable::Stock]),
    // The public facts, for other systems; nobody here reacts.
    channel(Kind::CheckoutCompleted.subject(), Service::Order, &[]),
    channel(Kind::CheckoutFailed.subject(), Service::Order, &[]),
    channel(WATERMARK_SUBJECT, Service::Order, &[Durable::Payment, Durable::Stock]),
];

const fn channel(subject: &'static str, published_by: Service, reacts: &'static [Durable]) -> Channel {
    Channel { subject, published_by, reacts }
}

impl Durable {
    /// All durables.
    pub const ALL: &[Durable] = &[Durable::Order, Durable::Payment, Durable::Stock];

    /// The consumer's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Stock => "stock",
        }
    }

    /// The durable of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|durable| durable.name() == name)
    }

    /// The subjects it takes.
    pub fn subjects(self) -> impl Iterator<Item = &'static str> {
        CHANNELS.iter().filter(move |channel| channel.reacts.contains(&self)).map(|channel| channel.subject)
    }

    /// Where it puts what it cannot understand.
    pub const fn dead_letter_subject(self) -> &'static str {
        match self {
            Self::Order => "dead.order",
            Self::Payment => "dead.payment",
            Self::Stock => "dead.stock",
        }
    }

    /// What it is for, as `nats consumer info` shows it.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Order => "closes undo entries; shared by all instances of the order service",
            Self::Payment => "debits and refunds; shared by all instances of the payment service",
            Self::Stock => "reserves or fails; shared by all instances of the stock service",
        }
    }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a deployment may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Whether this process creates what is missing and corrects what differs. Where NATS knows users the services may not: they verify,
    /// and `checkout topology` creates.
    pub creates: bool,
    /// Bytes that [`CHECKOUT`] keeps before it forgets its oldest messages. The server reserves them on its disk. History
    /// is for inspection and for redoing after a failover: a gibibyte is about ten minutes at 10,000 checkouts per second.
    pub max_bytes: u64,
    /// Age at which [`CHECKOUT`] forgets a message. Sagas do not need it: the undo log replays.
    pub max_age: Duration,
    /// Copies of each stream: 1, or 3 or 5 in a cluster. Can be changed while running.
    pub replicas: usize,
    /// How long a delivered message may go without a sign of life before it is delivered again. Longer than any healthy
    /// batch, short enough that what a killed instance held is taken over before clients give up.
    pub ack_wait: Duration,
    /// Delivered but unacknowledged messages that one durable may have over all instances. The server's default of 1,000 is
    /// used up by two instances with full batches; each of these costs it some 100 bytes.
    pub max_ack_pending: i64,
    /// How long an event that only a newer build could understand is left to instances of one, before it is a dead letter.
    pub newer_patience: Duration,
    /// Bytes that [`DEAD_LETTERS`] keeps. When it is full it takes no further one, and forgets none.
    pub dead_letter_max_bytes: u64,
    /// Age at which a dead letter is forgotten: a month, so that a person finds the time to look.
    pub dead_letter_max_age: Duration,
    /// Bytes that [`DEAD_LETTERS_LOG`] keeps. A dropped letter is in it whole.
    pub dead_log_max_bytes: u64,
    /// Age at which it is forgotten what was done with a dead letter: a year, for those who ask much later.
    pub dead_log_max_age: Duration,
    /// Bytes that [`ADVISORIES`] keeps. One has some 400 bytes.
    pub advisories_max_bytes: u64,
    /// Age at which an advisory is forgotten.
    pub advisories_max_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            creates: true,
            max_bytes: 1 << 30,
            max_age: DAY,
            replicas: 1,
            ack_wait: Duration::from_secs(10),
            max_ack_pending: 20_000,
            newer_patience: Duration::from_secs(300),
            dead_letter_max_bytes: 256 << 20,
            dead_letter_max_age: 30 * DAY,
            dead_log_max_bytes: 256 << 20,
            dead_log_max_age: 365 * DAY,
            advisories_max_bytes: 64 << 20,
            advisories_max_age: 7 * DAY,
        }
    }
}

impl From<&ServiceSettings> for Limits {
    fn from(settings: &ServiceSettings) -> Self {
        Self {
            creates: settings.creates_topology,
            max_bytes: settings.stream_max_bytes,
            max_age: settings.stream_max_age,
            replicas: settings.stream_replicas,
            ack_wait: settings.ack_wait,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_event_has_exactly_one_channel() {
        let events: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.subject()).chain([WATERMARK_SUBJECT]).collect();
        let channels: Vec<_> = CHANNELS.iter().map(|channel| channel.subject).collect();
        assert_eq!(channels.len(), events.len());
        assert_eq!(channels.into_iter().collect::<BTreeSet<_>>(), events);
    }

    #[test]
    fn each_durable_takes_what_the_design_says() {
        let of = |durable: Durable| durable.subjects().collect::<BTreeSet<_>>();
        assert_eq!(of(Durable::Order), BTreeSet::from(["payment.declined", "stock.reserved", "payment.refunded"]));
        assert_eq!(of(Durable::Payment), BTreeSet::from(["checkout.started", "stock.failed", "checkout.watermark"]));
        assert_eq!(of(Durable::Stock), BTreeSet::from(["payment.debited", "checkout.abandoned", "checkout.watermark"]));
    }

    #[test]
    fn no_service_reacts_to_itself() {
        for channel in CHANNELS {
            for durable in channel.reacts {
                assert_ne!(format!("{:?}", channel.published_by), format!("{durable:?}"), "{}", channel.subject);
            }
        }
    }
}
