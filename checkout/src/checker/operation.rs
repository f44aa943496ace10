//! One wish of a client, however often it was sent: all requests with one idempotency key, or a single request without one.

use std::collections::HashMap;

use super::history::{Command, Exchange, Meaning};
use super::verdict::{Rule, Verdict};

/// All requests of one wish.
#[derive(Debug)]
pub struct Operation<'a> {
    /// In the order in which they were sent.
    pub requests: Vec<&'a Exchange>,
}

/// Problems that tell nothing of the wish itself: another request with its key is under way, or nobody took it in hand.
const ABOUT_THE_REQUEST: [&str; 2] = ["idempotency-key-in-use", "overloaded"];

impl<'a> Operation<'a> {
    /// All wishes of a history.
    #[must_use]
    pub fn all(exchanges: &'a [Exchange]) -> Vec<Self> {
        let mut with_key: HashMap<&str, Vec<&Exchange>> = HashMap::new();
        let mut all = Vec::new();
        for exchange in exchanges {
            match &exchange.key {
                Some(key) => with_key.entry(key).or_default().push(exchange),
                None => all.push(Self { requests: vec![exchange] }),
            }
        }
        all.extend(with_key.into_values().map(|mut requests| {
            requests.sort_by_key(|it| it.start_us);
            Self { requests }
        }));
        // An order that does not depend on the hash.
        all.sort_by_key(|operation| (operation.start_us(), operation.requests[0].client));
        all
    }

    /// What is wished.
    #[must_use]
    pub fn command(&self) -> &'a Command {
        &self.requests[0].command
    }

    /// When it was sent first.
    #[must_use]
    pub fn start_us(&self) -> u64 {
        self.requests[0].start_us
    }

    /// When a client was first told that it is done.
    #[must_use]
    pub fn done_us(&self) -> Option<u64> {
        self.requests.iter().filter(|it| it.reply.meaning() == Meaning::Done).map(|it| it.end_us).min()
    }

    /// Whether it may have been done.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        self.requests.iter().any(|it| matches!(it.reply.meaning(), Meaning::Done | Meaning::Unknown | Meaning::Wrong))
    }

    /// The id of what it created.
    #[must_use]
    pub fn created(&self) -> Option<(&'a str, u64)> {
        self.requests.iter().find_map(|it| match &it.reply.said {
            Some(super::history::Said::Id(id)) => Some((id.as_str(), it.end_us)),
            _ => None,
        })
    }

    /// One key has one answer.
    pub fn check(&self, verdict: &mut Verdict) {
        if self.requests.len() < 2 {
            return;
        }
        verdict.count("repeats under one key", i128::try_from(self.requests.len() - 1).unwrap_or_default());
        let key = self.requests[0].key.as_deref().unwrap_or_default();
        let done = self.requests.iter().find(|it| it.reply.meaning() == Meaning::Done);
        let refused = self.requests.iter().find(|it| {
            let problem = it.reply.problem.as_deref().unwrap_or_default();
            it.reply.meaning() == Meaning::Refused && !ABOUT_THE_REQUEST.contains(&problem)
        });
        if let (Some(_), Some(refused)) = (done, refused) {
            verdict.add(
                Rule::OneKeyOneEffect,
                format!("{:?} with key {key} was answered with success and with {:?}", self.command(), refused.reply),
            );
        }
        let mut said = self.requests.iter().filter(|it| it.reply.meaning() == Meaning::Done).map(|it| &it.reply.said);
        if let Some(first) = said.next()
            && let Some(other) = said.find(|it| *it != first)
        {
            verdict.add(
                Rule::OneKeyOneEffect,
                format!("{:?} with key {key} was answered with {first:?} and with {other:?}", self.command()),
            );
        }
    }
}
