//! What can be done to whom.

use std::fmt;

use crate::failure::Failure;
use crate::service::Service;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// `kill -9`.
    Kill,
    /// SIGSTOP, and SIGCONT after a while: long enough that others take its place.
    Pause,
    /// SIGTERM: it ends in peace, and is started again.
    Restart,
    /// `kill -9`, and everything it has on its disk is gone.
    Wipe,
    /// Another node is made the primary by command.
    Failover,
    /// One replica falls behind, and then the primary is killed and loses its disk.
    Lag,
    /// There is no room left on its disk, for a while.
    Fill,
    /// Connections between two are reset, and new ones too, for a while.
    Cut,
    /// What two say to each other comes later.
    Delay,
    /// What two say to each other does not come until the end, as where packets are dropped.
    Hold,
    /// One end of each connection is closed, and the other does not hear of it until the end.
    HalfOpen,
    /// Every message is taken out of the stream.
    Purge,
    /// The stream is deleted, with its durables.
    Delete,
    /// Everything is restarted, one process after the other.
    Roll,
    /// A command of the person's own is run.
    Command,
}

/// To whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Victim {
    /// One instance of a service.
    Instance(Service),
    /// The one port.
    Gateway,
    /// The only node of a database, where it has one.
    Database(Service),
    /// The node that is the primary at that moment.
    Primary(Service),
    /// One that is not.
    Replica(Service),
    /// One of those who choose primaries.
    Sentinel,
    /// The only nats-server, or any of them.
    Nats,
    /// The one that leads the stream at that moment.
    Leader,
    /// The stream of all events.
    Stream,
    /// What is between two.
    Link(Link),
    /// Everything.
    Platform,
}

/// Between whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// The gateway and one instance.
    GatewayService(Service),
    /// One instance and all nodes of its database.
    ServiceRedis(Service),
    /// One instance and NATS.
    ServiceNats(Service),
    /// One instance and all who choose primaries.
    ServiceSentinel(Service),
    /// One instance and everybody.
    AroundService(Service),
    /// One of those who choose primaries and everybody.
    AroundSentinel,
    /// The primary of a database and one of its replicas.
    ReplicaPrimary(Service),
    /// The primary of a database and everybody.
    AroundPrimary(Service),
    /// Two nats-servers.
    NatsNats,
    /// The nats-server that leads the stream and everybody.
    AroundLeader,
}

impl Link {
    fn name(self) -> &'static str {
        match self {
            Self::GatewayService(_) => "gateway-service",
            Self::ServiceRedis(_) => "service-redis",
            Self::ServiceNats(_) => "service-nats",
            Self::ServiceSentinel(_) => "service-sentinel",
            Self::AroundService(_) => "around-service",
            Self::AroundSentinel => "around-sentinel",
            Self::ReplicaPrimary(_) => "replica-primary",
            Self::AroundPrimary(_) => "around-primary",
            Self::NatsNats => "nats-nats",
            Self::AroundLeader => "around-leader",
        }
    }

    fn lane(self, number: usize) -> Lane {
        match self {
            Self::GatewayService(service)
            | Self::ServiceRedis(service)
            | Self::ServiceNats(service)
            | Self::ServiceSentinel(service)
            | Self::AroundService(service) => Lane::Instance(service, number),
            Self::AroundSentinel => Lane::Sentinels,
            Self::ReplicaPrimary(service) | Self::AroundPrimary(service) => Lane::Redis(service),
            Self::NatsNats | Self::AroundLeader => Lane::Nats,
        }
    }

    /// All that there are on a platform with (`ha`) or without replicas.
    fn all(ha: bool) -> Vec<Self> {
        let of_each = [Self::GatewayService, Self::ServiceRedis, Self::ServiceNats, Self::AroundService];
        let mut all: Vec<Self> = of_each.into_iter().flat_map(|link| Service::ALL.map(link)).collect();
        if ha {
            all.extend(Service::ALL.map(Self::ServiceSentinel));
            all.extend([Self::AroundSentinel, Self::NatsNats, Self::AroundLeader]);
            all.extend(Service::ALL.into_iter().flat_map(|it| [Self::ReplicaPrimary(it), Self::AroundPrimary(it)]));
        }
        all
    }
}

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// What is done.
    pub act: Act,
    /// To whom.
    pub victim: Victim,
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Wipe => "wipe",
            Self::Failover => "failover",
            Self::Lag => "lag",
            Self::Fill => "fill",
            Self::Cut => "cut",
            Self::Delay => "delay",
            Self::Hold => "hold",
            Self::HalfOpen => "half-open",
            Self::Purge => "purge",
            Self::Delete => "delete",
            Self::Roll => "roll",
            Self::Command => "command",
        }
    }
}

