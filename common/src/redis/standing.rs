//! Which replicas matter to a write: what the sentinels hold of each.

use std::collections::{HashMap, HashSet};

/// Which replicas must have a write before anybody is told of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needed {
    /// How many there are, those included that do not matter now. When all have it, nobody need ask which.
    pub(super) all: usize,
    /// Those that could be made the primary, as `host:port`, by which the primary knows them as well. Nothing where too few sentinels are
    /// heard to say: then all must have it.
    pub(super) promotable: Option<HashSet<String>>,
    /// Those that no sentinel would choose, because they say so themselves.
    pub(super) barred: HashSet<String>,
}

/// What a sentinel holds of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It could be made the primary.
    Promotable,
    /// It could not: it is away, or not linked, so far as is known.
    Excused,
    /// It could not because it says so itself: its priority is 0.
    Barred,
}

/// What a sentinel says of one server, by name.
pub(super) type Facts = HashMap<String, String>;

pub(super) fn fact<'a>(facts: &'a Facts, name: &str) -> &'a str {
    facts.get(name).map(String::as_str).unwrap_or_default()
}

pub(super) fn has_flag(facts: &Facts, flag: &str) -> bool {
    fact(facts, "flags").split(',').any(|it| it == flag)
}

/// Whether a sentinel could make this replica the primary, or is doing so: the conditions of Sentinel's own choice (`sentinelSelectSlave`), and
/// that the replica is linked to its primary. One that is not has less than the others, of which the one that has most is chosen.
pub(super) fn standing(facts: &Facts) -> Standing {
    if has_flag(facts, "promoted") {
        return Standing::Promotable;
    }
    if fact(facts, "slave-priority") == "0" {
        return Standing::Barred;
    }
    let is_away = ["s_down", "o_down", "disconnected"].into_iter().any(|flag| has_flag(facts, flag));
    let is_known = fact(facts, "info-refresh") != "0";
    let is_linked = fact(facts, "master-link-status") == "ok";
    if !is_away && is_known && is_linked { Standing::Promotable } else { Standing::Excused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_promotable_as_sentinel_sees_it() {
        let good =
            [("flags", "slave"), ("info-refresh", "312"), ("slave-priority", "100"), ("master-link-status", "ok")];
        let with = |name: &str, value: &str| {
            let mut facts: Facts = good.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            facts.insert(name.to_owned(), value.to_owned());
            standing(&facts)
        };
        assert_eq!(with("flags", "slave"), Standing::Promotable);
        assert_eq!(with("flags", "slave,s_down,promoted"), Standing::Promotable, "it is being made the primary");
        assert_eq!(with("slave-priority", "0"), Standing::Barred);
        for (name, value) in [
            ("flags", "s_down,slave"),
            ("flags", "slave,disconnected"),
            ("info-refresh", "0"),
            ("master-link-status", "err"),
        ] {
            assert_eq!(with(name, value), Standing::Excused, "{name}: {value}");
        }
    }
}
