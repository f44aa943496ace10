//! Faults between processes: who is meant, and what it does to them.

use std::time::Duration;

use crate::chaos::faults::field::Field;
use crate::chaos::faults::hurt::{MOVED, Outcome, nothing, outcome, standing};
use crate::chaos::faults::kind::{Act, Link, Victim};
use crate::chaos::faults::schedule::Planned;
use crate::links::Held;
use crate::links::fault::{Fault, Trouble};
use crate::service::Service;

/// Shortest and longest delay, each way, in milliseconds.
const DELAYS_MS: (u64, u64) = (20, 500);

/// Those between whom it is.
struct Ends {
    one: String,
    /// All others, where there is none.
    other: Vec<String>,
}

impl Ends {
    fn told(&self) -> String {
        match &self.other[..] {
            [] => format!("{} and everybody", self.one),
            [other] => format!("{} and {other}", self.one),
            [first, ..] => {
                let group = first.rsplit_once('-').map_or(first.as_str(), |(group, _)| group);
                format!("{} and every {group}", self.one)
            }
        }
    }
}

/// Carries a fault out, for the time that it lasts.
pub async fn hurt(field: &Field, link: Link, planned: &Planned) -> Outcome {
    let Some(trouble) = trouble(planned) else { return nothing("-", "nothing that can be between two") };
    let Some(ends) = ends(field, link, planned).await else { return nothing("-", "nobody to hurt") };
    let (target, role) = (ends.told(), role(link));
    let before = standing(field, role).await;
    let fault = Fault { one: vec![ends.one], other: ends.other, trouble };
    let held = match Held::begin(field.folder(), &fault).await {
        Ok(held) => held,
        Err(why) => return nothing(&target, why),
    };
    tokio::time::sleep(planned.lasts).await;
    let met_first = held.met;
    let met = held.end().await.unwrap_or(met_first);
    let after = standing(field, role).await;
    let moved = before.is_some() && after.is_some() && before != after;
    let done = format!("{}, {met} connections{}", told(trouble, planned.lasts), if moved { MOVED } else { "" });
    if met == 0 { nothing(&target, done) } else { outcome(&target, done) }
}

fn trouble(planned: &Planned) -> Option<Trouble> {
    let (shortest, longest) = DELAYS_MS;
    Some(match planned.kind.act {
        Act::Cut => Trouble::Cut,
        Act::Hold => Trouble::Hold,
        Act::HalfOpen => Trouble::HalfOpen { client: planned.dose.is_multiple_of(2) },
        Act::Delay => Trouble::Delay(shortest + planned.dose % (longest - shortest)),
        _ => return None,
    })
}

fn told(trouble: Trouble, lasts: Duration) -> String {
    let seconds = lasts.as_secs_f64();
    match trouble {
        Trouble::Delay(ms) => format!("{ms} ms later for {seconds:.1} s"),
        Trouble::Hold => format!("nothing came for {seconds:.1} s"),
        Trouble::HalfOpen { client: true } => format!("the server's end gone for {seconds:.1} s"),
        Trouble::HalfOpen { client: false } => format!("the client's end gone for {seconds:.1} s"),
        Trouble::Cut => format!("cut for {seconds:.1} s"),
    }
}

/// Whose place another one might take.
fn role(link: Link) -> Victim {
    match link {
        Link::ReplicaPrimary(service) | Link::AroundPrimary(service) => Victim::Primary(service),
        Link::NatsNats | Link::AroundLeader => Victim::Leader,
        _ => Victim::Link(link),
    }
}

async fn ends(field: &Field, link: Link, planned: &Planned) -> Option<Ends> {
    let pick = planned.pick;
    let one_of = |names: &[String]| names.get(pick % names.len().max(1)).cloned();
    let instance = |service: Service| one_of(&field.instances(service));
    let nodes = |service: Service| field.names(&format!("redis-{service}"));
    Some(match link {
        Link::GatewayService(service) => Ends { one: instance(service)?, other: vec!["gateway".to_owned()] },
        Link::ServiceRedis(service) => Ends { one: instance(service)?, other: nodes(service) },
        Link::ServiceNats(service) => Ends { one: instance(service)?, other: field.names("nats-") },
        Link::ServiceSentinel(service) => Ends { one: instance(service)?, other: field.names("sentinel-") },
        Link::AroundService(service) => Ends { one: instance(service)?, other: Vec::new() },
        Link::AroundSentinel => Ends { one: one_of(&field.names("sentinel-"))?, other: Vec::new() },
        Link::ReplicaPrimary(service) => {
            let primary = field.primary(service).await?;
            let replicas: Vec<String> = nodes(service).into_iter().filter(|name| *name != primary).collect();
            Ends { one: primary, other: vec![one_of(&replicas)?] }
        }
        Link::AroundPrimary(service) => Ends { one: field.primary(service).await?, other: Vec::new() },
        Link::NatsNats => {
            let servers = field.names("nats-");
            let one = one_of(&servers)?;
            let others: Vec<String> = servers.into_iter().filter(|name| *name != one).collect();
            let other = others.get(pick / 3 % others.len().max(1)).cloned()?;
            Ends { one, other: vec![other] }
        }
        Link::AroundLeader => Ends { one: field.leader().await?, other: Vec::new() },
    })
}
