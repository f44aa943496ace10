//! Whole, non-negative numbers that every party of the system represents exactly: JSON readers, Lua and Rust alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The largest amount, price, quantity or credit: 2^53 - 1, the largest whole number that an IEEE 754 double (and so a
/// JSON number in JavaScript, and a number in Redis' Lua) holds together with all smaller ones. See RFC 8259, section 6.
pub const MAX: u64 = (1 << 53) - 1;

/// Why a text or number is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    /// Something other than decimal digits: a sign, a fraction, an exponent, nothing at all.
    #[error("expected a whole number, 0 or more, in decimal digits")]
    NotWhole,
    /// More than [`MAX`].
    #[error("the largest value is {MAX}")]
    TooLarge,
}

fn parse(text: &str) -> Result<u64, InvalidAmount> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidAmount::NotWhole);
    }
    // Only digits are left, so the one way to fail is overflow.
    let value = text.parse().map_err(|_| InvalidAmount::TooLarge)?;
    check(value)
}

fn check(value: u64) -> Result<u64, InvalidAmount> {
    if value > MAX { Err(InvalidAmount::TooLarge) } else { Ok(value) }
}

macro_rules! whole {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// The number itself.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The sum, or nothing where it would exceed [`MAX`].
            pub fn checked_add(self, other: Self) -> Option<Self> {
                check(self.0.checked_add(other.0)?).ok().map(Self)
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidAmount;
            fn try_from(value: u64) -> Result<Self, InvalidAmount> {
                check(value).map(Self)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> u64 {
                value.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidAmount;
            fn from_str(text: &str) -> Result<Self, InvalidAmount> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

whole!(
    /// Money, in the smallest unit of the shop's one currency: a credit, a price, a total.
    Amount
);
whole!(
    /// A number of pieces of one item.
    Quantity
);

impl Amount {
    /// The price of `quantity` pieces, or nothing where it would exceed [`MAX`].
    pub fn checked_mul(self, quantity: Quantity) -> Option<Self> {
        check(self.0.checked_mul(quantity.get())?).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_decimal_digits_are_amounts() {
        assert_eq!("0".parse(), Ok(Amount::ZERO));
        assert_eq!("9007199254740991".parse::<Amount>().map(Amount::get), Ok(MAX));
        for bad in ["", "-1", "+1", "1.0", "1e3", " 1", "1 ", "abc", "0x10", "١", "1_000", "NaN"] {
            assert_eq!(bad.parse::<Amount>(), Err(InvalidAmount::NotWhole), "{bad:?}");
        }
        for large in ["9007199254740992", "18446744073709551616", &"9".repeat(10_000)] {
            assert_eq!(large.parse::<Quantity>(), Err(InvalidAmount::TooLarge));
        }
    }

    #[test]
    fn sums_and_products_stop_at_the_largest_exact_number() {
        let max = Amount::try_from(MAX).unwrap_or(Amount::ZERO);
        let one = Amount::try_from(1).unwrap_or(Amount::ZERO);
        let two = Quantity::try_from(2).unwrap_or(Quantity::ZERO);
        assert_eq!(max.checked_add(one), None);
        assert_eq!(max.checked_add(Amount::ZERO), Some(max));
        assert_eq!(max.checked_mul(two), None);
        assert_eq!(one.checked_mul(two).map(Amount::get), Some(2));
    }
}
