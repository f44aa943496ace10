//! Replies of functions: arrays of strings, the first is the return code.

use redis::Value;

/// A reply: for a function its return code and what follows, for a plain command its values, with `None` for nil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(Vec<Option<String>>);

/// The reply is not one that this build knows: the library in the database is not the one that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unexpected reply {0:?}")]
pub struct UnexpectedReply(pub Vec<Option<String>>);

impl Reply {
    /// Makes a reply by hand, for tests of the code that reads it.
    pub fn of(parts: &[&str]) -> Self {
        Self(parts.iter().map(|part| Some((*part).to_owned())).collect())
    }

    pub(super) fn read(value: Value) -> Self {
        let mut parts = Vec::new();
        flatten(value, &mut parts);
        Self(parts)
    }

    /// The return code.
    pub fn code(&self) -> &str {
        self.text(0)
    }

    /// The part at `index`, empty where there is none.
    pub fn text(&self, index: usize) -> &str {
        self.0.get(index).and_then(Option::as_deref).unwrap_or_default()
    }

    /// The part at `index`, unless it is nil or missing.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.as_deref()
    }

    /// The parts from `index` on, as text.
    pub fn texts_from(&self, index: usize) -> impl Iterator<Item = &str> {
        self.0.iter().skip(index).map(|part| part.as_deref().unwrap_or_default())
    }

    /// How many parts there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no parts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The part at `index`, read as `T`.
    ///
    /// # Errors
    /// There is no such part, or it is not a `T`.
    pub fn parse<T: std::str::FromStr>(&self, index: usize) -> Result<T, UnexpectedReply> {
        self.text(index).parse().map_err(|_| self.unexpected())
    }

    /// The error for a reply that nobody knows.
    pub fn unexpected(&self) -> UnexpectedReply {
        UnexpectedReply(self.0.clone())
    }
}

/// Nested arrays and maps are read as one sequence: `HGETALL` looks alike in RESP 2 and RESP 3.
fn flatten(value: Value, parts: &mut Vec<Option<String>>) {
    match value {
        Value::Nil => parts.push(None),
        Value::Int(number) => parts.push(Some(number.to_string())),
        Value::BulkString(bytes) => {
            parts.push(Some(
                String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
            ));
        }
        Value::SimpleString(text) => parts.push(Some(text)),
        Value::Okay => parts.push(Some("OK".into())),
        Value::Array(values) | Value::Set(values) => values.into_iter().for_each(|value| flatten(value, parts)),
        Value::Map(pairs) => pairs.into_iter().for_each(|(key, value)| {
            flatten(key, parts);
            flatten(value, parts);
        }),
        other => parts.push(Some(format!("{other:?}"))),
    }
}
