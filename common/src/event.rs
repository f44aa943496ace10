//! The events of the choreography: their names, which are also their NATS subjects, and their JSON bodies.
//!
//! Past tense, because an event tells what has been made durable already; nobody is told what to do. The table of who
//! publishes and who reacts is in ARCHITECTURE.md, the subscriptions are data in `nats/src/topology.rs`.

mod body;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::reason::FailureReason;
use crate::saga::{Saga, SagaId};
use crate::trace::TraceParent;
use body::{Body, BodyIn, BodyOut, WatermarkBody};

/// The version of the event bodies that this build writes.
///
/// Unknown fields are ignored, at every level, so a field that a reader may do without is added without a new version. What a reader *must*
/// understand (a field, another meaning, another reason of a failure) needs one, and takes two releases, because old and new instances work
/// side by side: the first reads the new version ([`NEWEST_VERSION`]) and writes the old one; the second, when no instance of an older one
/// is left, writes it. What is newer than this build is left to instances of a newer one, see [`Poison::is_newer`].
pub const SCHEMA_VERSION: u32 = 1;

/// The newest version of the event bodies that this build reads.
pub const NEWEST_VERSION: u32 = if crate::IS_NEXT_VERSION { 2 } else { 1 };

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What happened to a saga.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All kinds, in the order in which a saga can meet them.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The event's name, its CloudEvents type and its NATS subject.
            pub const fn subject(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// The undo entry is written. Published by order, payment reacts.
    CheckoutStarted = "checkout.started",
    /// The amount is taken. Published by payment, stock reacts.
    PaymentDebited = "payment.debited",
    /// The user is unknown or has too little credit; nothing was taken. Published by payment, order reacts.
    PaymentDeclined = "payment.declined",
    /// Every item is taken: the commit point. Published by stock, order reacts.
    StockReserved = "stock.reserved",
    /// Some item is short or unknown, or the saga was abandoned; nothing was taken. Published by stock, payment reacts.
    StockFailed = "stock.failed",
    /// The debit is undone, or a tombstone keeps it from ever happening. Published by payment, order reacts.
    PaymentRefunded = "payment.refunded",
    /// The saga passed its time limit. Published by order's reconciler, stock reacts.
    CheckoutAbandoned = "checkout.abandoned",
    /// The undo entry is closed: paid. A public fact, nobody here reacts.
    CheckoutCompleted = "checkout.completed",
    /// The undo entry is closed: undone. A public fact, nobody here reacts.
    CheckoutFailed = "checkout.failed",
}

/// The subject of [`Watermark`], the one event that is not about a single saga.
pub const WATERMARK_SUBJECT: &str = "checkout.watermark";

/// The text is not the name of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event {0:?}")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().copied().find(|kind| kind.subject() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl TryFrom<String> for Kind {
    type Error = UnknownKind;
    fn try_from(text: String) -> Result<Self, UnknownKind> {
        text.parse()
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> String {
        kind.subject().to_owned()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.subject())
    }
}

impl Kind {
    /// Whether an event of this kind is a failure and so must say why.
    pub const fn needs_reason(self) -> bool {
        matches!(
            self,
            Self::PaymentDeclined
                | Self::StockFailed
                | Self::PaymentRefunded
                | Self::CheckoutFailed
                | Self::CheckoutAbandoned
        )
    }
}

/// One thing that happened on the way of a saga, and when by the clock of the service that did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What.
    pub event: Kind,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// An event about one saga. Build the first with [`SagaEvent::started`], each next one with [`SagaEvent::then`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaEvent {
    /// What happened.
    pub kind: Kind,
    /// To which saga, with all its facts.
    pub saga: Saga,
    /// When it happened, in milliseconds since the Unix epoch by the clock of the service that did it.
    pub at_ms: u64,
    /// Why it failed, where it did.
    pub reason: Option<FailureReason>,
    /// How often the reconciler had replayed the saga when this chain of events began: 0 for the first time. It is part
    /// of the event's id, so that nothing which removes duplicates can swallow a replay.
    pub round: u32,
    /// The events that led here, oldest first, so that the undo entry can show the saga's way when it closes.
    pub trail: Vec<Step>,
    /// The trace that the client's request belongs to (W3C Trace Context). Travels as a header.
    pub traceparent: TraceParent,
}

impl SagaEvent {
    /// The first event of a chain: `checkout.started` or, from the reconciler, `checkout.abandoned`. It happened when the saga
    /// started, unless [`SagaEvent::at`] says otherwise.
    pub fn first(kind: Kind, saga: Saga, round: u32, traceparent: TraceParent) -> Self {
        let reason = kind.needs_reason().then_some(FailureReason::Abandoned);
        Self { kind, at_ms: saga.started_at_ms, saga, reason, round, trail: Vec::new(), traceparent }
    }

    /// The same event, happened at this time.
    #[must_use]
    pub fn at(self, at_ms: u64) -> Self {
        Self { at_ms, ..self }
    }

    /// The event that follows from this one, happened at `at_ms`.
    pub fn then(&self, kind: Kind, reason: Option<FailureReason>, at_ms: u64) -> Self {
        let (saga, trail, traceparent) = (self.saga.clone(), self.way(), self.traceparent.clone());
        Self { kind, saga, at_ms, reason, round: self.round, trail, traceparent }
    }

