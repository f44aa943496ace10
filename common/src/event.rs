//! The events of the choreography: their names, which are also their NATS subjects, and their JSON bodies.
//!
//! Past tense, because an event tells what has been made durable already; nobody is told what to do. The table of who
//! publishes and who reacts is in ARCHITECTURE.md, the subscriptions are data in `nats/src/topology.rs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::amount::Amount;
use crate::id::{OrderId, UserId};
use crate::reason::FailureReason;
use crate::saga::{Items, Saga, SagaId};
use crate::trace::TraceParent;

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
}

impl Poison {
    /// Whether a newer build could understand it: it says so itself, or is an event that only a newer build knows of.
    pub const fn is_newer(&self) -> bool {
        match self {
            Self::UnknownKind(_) | Self::Version(_) => true,
            Self::Body(_) | Self::NoReason(_) | Self::ForeignOrder(_) => false,
        }
    }
}

/// The JSON body of a saga event as it is written. Its fields stand in one level, because a person reads them in
/// `nats stream view`; they are listed instead of flattened, because flattening makes reading three times as dear.
#[derive(Serialize)]
struct BodyOut<'a> {
    version: u32,
    saga_id: &'a SagaId,
    order_id: &'a OrderId,
    started_at_ms: u64,
    user_id: &'a UserId,
    amount: Amount,
    items: &'a Items,
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a FailureReason>,
    round: u32,
    trail: &'a [Step],
    /// What the next version may add, for the test of upgrades.
    #[cfg(feature = "next-version")]
    a_later_field: [u8; 2],
}

/// The same body as it is read.
#[derive(Deserialize)]
struct BodyIn {
    version: u32,
    saga_id: SagaId,
    order_id: OrderId,
    started_at_ms: u64,
    user_id: UserId,
    amount: Amount,
    items: Items,
    #[serde(default)]
    at_ms: u64,
    #[serde(default)]
    reason: Option<FailureReason>,
    #[serde(default)]
    round: u32,
    #[serde(default, deserialize_with = "known_steps")]
    trail: Vec<Step>,
}

/// The steps of a trail whose events this build knows. The trail is for people who look at a saga: a step that a later version has put
/// in between is no reason not to go on.
fn known_steps<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
    #[derive(Deserialize)]
    struct AnyStep {
        event: String,
        at_ms: u64,
    }
    let steps = Vec::<AnyStep>::deserialize(deserializer)?;
    let known =
        steps.into_iter().filter_map(|AnyStep { event, at_ms }| Some(Step { event: event.parse().ok()?, at_ms }));
    Ok(known.collect())
}

/// The JSON body of a watermark. The first builds wrote no version.
#[derive(Serialize, Deserialize)]
struct WatermarkBody {
    #[serde(default)]
    version: u32,
    closed_before_ms: u64,
}

/// A body that says its version.
trait Body: for<'de> Deserialize<'de> {
    fn version(&self) -> u32;

    /// Reads a body. One of a newer version may look quite different, so what does not fit is asked for its version first.
    fn read(body: &[u8]) -> Result<Self, Poison> {
        let version = match serde_json::from_slice::<Self>(body) {
            Ok(read) if read.version() <= NEWEST_VERSION => return Ok(read),
            Ok(read) => read.version(),
            Err(error) => match serde_json::from_slice::<Versioned>(body) {
                Ok(Versioned { version }) if version > NEWEST_VERSION => version,
                _ => return Err(error.into()),
            },
        };
        Err(Poison::Version(version))
    }
}

impl Body for BodyIn {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Body for WatermarkBody {
    fn version(&self) -> u32 {
        self.version
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

/// Only the version, of a body that may be newer.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"version":1,"saga_id":"5.k3.0","order_id":"5","started_at_ms":17,"user_id":"7","amount":20,
        "items":[["1",1],["2",1]],"at_ms":20,"round":2,"trail":[{"event":"checkout.started","at_ms":18}],"a_later_field":true}"#;

    #[test]
    fn events_read_back_as_they_were_written() {
        let event = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap();
        let again = Event::decode(event.subject(), &event.encode().unwrap(), event.traceparent().map(|t| t.as_str()));
        assert_eq!(again.unwrap(), event);
        assert_eq!(event.id(), "5.k3.0/payment.debited/2");
        let fact = BODY.replace("\"round\":2", "\"round\":7");
        let fact = Event::decode("checkout.completed", fact.as_bytes(), None).unwrap();
        assert_eq!(fact.id(), "5.k3.0/checkout.completed", "an end has one id, in whatever round it is told");
        assert_eq!(event.about(), Some("5.k3.0"));
    }

