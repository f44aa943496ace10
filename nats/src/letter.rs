//! A dead letter as it is read back: what it was, why it is dead, and whether it may be published again.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::dead_letter::{
    CONSUMER, DELIVERED, HEADERS_DROPPED, REASON, SEQUENCE, STREAM, SUBJECT, TIME, TRUNCATED, is_order, is_ours,
};
use crate::message::Outgoing;
use crate::scan::Found;
use crate::topology::Durable;

static CE_SUBJECT: HeaderName = HeaderName::from_static("ce-subject");

/// A dead letter. Texts come from its headers, which anybody may have written: they can hold anything.
#[derive(Debug, Clone, Serialize)]
pub struct Letter {
    /// Its number among the dead letters.
    pub sequence: u64,
    /// When it was put aside.
    pub time: String,
    /// The durable that gave up on it.
    pub consumer: String,
    /// Where it was published.
    pub subject: String,
    /// The saga it is about, if it says so.
    pub saga: Option<String>,
    /// Why it is dead.
    pub reason: String,
    /// The stream it was in.
    pub stream: String,
    /// Its number there.
    pub stream_sequence: u64,
    /// How often it had been delivered.
    pub delivered: u64,
    /// Where it lies: `dead.<durable>`.
    #[serde(skip)]
    place: String,
    #[serde(skip)]
    pub(crate) headers: HeaderMap,
    #[serde(skip)]
    payload: Bytes,
}

impl Letter {
    pub(crate) fn read(found: Found) -> Self {
        let text = |name: &HeaderName| text(&found.headers, name);
        Self {
            sequence: found.sequence,
            time: text(&TIME).unwrap_or_else(|| found.time.format(&Rfc3339).unwrap_or_default()),
            consumer: text(&CONSUMER).unwrap_or_default(),
            subject: text(&SUBJECT).unwrap_or_default(),
            saga: text(&CE_SUBJECT),
            reason: text(&REASON).unwrap_or_default(),
            stream: text(&STREAM).unwrap_or_default(),
            stream_sequence: number(&found.headers, &SEQUENCE),
            delivered: number(&found.headers, &DELIVERED),
            place: found.subject,
            headers: found.headers,
            payload: found.payload,
        }
    }

    /// All headers, sorted by name.
    pub fn headers(&self) -> Vec<(String, String)> {
        let pairs = |(name, values): (&HeaderName, &Vec<HeaderValue>)| -> Vec<_> {
            values.iter().map(|value| (name.to_string(), value.as_str().to_owned())).collect()
        };
        let mut all: Vec<_> = self.headers.iter().flat_map(pairs).collect();
        all.sort();
        all
    }

    /// The original payload; empty in a list.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Where it would be published again: only where its durable takes events from, so that nobody can use a dead letter to
    /// say something in the name of a service to somebody else.
    ///
    /// # Errors
    /// Why it cannot be published again.
    pub fn destination(&self) -> Result<&'static str, String> {
        let durable = Durable::ALL.iter().find(|durable| durable.dead_letter_subject() == self.place);
        let Some(durable) = durable else {
            return Err(format!("no durable puts dead letters at {}", self.place));
        };
        if self.consumer != durable.name() {
            return Err(format!(
                "it lies at {} and says that the durable {:?} gave up on it",
                self.place, self.consumer
            ));
        }
        let Some(subject) = durable.subjects().find(|subject| *subject == self.subject) else {
            let subjects: Vec<_> = durable.subjects().collect();
            return Err(format!("{durable} does not react to {:?}, only to {}", self.subject, subjects.join(", ")));
        };
        if let Some(bytes) = text(&self.headers, &TRUNCATED) {
            return Err(format!("its payload of {bytes} bytes was cut to fit, so it would not be what it was"));
        }
        if let Some(bytes) = text(&self.headers, &HEADERS_DROPPED) {
            return Err(format!("its {bytes} bytes of headers were too many to keep, so it would not be what it was"));
        }
        Ok(subject)
    }

    /// The message it was: the original payload, and the original headers without those that are about its death. Orders to
    /// the server are among the latter.
    pub(crate) fn revived(&self) -> Result<Outgoing, String> {
        let subject = self.destination()?;
        let mut headers = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            let text: &str = name.as_ref();
            if is_ours(text) || is_order(text) {
                continue;
            }
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
        Ok(Outgoing { subject, headers, payload: self.payload.clone() })
    }
}

