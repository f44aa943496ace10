//! Sending a group so that its replies are safe to tell: replicas have what was written, and what was read.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;

use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Value};
use tokio::time::Instant;

use super::connection::{Connector, Open, superseded, trouble};
use super::standing::Needed;

/// What every group writes last where replicas are required. `WAIT` asks whether the replicas have what *this connection* has written;
/// on a new connection a read, or a repeat that is answered from its record, would be told yes although nothing was replicated since
/// (so it is in Redis from 7.2 on, and in Valkey). The mark is later in the log than everything that the group has done or seen, so its
/// being replicated says it of all.
const MARK: &str = "replication:mark";

/// How long the server waits for its replicas at first, in milliseconds: far longer than healthy ones take, and short for those whose
/// group was refused, because the server waits then too.
const FIRST_WAIT_MS: u64 = 20;
/// How long it waits from then on before it says how many it has reached, in milliseconds. It is asked again each time, because which
/// are needed may have changed: one of them is held to be dead now.
const NEXT_WAIT_MS: u64 = 200;
/// A replica that has confirmed something within so many seconds is linked, whatever the sentinels know of it, and confirms the group
/// as well in a moment: each does so every second (Redis, `replicationCron`).
const LIVELY_S: i64 = 1;
/// For how long one that is not so any more is waited for all the same, even where no sentinel is known to hold it for electable: it may
/// have gone because it has just been made the primary. That is heard of a second later at most, when the leading sentinel asks it who it is.
const MISSED_FOR: Duration = Duration::from_secs(3);
/// How long a group waits before a log line says for whom.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends `count` commands and returns their replies when replicas have everything that they have done or seen: `at_least` so many, and
/// all that could be made the primary. How long that may take is the caller's to say: what is given up half-way may have been
/// carried out. Where the server refuses the mark, its error comes last and is one more reply.
pub(super) async fn exchange(
    connector: &Connector,
    open: &mut Open,
    mut pipeline: Pipeline,
    count: usize,
    at_least: usize,
) -> RedisResult<Vec<Value>> {
    if at_least == 0 {
        return open.connection.send_packed_commands(&pipeline, 0, count).await;
    }
    let mut wait = Wait { at_least, reached: 0, offset: None, links: None };
    pipeline.cmd("SET").arg(MARK).arg(1);
    let asked = wait.ask(&mut pipeline, connector.needed(open).as_ref(), FIRST_WAIT_MS);
    let mut values = open.connection.send_packed_commands(&pipeline, 0, count + 1 + asked).await?;
    let mut answers = values.split_off(count + 1);
    if !matches!(values.last(), Some(Value::Okay)) {
        return Ok(values);
    }
    values.pop();
    let (started, mut is_told) = (Instant::now(), false);
    loop {
        let needed = connector.needed(open);
        wait.hear(answers, needed.as_ref(), &mut open.lively)?;
        if wait.is_over(needed.as_ref(), &open.lively) {
            // What the sentinels said just now may have been of the next primary's replicas already.
            return if connector.is_superseded(open) { Err(superseded()) } else { Ok(values) };
        }
        if started.elapsed() > PATIENCE && !std::mem::replace(&mut is_told, true) {
            let Wait { reached, links, .. } = &wait;
            tracing::warn!(reached, ?links, ?needed, at_least, "a group waits for replicas that do not have it");
        }
        let mut pipeline = Pipeline::new();
        let asked = wait.ask(&mut pipeline, needed.as_ref(), NEXT_WAIT_MS);
        answers = open.connection.send_packed_commands(&pipeline, 0, asked).await?;
    }
}

/// Replicas that were linked a moment ago, and when that was last seen; by `host:port`.
pub(super) type Lively = HashMap<String, Instant>;

/// What is known of the replicas of one group.
struct Wait {
    /// How many must have it, whatever the sentinels say.
    at_least: usize,
    /// How many have it.
    reached: usize,
    /// Who has so much of the log has the group; known as soon as it was asked for.
    offset: Option<u64>,
    /// Each replica, where that was asked.
    links: Option<Vec<Link>>,
}

/// A replica, as its primary sees it (`INFO`, section *replication*).
#[derive(Debug, PartialEq, Eq)]
struct Link {
    /// `host:port`, as the sentinels know it.
    address: String,
    /// How much of the log it has confirmed.
    offset: u64,
    /// For how many seconds it has confirmed nothing. The server computes it from two clocks, so it can be -1.
    lag_s: i64,
}