    /// The trail up to and with this event.
    pub fn way(&self) -> Vec<Step> {
        let mut way = self.trail.clone();
        // A chain has at most five links; a longer trail could only come from outside and is not carried on.
        if way.len() < Kind::ALL.len() {
            way.push(Step { event: self.kind, at_ms: self.at_ms });
        }
        way
    }

    /// The CloudEvents id: the same for each publication of the same fact in the same round. A saga ends once, in whatever
    /// round, so the public facts leave the round out: other systems tell by the id that a replay told them nothing new.
    pub fn id(&self) -> String {
        match self.kind {
            Kind::CheckoutCompleted | Kind::CheckoutFailed => format!("{}/{}", self.saga.saga_id, self.kind),
            _ => format!("{}/{}/{}", self.saga.saga_id, self.kind, self.round),
        }
    }
}

/// "Every saga started before this time is closed": behind it, outcome records may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// In milliseconds since the Unix epoch, by the clock of the order database.
    pub closed_before_ms: u64,
}

/// Anything that travels on the `CHECKOUT` stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something happened to a saga.
    Saga(SagaEvent),
    /// The watermark rose.
    Watermark(Watermark),
}

impl From<SagaEvent> for Event {
    fn from(event: SagaEvent) -> Self {
        Self::Saga(event)
    }
}

/// Why a message cannot be understood. Its text goes to the dead-letter stream.
#[derive(Debug, thiserror::Error)]
pub enum Poison {
    /// The subject, which is the event's type, is none of ours.
    #[error(transparent)]
    UnknownKind(#[from] UnknownKind),
    /// The body is not JSON or does not have the event's form.
    #[error("the body does not fit the event: {0}")]
    Body(#[from] serde_json::Error),
    /// The body says that it needs a newer reader.
    #[error("schema version {0} is newer than {NEWEST_VERSION}, the newest this build reads")]
    Version(u32),
    /// A failure without a reason.
    #[error("{0} must say its reason")]
    NoReason(Kind),
    /// The saga id belongs to another order than the event names.
    #[error("saga {0} does not belong to the order that the event names")]
    ForeignOrder(SagaId),
    /// The message says that it is of another type than its subject.
    #[error("its CloudEvents type is {0}, another one than its subject")]
    OtherType(String),
}

impl Poison {
    /// Whether a newer build could understand it: it says so itself, or is an event that only a newer build knows of.
    pub const fn is_newer(&self) -> bool {
        match self {
            Self::UnknownKind(_) | Self::Version(_) => true,
            Self::Body(_) | Self::NoReason(_) | Self::ForeignOrder(_) | Self::OtherType(_) => false,
        }
    }
}

impl Event {
    /// The NATS subject, which is also the CloudEvents type.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::Saga(event) => event.kind.subject(),
            Self::Watermark(_) => WATERMARK_SUBJECT,
        }
    }

    /// The CloudEvents id.
    pub fn id(&self) -> String {
        match self {
            Self::Saga(event) => event.id(),
            Self::Watermark(watermark) => format!("watermark/{}", watermark.closed_before_ms),
        }
    }

    /// The CloudEvents subject: what the event is about.
    pub fn about(&self) -> Option<&str> {
        match self {
            Self::Saga(event) => Some(event.saga.saga_id.as_str()),
            Self::Watermark(_) => None,
        }
    }

    /// The trace the event belongs to.
    pub fn traceparent(&self) -> Option<&TraceParent> {
        match self {
            Self::Saga(event) => Some(&event.traceparent),
            Self::Watermark(_) => None,
        }
    }

    /// The JSON body.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Saga(SagaEvent { saga, at_ms, reason, round, trail, .. }) => serde_json::to_vec(&BodyOut {
                version: SCHEMA_VERSION,
                saga_id: &saga.saga_id,
                order_id: &saga.order_id,
                started_at_ms: saga.started_at_ms,
                user_id: &saga.user_id,
                amount: saga.amount,
                items: &saga.items,
                at_ms: *at_ms,
                reason: reason.as_ref(),
                round: *round,
                trail,
                #[cfg(feature = "next-version")]
                a_later_field: [1, 2],
            }),
            Self::Watermark(Watermark { closed_before_ms }) => {
                serde_json::to_vec(&WatermarkBody { version: SCHEMA_VERSION, closed_before_ms: *closed_before_ms })
            }
        }
    }

    /// Reads what came on `subject` with `body`. A missing or broken `traceparent` starts a new trace, as W3C Trace
    /// Context asks for.
    pub fn decode(subject: &str, body: &[u8], traceparent: Option<&str>) -> Result<Self, Poison> {
        if subject == WATERMARK_SUBJECT {
            let WatermarkBody { closed_before_ms, .. } = WatermarkBody::read(body)?;
            return Ok(Self::Watermark(Watermark { closed_before_ms }));
        }
        let kind: Kind = subject.parse()?;
        let BodyIn { saga_id, order_id, started_at_ms, user_id, amount, items, at_ms, reason, round, trail, .. } =
            BodyIn::read(body)?;
        if kind.needs_reason() && reason.is_none() {
            return Err(Poison::NoReason(kind));
        }
        if saga_id.order() != order_id.as_str() {
            return Err(Poison::ForeignOrder(saga_id));
        }
        let saga = Saga { saga_id, order_id, started_at_ms, user_id, amount, items };
        let traceparent = traceparent.and_then(|text| text.parse().ok()).unwrap_or_else(TraceParent::random);
        Ok(Self::Saga(SagaEvent { kind, saga, at_ms, reason, round, trail, traceparent }))
    }
}

#[cfg(test)]
mod tests;
