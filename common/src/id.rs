//! Identifiers: opaque strings that are safe inside a Redis key, a NATS subject token and a URL path segment.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::limits::MAX_ID_BYTES;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text has no characters.
    #[error("an id must not be empty")]
    Empty,
    /// The text is longer than [`MAX_ID_BYTES`].
    #[error("an id has at most {MAX_ID_BYTES} characters, this one has {0}")]
    TooLong(usize),
    /// A character other than letters, digits, `-` and `_`.
    #[error("an id consists of ASCII letters, digits, '-' and '_'; found {0:?}")]
    Character(char),
}

/// Checks the alphabet that all ids share. `.` is left out on purpose: a saga id joins its parts with it.
pub(crate) fn validate(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if let Some(found) = text.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-' && *c != '_') {
        return Err(InvalidId::Character(found));
    }
    if text.len() > MAX_ID_BYTES {
        return Err(InvalidId::TooLong(text.len()));
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new random id (UUID v4, RFC 9562).
            pub fn random() -> Self {
                Self(Uuid::new_v4().hyphenated().to_string().into())
            }

            /// The id that `batch_init` gives to its entry number `index`.
            pub fn from_index(index: u64) -> Self {
                Self(index.to_string().into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                validate(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        /// Written without a copy: every event carries some.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A user who has credit at the payment service.
    UserId
);
id!(
    /// An item that the stock service keeps.
    ItemId
);
id!(
    /// An order of the order service.
    OrderId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_or_integers_or_other_plain_words() {
        for text in ["0", "99999", "2f1c6e0a-6f5e-4c58-a4f4-0b1b0f6f7f10", "a_b-C"] {
            assert_eq!(text.parse::<OrderId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_could_break_a_key_a_subject_or_a_path_is_no_id() {
        assert_eq!("".parse::<UserId>(), Err(InvalidId::Empty));
        for bad in ['.', ':', '{', '*', '>', ' ', '\n', '/', 'é', '💥', '\0'] {
            assert_eq!(format!("a{bad}").parse::<UserId>(), Err(InvalidId::Character(bad)), "{bad:?}");
        }
        assert_eq!("x".repeat(MAX_ID_BYTES + 1).parse::<ItemId>(), Err(InvalidId::TooLong(MAX_ID_BYTES + 1)));
        assert!("x".repeat(MAX_ID_BYTES).parse::<ItemId>().is_ok());
    }
}