impl Victim {
    /// As it is called in `--faults`; the three services' databases share a name.
    fn name(self) -> &'static str {
        match self {
            Self::Instance(service) => service.name(),
            Self::Gateway => "gateway",
            Self::Database(_) => "redis",
            Self::Primary(_) => "primary",
            Self::Replica(_) => "replica",
            Self::Sentinel => "sentinel",
            Self::Nats => "nats",
            Self::Leader => "nats-leader",
            Self::Stream => "stream",
            Self::Link(link) => link.name(),
            Self::Platform => "all",
        }
    }

    /// A wider name.
    fn group(self) -> &'static str {
        match self {
            Self::Instance(_) => "service",
            Self::Database(_) | Self::Primary(_) | Self::Replica(_) => "redis",
            Self::Nats | Self::Leader | Self::Stream => "nats",
            Self::Link(_) => "link",
            other => other.name(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.act.name(), self.victim.name())
    }
}

/// Faults that do not meet each other: within a lane there is one at a time, and the next waits until all is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// One instance of a service, by its number from 0 on. Another one may be hurt at the same time, of this service or of another.
    Instance(Service, usize),
    /// The one port.
    Gateway,
    /// The nodes of one database: two losses at once are more than three nodes promise to bear.
    Redis(Service),
    /// Likewise.
    Sentinels,
    /// Likewise; and a deleted stream cannot be made again while a server is away.
    Nats,
    /// What concerns all; nothing else happens meanwhile.
    Platform,
}

impl Lane {
    /// All that there are on a platform with so many instances of each service.
    pub fn all(instances: impl Fn(Service) -> usize) -> Vec<Self> {
        let of = |service| (0..instances(service)).map(move |number| Self::Instance(service, number));
        let mut all: Vec<Self> = Service::ALL.into_iter().flat_map(of).collect();
        all.extend([Self::Gateway, Self::Sentinels, Self::Nats, Self::Platform]);
        all.extend(Service::ALL.map(Self::Redis));
        all
    }

    /// The number of the instance, where there are several lanes of one kind.
    fn number(self) -> usize {
        if let Self::Instance(_, number) = self { number } else { 0 }
    }

    /// Whether a fault happens there.
    #[must_use]
    pub fn takes(self, kind: Kind) -> bool {
        kind.lane(self.number()) == self
    }
}

impl Kind {
    /// Where it happens; to which instance, where there are several of a service.
    fn lane(self, number: usize) -> Lane {
        match self.victim {
            Victim::Instance(service) => Lane::Instance(service, number),
            Victim::Gateway => Lane::Gateway,
            Victim::Database(service) | Victim::Primary(service) | Victim::Replica(service) => Lane::Redis(service),
            Victim::Sentinel => Lane::Sentinels,
            Victim::Nats | Victim::Leader | Victim::Stream => Lane::Nats,
            Victim::Link(link) => link.lane(number),
            Victim::Platform => Lane::Platform,
        }
    }

    /// Whether a word of `--faults` means it.
    fn is_meant_by(self, word: &str) -> bool {
        let parts = [self.act.name(), self.victim.name(), self.victim.group()];
        match word.split_once(':') {
            Some((act, victim)) => act == parts[0] && (victim == parts[1] || victim == parts[2]),
            None => word == "all" || parts.contains(&word),
        }
    }