/// Which dead letters. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this durable.
    pub consumer: Option<Durable>,
    /// Only those that were published at exactly this subject.
    pub subject: Option<String>,
    /// Only those whose reason contains this, in whatever case.
    pub reason: Option<String>,
}

impl Filter {
    /// Whether a letter is among them.
    pub fn matches(&self, letter: &Letter) -> bool {
        let consumer = self.consumer.is_none_or(|durable| durable.name() == letter.consumer);
        let subject = self.subject.as_ref().is_none_or(|subject| *subject == letter.subject);
        let has = |part: &String| letter.reason.to_lowercase().contains(&part.to_lowercase());
        consumer && subject && self.reason.as_ref().is_none_or(has)
    }
}

pub(crate) fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name.clone()).map(|value| value.as_str().to_owned())
}

pub(crate) fn number(headers: &HeaderMap, name: &HeaderName) -> u64 {
    headers.get(name.clone()).and_then(|value| value.as_str().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    fn letter(place: &str, headers: &[(&'static str, &str)]) -> Letter {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let time = OffsetDateTime::UNIX_EPOCH;
        Letter::read(Found { sequence: 7, subject: place.to_owned(), time, headers: map, payload: "{}".into() })
    }

    const PAYMENT: [(&str, &str); 4] = [
        ("dead-consumer", "payment"),
        ("dead-subject", "checkout.started"),
        ("dead-reason", "Too old: started before the watermark"),
        ("ce-subject", "5.k.0"),
    ];

    #[test]
    fn a_letter_goes_only_where_its_durable_listens() {
        assert_eq!(letter("dead.payment", &PAYMENT).destination(), Ok("checkout.started"));
        let refused = |place, headers: &[_]| letter(place, headers).destination().unwrap_err();
        let mut elsewhere = PAYMENT;
        // Payment says this itself; stock is who reacts.
        elsewhere[1].1 = "payment.debited";
        assert!(
            refused("dead.payment", &elsewhere)
                .contains("payment does not react to \"payment.debited\", only to checkout.started")
        );
        elsewhere[1].1 = "$JS.API.STREAM.DELETE.CHECKOUT";
        assert!(refused("dead.payment", &elsewhere).contains("does not react"));
        assert!(refused("dead.stock", &PAYMENT).contains("lies at dead.stock"));
        assert!(refused("dead.else", &PAYMENT).contains("no durable"));
        assert!(refused("dead.payment", &[]).contains("the durable \"\""));
    }

    #[test]
    fn a_letter_that_is_not_whole_stays() {
        for (name, said) in
            [("dead-truncated-from-bytes", "was cut"), ("dead-headers-dropped-bytes", "too many to keep")]
        {
            let headers = [PAYMENT.as_slice(), &[(name, "99999")]].concat();
            let why = letter("dead.payment", &headers).destination().unwrap_err();
            assert!(why.contains(said) && why.contains("99999"), "{why}");
        }
    }

    #[test]
    fn what_is_revived_is_what_it_was() {
        let more = [
            ("Dead-Nats-Expected-Stream", "X"),
            ("nats-rollup", "all"),
            ("ce-id", "1"),
            ("multi", "a"),
            ("multi", "b"),
        ];
        let revived = letter("dead.payment", &[PAYMENT.as_slice(), &more].concat()).revived().unwrap();
        let mut names: Vec<_> =
            revived.headers.iter().map(|(name, values)| format!("{name}*{}", values.len())).collect();
        names.sort();
        assert_eq!(names, ["ce-id*1", "ce-subject*1", "multi*2"]);
        assert_eq!((revived.subject, revived.payload.as_ref()), ("checkout.started", b"{}".as_slice()));
    }

    #[test]
    fn filters_narrow_and_all_of_them_must_hold() {
        let letter = letter("dead.payment", &PAYMENT);
        let matches = |consumer, subject: Option<&str>, reason: Option<&str>| {
            let filter = Filter { consumer, subject: subject.map(str::to_owned), reason: reason.map(str::to_owned) };
            filter.matches(&letter)
        };
        assert!(matches(None, None, None));
        assert!(matches(Some(Durable::Payment), Some("checkout.started"), Some("too OLD")));
        assert!(!matches(Some(Durable::Stock), None, None));
        assert!(!matches(None, Some("checkout"), None));
        assert!(!matches(None, None, Some("schema")));
        assert!(!matches(Some(Durable::Payment), Some("checkout.started"), Some("schema")));
    }
}
