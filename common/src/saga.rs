//! What one checkout is: its derived id and the facts that every one of its events carries.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::amount::{Amount, Quantity};
use crate::id::{ItemId, OrderId, UserId, validate};

/// `<order_id>.<incarnation>.<attempt>`: derived from the order record and never drawn, so that a saga which a failover
/// forgot is opened under the same id again, and meets the outcomes that the other services have recorded for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SagaId(Arc<str>);

/// Why a text is not a saga id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a saga id is <order_id>.<incarnation>.<attempt>")]
pub struct InvalidSagaId;

impl SagaId {
    /// The saga that is the `attempt`-th failed-so-far try of an order's `incarnation`.
    pub fn derive(order: &OrderId, incarnation: &str, attempt: u64) -> Result<Self, InvalidSagaId> {
        format!("{order}.{incarnation}.{attempt}").parse()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The order that the saga belongs to.
    pub fn order(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

impl FromStr for SagaId {
    type Err = InvalidSagaId;
    fn from_str(text: &str) -> Result<Self, InvalidSagaId> {
        let mut parts = text.split('.');
        let (Some(order), Some(incarnation), Some(attempt), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidSagaId);
        };
        let attempt_is_a_number = attempt.parse::<u64>().is_ok_and(|n| n.to_string() == attempt);
        if validate(order).is_err() || validate(incarnation).is_err() || !attempt_is_a_number {
            return Err(InvalidSagaId);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for SagaId {
    type Error = InvalidSagaId;
    fn try_from(text: String) -> Result<Self, InvalidSagaId> {
        text.parse()
    }
}

/// Written without a copy: every event carries it.
impl Serialize for SagaId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The items of a saga with the sum of each one's quantities, ordered by id: one canonical form, so that two lists are the
/// same content exactly when their texts are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(ItemId, Quantity)>")]
pub struct Items(Vec<(ItemId, Quantity)>);

/// Why a list is not the canonical form of [`Items`], or not a list at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidItems {
    /// The list is out of order or names an item twice.
    #[error("items must be sorted by id and name each item once")]
    NotCanonical,
    /// An entry that is not `id:quantity`.
    #[error("not an item with a quantity: {0:?}")]
    Entry(String),
    /// The quantities of one item sum up to more than [`crate::amount::MAX`].
    #[error("the quantities of item {0} sum up to more than {max}", max = crate::amount::MAX)]
    Overflow(ItemId),
}

impl Items {
    /// Adds up the quantities of each item.
    pub fn sum(entries: impl IntoIterator<Item = (ItemId, Quantity)>) -> Result<Self, InvalidItems> {
        let mut items: Vec<(ItemId, Quantity)> = entries.into_iter().collect();
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sums: Vec<(ItemId, Quantity)> = Vec::with_capacity(items.len());
        for (item, quantity) in items {
            match sums.last_mut() {
                Some((last, sum)) if *last == item => {
                    *sum = sum.checked_add(quantity).ok_or(InvalidItems::Overflow(item))?;
                }
                _ => sums.push((item, quantity)),
            }
        }
        Ok(Self(sums))
    }

    /// Each item with the quantity to take.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &(ItemId, Quantity)> {
        self.0.iter()
    }
}

impl TryFrom<Vec<(ItemId, Quantity)>> for Items {
    type Error = InvalidItems;
    fn try_from(list: Vec<(ItemId, Quantity)>) -> Result<Self, InvalidItems> {
        if list.windows(2).all(|pair| pair[0].0 < pair[1].0) { Ok(Self(list)) } else { Err(InvalidItems::NotCanonical) }
    }
}

/// `id:quantity,id:quantity`, the form in which Redis functions take and keep items.
impl fmt::Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_entries(f, &self.0)
    }
}

/// Writes entries as `id:quantity,id:quantity`.
fn write_entries(f: &mut fmt::Formatter<'_>, entries: &[(ItemId, Quantity)]) -> fmt::Result {
    for (n, (item, quantity)) in entries.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        write!(f, "{comma}{item}:{quantity}")?;
    }
    Ok(())
}

/// Reads `id:quantity,id:quantity`, in the order written, repetitions included.
pub fn parse_entries(text: &str) -> Result<Vec<(ItemId, Quantity)>, InvalidItems> {
    let wrong = |entry: &str| InvalidItems::Entry(entry.to_owned());
    text.split(',')
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (item, quantity) = entry.split_once(':').ok_or_else(|| wrong(entry))?;
            Ok((item.parse().map_err(|_| wrong(entry))?, quantity.parse().map_err(|_| wrong(entry))?))
        })
        .collect()
}

/// The facts of a saga: all that any step of it needs, so that no consumer ever asks back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saga {
    /// Which saga.
    pub saga_id: SagaId,
    /// The order that is being paid.
    pub order_id: OrderId,
    /// When the undo entry was first written, in milliseconds since the Unix epoch by the clock of the order database. The
    /// watermark behind which outcome records are forgotten is in the same clock.
    pub started_at_ms: u64,
    /// Who pays.
    pub user_id: UserId,
    /// How much.
    pub amount: Amount,
    /// What for.
    pub items: Items,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<Items, InvalidItems> {
        Items::sum(parse_entries(text)?)
    }

    #[test]
    fn saga_ids_have_three_parts_and_a_plain_attempt() {
        assert!("5.k3.0".parse::<SagaId>().is_ok());
        for bad in ["", "5", "5.k3", "5.k3.", "5.k3.x", "5.k3.01", "5.k3.-1", "5.k3.1.2", ".k3.1", "5..1", "5.k 3.1"] {
            assert_eq!(bad.parse::<SagaId>(), Err(InvalidSagaId), "{bad:?}");
        }
    }

    #[test]
    fn items_are_summed_and_sorted() {
        assert_eq!(items("b:1,a:2,b:3").map(|i| i.to_string()), Ok("a:2,b:4".into()));
        assert_eq!(items("").map(|i| i.to_string()), Ok(String::new()));
    }

    #[test]
    fn sums_of_quantities_do_not_overflow_in_silence() {
        let result = items("a:9007199254740991,a:1");
        assert!(matches!(result, Err(InvalidItems::Overflow(_))), "{result:?}");
    }

    #[test]
    fn a_list_from_outside_must_be_canonical() {
        for bad in [r#"[["b",1],["a",1]]"#, r#"[["a",1],["a",1]]"#, r#"[["a",-1]]"#, r#"[["a",1.5]]"#, r#"[["",1]]"#] {
            assert!(serde_json::from_str::<Items>(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Items>(r#"[["a",1],["b",2]]"#).is_ok());
    }
}