impl Wait {
    /// Asks how many replicas have the group, and which, where that matters. Returns the number of answers.
    fn ask(&self, pipeline: &mut Pipeline, needed: Option<&Needed>, patience_ms: u64) -> usize {
        let promotable = needed.and_then(|needed| Some((needed, needed.promotable.as_ref()?)));
        let by_name = promotable.filter(|(needed, promotable)| promotable.len() < needed.all.max(self.at_least));
        let number = by_name.map_or_else(|| needed.map_or(0, |needed| needed.all), |(_, promotable)| promotable.len());
        let number = number.max(self.at_least);
        // The server asks its replicas only while fewer have it than this. Where so many do, and they are not those that matter, it is to ask
        // the others, and not for long, because it would not notice when it is they who answer.
        let is_enough = by_name.is_some() && self.reached >= number;
        let (number, patience_ms) = if is_enough { (self.reached + 1, FIRST_WAIT_MS) } else { (number, patience_ms) };
        if by_name.is_some() {
            pipeline.cmd("INFO").arg("replication");
        }
        pipeline.cmd("WAIT").arg(number).arg(patience_ms);
        if by_name.is_none() {
            return 1;
        }
        pipeline.cmd("INFO").arg("replication");
        3
    }

    /// Takes the answers to [`Wait::ask`].
    fn hear(&mut self, mut answers: Vec<Value>, needed: Option<&Needed>, lively: &mut Lively) -> RedisResult<()> {
        self.links = None;
        if answers.len() > 1 {
            let (offset, _) = read(answers.remove(0))?;
            self.offset.get_or_insert(offset);
            let (_, links) = answers.pop().map(read).transpose()?.unwrap_or_default();
            let now = Instant::now();
            lively.retain(|_, last| now.duration_since(*last) < MISSED_FOR);
            // One that is being copied to gives signs of life, and has confirmed nothing. A sentinel may choose it as soon as the copy is read,
            // which is before it has what was written since. Only where that is known to be impossible, nobody waits for so long.
            let is_barred = |link: &Link| needed.is_some_and(|needed| needed.barred.contains(&link.address));
            let is_lively = |link: &&Link| link.lag_s <= LIVELY_S && (link.offset > 0 || !is_barred(link));
            lively.extend(links.iter().filter(is_lively).map(|link| (link.address.clone(), now)));
            self.links = Some(links);
        }
        self.reached = match answers.pop() {
            Some(Value::Int(reached)) => usize::try_from(reached).unwrap_or(0),
            Some(Value::ServerError(error)) => return Err(RedisError::from(error)),
            _ => return Err(trouble(ErrorKind::InvalidData, "WAIT was not answered with a number")),
        };
        Ok(())
    }

    /// Whether the group is safe: all replicas have it, or those that could be made the primary and those that were linked just now.
    fn is_over(&self, needed: Option<&Needed>, lively: &Lively) -> bool {
        let Some(needed) = needed else { return self.reached >= self.at_least };
        if self.reached >= needed.all.max(self.at_least) {
            return true;
        }
        let (Some(promotable), Some(offset), Some(links)) = (&needed.promotable, self.offset, &self.links) else {
            return false;
        };
        let has_it = |address: &String| links.iter().any(|link| link.address == *address && link.offset >= offset);
        self.reached >= self.at_least && promotable.iter().all(has_it) && lively.keys().all(has_it)
    }
}

/// Reads how long the log is and who follows it. One to which a copy is still on its way is not among them.
fn read(info: Value) -> RedisResult<(u64, Vec<Link>)> {
    let info = String::from_redis_value(info)?;
    let (mut offset, mut links) = (None, Vec::new());
    for (name, value) in info.lines().filter_map(|line| line.split_once(':')) {
        if name == "master_repl_offset" {
            offset = value.parse().ok();
        } else if name.strip_prefix("slave").is_some_and(|number| number.parse::<u32>().is_ok()) {
            let link = link(value).ok_or_else(|| trouble(ErrorKind::InvalidData, "INFO tells nothing of a replica"))?;
            links.extend(link);
        }
    }
    let offset = offset.ok_or_else(|| trouble(ErrorKind::InvalidData, "INFO does not tell the length of the log"))?;
    Ok((offset, links))
}

