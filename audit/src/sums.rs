//! What the totals of a database say about its balances. The equations stand in each service's `effect.rs`.

use std::collections::BTreeMap;

use crate::finding::{Finding, Rule};

/// A counter that reaches this is carried over into `<name>_carried`, see `raise` in `common/src/redis/prelude.lua`.
const CARRY: i128 = 1 << 62;

/// The totals of one database, as they are stored.
pub type Totals = BTreeMap<String, i128>;

/// One counter, with what was carried over.
pub fn total(totals: &Totals, name: &str) -> i128 {
    let of = |name: &str| totals.get(name).copied().unwrap_or(0);
    of(name) + of(&format!("{name}_carried")) * CARRY
}

/// The sum of all credits that payment's totals say is there.
pub fn credit(totals: &Totals) -> i128 {
    let of = |name: &str| total(totals, name);
    of("initial") - of("replaced") + of("deposited") - of("paid") - of("debited") + of("refunded") + of("uncovered")
}

/// The sum of all pieces that stock's totals say is there.
pub fn pieces(totals: &Totals) -> i128 {
    let of = |name: &str| total(totals, name);
    of("initial") - of("replaced") + of("added") - of("subtracted") - of("reserved") + of("uncovered")
}

/// How many sagas order's totals say are open.
pub fn open(totals: &Totals) -> i128 {
    let of = |name: &str| total(totals, name);
    of("started") + of("recovered") - of("completed") - of("failed")
}

/// Something is as large as it should be.
pub fn equal(rule: Rule, about: &str, expected: i128, actual: i128) -> Option<Finding> {
    (expected != actual).then(|| Finding::new(rule, about, expected.to_string(), actual.to_string()))
}

/// Something is at most as large as it may be.
pub fn at_most(rule: Rule, about: &str, most: i128, actual: i128) -> Option<Finding> {
    (actual > most).then(|| Finding::new(rule, about, format!("at most {most}"), actual.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(pairs: &[(&str, i128)]) -> Totals {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn what_was_carried_over_counts() {
        let totals = totals(&[("initial", 7), ("initial_carried", 2), ("debited", 5)]);
        assert_eq!(total(&totals, "initial"), 7 + (2 << 62));
        assert_eq!(credit(&totals), 2 + (2 << 62));
    }

    #[test]
    fn each_counter_is_on_its_side() {
        let all = [
            ("initial", 1),
            ("replaced", 2),
            ("deposited", 4),
            ("paid", 8),
            ("debited", 16),
            ("refunded", 32),
            ("uncovered", 64),
        ];
        assert_eq!(credit(&totals(&all)), 1 - 2 + 4 - 8 - 16 + 32 + 64);
        let all =
            [("initial", 1), ("replaced", 2), ("added", 4), ("subtracted", 8), ("reserved", 16), ("uncovered", 32)];
        assert_eq!(pieces(&totals(&all)), 1 - 2 + 4 - 8 - 16 + 32);
        let all = [("started", 64), ("recovered", 2), ("completed", 4), ("failed", 8)];
        assert_eq!(open(&totals(&all)), 54);
    }
}
