//! What can be wrong between two processes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens to the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// They come later by so many milliseconds, each way.
    Delay(u64),
    /// They stay where they are until this is over, as where packets are dropped and sent again. New connections likewise.
    Hold,
    /// One end is closed, and the other does not hear of it: what it sends is swallowed, until at last it is told by a reset. As where a
    /// machine dies and comes back. New connections are like that from the beginning.
    HalfOpen {
        /// Whether it is the end that has connected which does not hear of it; else the end that has accepted.
        client: bool,
    },
    /// Connections are reset, also new ones.
    Cut,
}

/// Something that is wrong between some processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Names of processes on the one side.
    pub one: Vec<String>,
    /// And on the other; none of them means all other processes of the platform.
    pub other: Vec<String>,
    /// What is wrong.
    pub trouble: Trouble,
}

impl Fault {
    /// Whether it meets what is between these two, whoever of them has connected.
    #[must_use]
    pub fn is_between(&self, from: &str, to: &str) -> bool {
        let is_one = |name: &str| self.one.iter().any(|it| it == name);
        let is_other = |name: &str| self.other.is_empty() || self.other.iter().any(|it| it == name);
        is_one(from) && is_other(to) || is_one(to) && is_other(from)
    }
}

/// What several faults together do to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// How much later bytes come.
    pub delay: Duration,
    /// Whether they stay where they are.
    pub is_held: bool,
    /// What ends the connection.
    pub broken: Option<Broken>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// For both ends.
    Cut,
    /// For one end only, see [`Trouble::HalfOpen`].
    HalfOpen {
        /// Whether the end that has connected does not hear of it.
        client: bool,
    },
}

impl Weather {
    /// What these faults do between two processes. One that nobody knows is no part of the platform, and spared.
    #[must_use]
    pub fn between<'a>(faults: impl IntoIterator<Item = &'a Fault>, from: Option<&str>, to: &str) -> Self {
        let mut weather = Self::default();
        let Some(from) = from else { return weather };
        for fault in faults.into_iter().filter(|fault| fault.is_between(from, to)) {
            match fault.trouble {
                Trouble::Delay(ms) => weather.delay = weather.delay.max(Duration::from_millis(ms)),
                Trouble::Hold => weather.is_held = true,
                Trouble::HalfOpen { client } if weather.broken.is_none() => {
                    weather.broken = Some(Broken::HalfOpen { client });
                }
                Trouble::HalfOpen { .. } => {}
                Trouble::Cut => weather.broken = Some(Broken::Cut),
            }
        }
        weather
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(one: &[&str], other: &[&str], trouble: Trouble) -> Fault {
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        Fault { one: owned(one), other: owned(other), trouble }
    }

    #[test]
    fn a_fault_meets_a_pair_whoever_connects_and_nobody_else() {
        let cut = fault(&["order-1"], &["nats-1", "nats-2"], Trouble::Cut);
        assert!(cut.is_between("order-1", "nats-2") && cut.is_between("nats-2", "order-1"));
        assert!(!cut.is_between("order-2", "nats-2") && !cut.is_between("nats-1", "nats-2"));
        let alone = fault(&["order-1"], &[], Trouble::Cut);
        assert!(alone.is_between("order-1", "redis-order-3") && alone.is_between("gateway", "order-1"));
        assert!(!alone.is_between("order-2", "redis-order-3"));
    }

    #[test]
    fn several_faults_add_up_and_the_worst_end_counts() {
        let faults = [
            fault(&["a"], &["b"], Trouble::Delay(50)),
            fault(&["b"], &["a"], Trouble::Delay(20)),
            fault(&["b"], &["a"], Trouble::Cut),
            fault(&["a"], &["b"], Trouble::HalfOpen { client: true }),
        ];
        let weather = Weather::between(&faults, Some("a"), "b");
        let expected = Weather { delay: Duration::from_millis(50), is_held: false, broken: Some(Broken::Cut) };
        assert_eq!(weather, expected);
        assert_eq!(Weather::between(&faults, None, "b"), Weather::default(), "a stranger is spared");
    }
}