/// `ip=…,port=…,state=online,offset=…,lag=…`, and whatever a later server adds.
fn link(line: &str) -> Option<Option<Link>> {
    let fact = |name: &str| line.split(',').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name);
    let fact = |name: &str| fact(name).map(|(_, value)| value);
    if fact("state")? != "online" {
        return Some(None);
    }
    let address = format!("{}:{}", fact("ip")?, fact("port")?);
    Some(Some(Link { address, offset: fact("offset")?.parse().ok()?, lag_s: fact("lag")?.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const INFO: &str = "# Replication\r\nrole:master\r\nconnected_slaves:3\r\nmin_slaves_good_slaves:2\r\n\
        slave0:ip=10.0.0.2,port=6379,state=online,offset=1000,lag=-1\r\n\
        slave1:ip=::1,port=6380,state=online,offset=900,lag=3,type=replica\r\n\
        slave2:ip=10.0.0.4,port=6379,state=wait_bgsave,offset=0,lag=0\r\n\
        slaves_waiting_psync:0\r\nmaster_replid:ab\r\nmaster_repl_offset:1010\r\n";

    fn link(address: &str, offset: u64, lag_s: i64) -> Link {
        Link { address: address.into(), offset, lag_s }
    }

    #[test]
    fn info_says_who_follows_and_how_far() {
        let followed = vec![link("10.0.0.2:6379", 1000, -1), link("::1:6380", 900, 3)];
        assert_eq!(read(Value::BulkString(INFO.into())).unwrap(), (1010, followed));
        for wrong in [INFO.replace("master_repl_offset:1010", "x:1"), INFO.replace("offset=900", "offset=?")] {
            assert!(read(Value::BulkString(wrong.into())).is_err());
        }
        assert!(read(Value::Nil).is_err());
    }

    /// Whether a group is safe that is among the first hundred bytes of the log, where `a` is electable, `c` is barred, and `b` is neither.
    fn is_safe(lively: &mut Lively, links: &[Link]) -> bool {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        let needed = Needed { all: 3, promotable: Some(names(&["a:1"])), barred: names(&["c:1"]) };
        let tell = |(number, link): (usize, &Link)| {
            format!(
                "slave{number}:ip={},port=1,state=online,offset={},lag={}\r\n",
                link.address, link.offset, link.lag_s
            )
        };
        let told: String = links.iter().enumerate().map(tell).collect();
        let info = || Value::BulkString(format!("{told}master_repl_offset:100\r\n").into());
        let reached = links.iter().filter(|link| link.offset >= 100).count();
        let mut wait = Wait { at_least: 1, reached: 0, offset: None, links: None };
        let answers = vec![info(), Value::Int(i64::try_from(reached).unwrap()), info()];
        wait.hear(answers, Some(&needed), lively).unwrap();
        wait.is_over(Some(&needed), lively)
    }

    #[test]
    fn who_could_be_chosen_and_who_soon_could_must_have_it() {
        let has_it = || link("a", 100, 0);
        for (is_expected, links, why) in [
            (true, vec![has_it()], "the only one that could be chosen has it"),
            (false, vec![link("a", 99, 0)], "it does not"),
            (false, vec![link("b", 100, 0)], "another one does"),
            (false, vec![], "nobody does"),
            (false, vec![has_it(), link("b", 99, 1)], "one is linked, which the sentinels will soon hear"),
            (true, vec![has_it(), link("b", 99, 2)], "its link is cut"),
            (false, vec![has_it(), link("b", 0, 0)], "a sentinel may choose it when the copy is read"),
            (true, vec![has_it(), link("c", 0, 0)], "none chooses that one before it lets itself be chosen"),
            (false, vec![has_it(), link("c", 99, 0)], "which it may do now"),
        ] {
            assert_eq!(is_safe(&mut Lively::new(), &links), is_expected, "{why}");
        }
    }

    #[test]
    fn who_has_just_gone_may_be_the_primary_by_now() {
        let mut lively = Lively::new();
        assert!(is_safe(&mut lively, &[link("a", 100, 0), link("b", 100, 0)]));
        assert!(!is_safe(&mut lively, &[link("a", 100, 0)]));
    }
}