    /// All that there are on a platform with (`ha`) or without replicas. A disk is only taken where others have what was on it.
    #[must_use]
    pub fn all(ha: bool) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |victim, acts: &[Act]| all.extend(acts.iter().map(|act| Self { act: *act, victim }));
        let usual = [Act::Kill, Act::Pause, Act::Restart];
        let usual_and_wipe = [Act::Kill, Act::Pause, Act::Restart, Act::Wipe];
        for service in Service::ALL {
            add(Victim::Instance(service), &usual);
            if ha {
                add(Victim::Primary(service), &usual_and_wipe);
                add(Victim::Primary(service), &[Act::Failover, Act::Lag, Act::Fill]);
                add(Victim::Replica(service), &usual_and_wipe);
                add(Victim::Replica(service), &[Act::Fill]);
            } else {
                add(Victim::Database(service), &usual);
                add(Victim::Database(service), &[Act::Fill]);
            }
        }
        add(Victim::Gateway, &usual);
        if ha {
            add(Victim::Sentinel, &usual_and_wipe);
            add(Victim::Nats, &usual_and_wipe);
            add(Victim::Leader, &usual);
        } else {
            add(Victim::Nats, &usual);
        }
        add(Victim::Stream, &[Act::Purge, Act::Delete]);
        add(Victim::Platform, &[Act::Roll]);
        for link in Link::all(ha) {
            add(Victim::Link(link), &[Act::Cut, Act::Delay, Act::Hold, Act::HalfOpen]);
        }
        all
    }

    /// Whether it happens between processes, for which all connections must go through [`crate::links`].
    #[must_use]
    pub fn needs_links(self) -> bool {
        matches!(self.victim, Victim::Link(_)) || self.act == Act::Lag
    }

    /// Those that `--faults` names.
    ///
    /// # Errors
    /// A word means none of them.
    pub fn chosen(words: &[String], ha: bool) -> Result<Vec<Self>, Failure> {
        let all = Self::all(ha);
        if words.iter().any(|word| word == "none") {
            return Ok(Vec::new());
        }
        for word in words {
            if !all.iter().any(|kind| kind.is_meant_by(word)) {
                let mut names: Vec<String> = all.iter().map(ToString::to_string).collect();
                names.sort();
                names.dedup();
                return Err(Failure::usage(format!(
                    "--faults {word}: there is no such fault on this platform; there are all, none, {}, and each part of these \
                     names by itself, and service",
                    names.join(", ")
                )));
            }
        }
        Ok(all.into_iter().filter(|kind| words.iter().any(|word| kind.is_meant_by(word))).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chosen(words: &str, ha: bool) -> Result<Vec<String>, Failure> {
        let words: Vec<String> = words.split(',').map(str::to_owned).collect();
        let kinds = Kind::chosen(&words, ha)?;
        Ok(kinds.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn faults_are_chosen_by_act_by_victim_or_by_both() {
        assert_eq!(chosen("kill:order", false).unwrap(), ["kill:order"]);
        assert_eq!(chosen("kill:service", false).unwrap(), ["kill:order", "kill:payment", "kill:stock"]);
        assert_eq!(chosen("failover", true).unwrap(), ["failover:primary"; 3]);
        assert_eq!(
            chosen("gateway,delete", false).unwrap(),
            ["kill:gateway", "pause:gateway", "restart:gateway", "delete:stream"]
        );
        assert_eq!(chosen("none", true).unwrap(), [""; 0]);
        assert_eq!(chosen("all", true).unwrap().len(), Kind::all(true).len());
    }

    #[test]
    fn a_fault_that_is_none_here_is_refused_and_the_others_are_named() {
        let failure = chosen("failover", false).unwrap_err();
        assert_eq!(failure.exit_code(), 64);
        assert!(failure.to_string().contains("kill:redis"), "{failure}");
    }

    #[test]
    fn links_are_chosen_together_or_by_what_they_are_between() {
        let acts = ["cut", "delay", "hold", "half-open"];
        assert_eq!(chosen("link", false).unwrap().len(), 4 * Service::ALL.len() * acts.len());
        assert_eq!(chosen("nats-nats", true).unwrap(), acts.map(|act| format!("{act}:nats-nats")));
        assert_eq!(chosen("cut:around-primary", true).unwrap(), ["cut:around-primary"; 3]);
        assert!(chosen("cut:around-primary", false).is_err());
    }

    #[test]
    fn each_instance_has_a_lane_of_its_own_and_each_kind_one_on_every_platform() {
        let lanes = Lane::all(|service| if service == Service::Order { 2 } else { 1 });
        let of = |victim| {
            let kind = Kind { act: Act::Kill, victim };
            lanes.iter().copied().filter(|lane| lane.takes(kind)).collect::<Vec<_>>()
        };
        let both = [Lane::Instance(Service::Order, 0), Lane::Instance(Service::Order, 1)];
        assert_eq!(of(Victim::Instance(Service::Order)), both);
        assert_eq!(of(Victim::Link(Link::ServiceNats(Service::Order))), both);
        assert_eq!(of(Victim::Instance(Service::Payment)), [Lane::Instance(Service::Payment, 0)]);
        assert_eq!(of(Victim::Gateway), [Lane::Gateway]);
        for kind in Kind::all(true) {
            assert!(lanes.iter().any(|lane| lane.takes(kind)), "{kind}");
        }
    }

    #[test]
    fn without_replicas_nothing_is_wiped() {
        assert!(Kind::all(false).iter().all(|kind| kind.act != Act::Wipe));
    }
}