    #[test]
    fn what_cannot_be_understood_says_why() {
        let of = |subject: &str, body: &str| Event::decode(subject, body.as_bytes(), None).unwrap_err().to_string();
        assert_eq!(of("payment.invented", BODY), r#"unknown event "payment.invented""#);
        assert!(of("payment.debited", "no json").contains("does not fit"));
        assert!(of("payment.debited", "{}").contains("missing field `version`"));
        assert!(of("payment.debited", &BODY.replace("20", "-20")).contains("does not fit"));
        assert!(of("payment.debited", &BODY.replace("\"version\":1", "\"version\":99")).contains("newer than"));
        assert!(of("stock.failed", BODY).contains("must say its reason"));
        assert!(
            of("stock.reserved", &BODY.replace("\"order_id\":\"5\"", "\"order_id\":\"6\"")).contains("does not belong")
        );
        assert!(of("checkout.watermark", "{}").contains("closed_before_ms"));
    }

    #[test]
    fn fields_that_only_a_later_version_knows_are_ignored_at_every_level() {
        let plain = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap();
        let trace = plain.traceparent().map(TraceParent::as_str);
        let later = BODY
            .replacen('{', r#"{"later":{"deep":[1,{"deeper":null}]},"#, 1)
            .replace(r#""at_ms":18}"#, r#""at_ms":18,"by":{"instance":"payment-3"}}"#);
        assert_ne!(later, BODY);
        assert_eq!(Event::decode("payment.debited", later.as_bytes(), trace).unwrap(), plain);
        for watermark in [r#"{"closed_before_ms":9}"#, r#"{"version":1,"closed_before_ms":9,"later":[{}]}"#] {
            let read = Event::decode("checkout.watermark", watermark.as_bytes(), None).unwrap();
            assert_eq!(read, Event::Watermark(Watermark { closed_before_ms: 9 }));
        }
    }

    #[test]
    fn a_step_that_a_later_version_has_put_in_between_is_left_out_of_the_trail() {
        let later = BODY.replace("\"trail\":[", r#""trail":[{"event":"fraud.checked","at_ms":17,"score":3},"#);
        let plain = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap();
        let trace = plain.traceparent().map(TraceParent::as_str);
        assert_eq!(Event::decode("payment.debited", later.as_bytes(), trace).unwrap(), plain);
    }

    #[test]
    fn optional_fields_may_be_missing_and_required_ones_may_not() {
        let whole: serde_json::Value = serde_json::from_str(BODY).unwrap();
        for field in whole.as_object().unwrap().keys() {
            let mut body = whole.clone();
            body.as_object_mut().unwrap().remove(field);
            let read = Event::decode("payment.debited", body.to_string().as_bytes(), None);
            let is_optional = ["at_ms", "round", "trail", "a_later_field"].contains(&field.as_str());
            assert_eq!(read.is_ok(), is_optional, "{field}: {read:?}");
        }
    }

    #[test]
    fn what_a_newer_build_could_understand_is_told_from_what_nobody_could() {
        let of = |subject: &str, body: &str| Event::decode(subject, body.as_bytes(), None).unwrap_err().is_newer();
        let newer = NEWEST_VERSION + 1;
        let of_newer = format!("\"version\":{newer}");
        assert!(of("payment.debited", &BODY.replace("\"version\":1", &of_newer)));
        // Its form may be quite another.
        assert!(of("payment.debited", &format!(r#"{{"version":{newer},"sagas":[]}}"#)));
        assert!(of("checkout.watermark", &format!(r#"{{"version":{newer},"closed_before":"noon"}}"#)));
        assert!(of("payment.frozen", BODY));
        for (subject, body) in [
            ("payment.debited", "no json"),
            ("payment.debited", "{}"),
            ("payment.debited", r#"{"version":1}"#),
            ("payment.declined", BODY),
            ("checkout.watermark", r#"{"version":1}"#),
        ] {
            assert!(!of(subject, body), "{subject} {body}");
        }
        // A reason decides what the client is told: one that is new needs a new version.
        assert!(!of("payment.declined", &BODY.replacen('{', r#"{"reason":"frozen:7","#, 1)));
    }

    #[test]
    fn the_next_event_remembers_the_way() {
        let Event::Saga(event) = Event::decode("payment.debited", BODY.as_bytes(), None).unwrap() else {
            unreachable!()
        };
        let next = event.then(Kind::StockReserved, None, 21);
        let way: Vec<_> = next.trail.iter().map(|step| (step.event.subject(), step.at_ms)).collect();
        assert_eq!(way, [("checkout.started", 18), ("payment.debited", 20)]);
        assert_eq!((next.at_ms, next.round, next.saga), (21, 2, event.saga));
    }
}
