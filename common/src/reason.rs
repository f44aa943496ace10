//! Why a saga failed, as told from service to service and at last to the client.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{ItemId, UserId};

/// Why a saga failed. Its text form is `code` or `code:id`, in events, in Redis and in the undo entry alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FailureReason {
    /// The user has less credit than the order costs.
    InsufficientCredit(UserId),
    /// The payment service knows no such user.
    UnknownUser(UserId),
    /// There are fewer pieces of this item than ordered.
    OutOfStock(ItemId),
    /// The stock service knows no such item.
    UnknownItem(ItemId),
    /// The saga passed its time limit before stock had decided, and was undone.
    Abandoned,
}

/// The text names no known reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a failure reason: {0:?}")]
pub struct InvalidReason(String);

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsufficientCredit(user) => write!(f, "insufficient_credit:{user}"),
            Self::UnknownUser(user) => write!(f, "unknown_user:{user}"),
            Self::OutOfStock(item) => write!(f, "out_of_stock:{item}"),
            Self::UnknownItem(item) => write!(f, "unknown_item:{item}"),
            Self::Abandoned => f.write_str("abandoned"),
        }
    }
}

impl FromStr for FailureReason {
    type Err = InvalidReason;
    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        let invalid = || InvalidReason(text.to_owned());
        let (code, id) = text.split_once(':').unwrap_or((text, ""));
        let user = || id.parse::<UserId>().map_err(|_| invalid());
        let item = || id.parse::<ItemId>().map_err(|_| invalid());
        match code {
            "insufficient_credit" => Ok(Self::InsufficientCredit(user()?)),
            "unknown_user" => Ok(Self::UnknownUser(user()?)),
            "out_of_stock" => Ok(Self::OutOfStock(item()?)),
            "unknown_item" => Ok(Self::UnknownItem(item()?)),
            "abandoned" if text == "abandoned" => Ok(Self::Abandoned),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for FailureReason {
    type Error = InvalidReason;
    fn try_from(text: String) -> Result<Self, InvalidReason> {
        text.parse()
    }
}

impl From<FailureReason> for String {
    fn from(reason: FailureReason) -> String {
        reason.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_back_as_they_were_written() {
        for text in ["insufficient_credit:7", "unknown_user:u-1", "out_of_stock:3", "unknown_item:x_9", "abandoned"] {
            assert_eq!(text.parse::<FailureReason>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "out_of_stock", "out_of_stock:", "out_of_stock:a:b", "abandoned:1", "nonsense:1"] {
            assert!(bad.parse::<FailureReason>().is_err(), "{bad:?}");
        }
    }
}
