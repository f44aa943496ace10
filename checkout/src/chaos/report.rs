//! What a person reads at the end.

use std::collections::BTreeMap;

use crate::chaos::faults::Happened;
use crate::chaos::faults::hurt::MOVED;
use crate::checker::Verdict;
use crate::checker::history::{Command, Exchange, Meaning};
use crate::say;

/// Breaches that are shown one by one; all are counted.
const SHOWN: usize = 30;
/// After a fault, an answer that comes late is still its doing.
const AFTERMATH_US: u64 = 2_000_000;

/// Times at which some client had a definite answer to a checkout, in order; from them the pauses are read.
#[derive(Debug)]
pub struct Answers(Vec<u64>);

impl Answers {
    /// Those of a history.
    #[must_use]
    pub fn of(exchanges: &[Exchange]) -> Self {
        let is_definite = |it: &&Exchange| {
            let meaning = it.reply.meaning();
            matches!(it.command, Command::Checkout { .. }) && matches!(meaning, Meaning::Done | Meaning::Refused)
        };
        let mut times: Vec<u64> = exchanges.iter().filter(is_definite).map(|it| it.end_us).collect();
        times.sort_unstable();
        Self(times)
    }

    /// The longest time between two answers that touches the time between `start_us` and `end_us`.
    #[must_use]
    pub fn longest_pause_us(&self, start_us: u64, end_us: u64) -> u64 {
        let first = self.0.partition_point(|at| *at < start_us).saturating_sub(1);
        let touched = self.0[first.min(self.0.len())..].windows(2).take_while(|pair| pair[0] <= end_us);
        touched.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

/// The table of faults.
pub fn faults(happened: &[Happened], answers: &Answers) {
    if happened.is_empty() {
        return;
    }
    let mut kinds: BTreeMap<&str, Vec<&Happened>> = BTreeMap::new();
    for it in happened {
        kinds.entry(&it.fault).or_default().push(it);
    }
    say::out(&format!(
        "\n{:<22}{:>6}{:>10}{:>13}{:>18}{:>16}",
        "fault", "times", "effect", "took a place", "longest pause (s)", "whole after (s)"
    ));
    let seconds = |us: u64| us as f64 / 1e6;
    for (kind, all) in &kinds {
        let effect = all.iter().filter(|it| it.outcome.had_effect).count();
        let moved = all.iter().filter(|it| it.outcome.effect.ends_with(MOVED)).count();
        let pause = all.iter().map(|it| answers.longest_pause_us(it.start_us, it.end_us + AFTERMATH_US)).max();
        let whole = all.iter().map(|it| it.end_us - it.start_us).max();
        say::out(&format!(
            "{kind:<22}{:>6}{effect:>10}{moved:>13}{:>18.1}{:>16.1}",
            all.len(),
            seconds(pause.unwrap_or(0)),
            seconds(whole.unwrap_or(0)),
        ));
    }
    let overlapping = happened
        .iter()
        .enumerate()
        .filter(|(number, it)| {
            let meets = |(other, that): (usize, &Happened)| {
                other != *number && that.start_us < it.end_us && it.start_us < that.end_us
            };
            happened.iter().enumerate().any(meets)
        })
        .count();
    say::out(&format!("{} faults, {overlapping} of them while another one lasted", happened.len()));
    for it in happened.iter().filter(|it| !it.outcome.had_effect) {
        say::out(&format!("  no effect: {} of {}: {}", it.fault, it.outcome.target, it.outcome.effect));
    }
}

/// The table of replies.
pub fn replies(exchanges: &[Exchange]) {
    let mut kinds: BTreeMap<&str, BTreeMap<Meaning, u64>> = BTreeMap::new();
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    for it in exchanges {
        *kinds.entry(it.command.name()).or_default().entry(it.reply.meaning()).or_default() += 1;
        let status = match (it.reply.status, it.reply.lost) {
            (Some(status), _) => status.to_string(),
            (None, lost) => lost.map_or_else(String::new, |lost| format!("{lost:?}")),
        };
        *statuses.entry(status).or_default() += 1;
    }
    say::out(&format!(
        "\n{:<18}{:>10}{:>10}{:>14}{:>10}{:>8}",
        "request", "done", "refused", "not started", "unknown", "wrong"
    ));
    for (kind, counts) in &kinds {
        let of = |meaning| counts.get(&meaning).copied().unwrap_or(0);
        say::out(&format!(
            "{kind:<18}{:>10}{:>10}{:>14}{:>10}{:>8}",
            of(Meaning::Done),
            of(Meaning::Refused),
            of(Meaning::NotStarted),
            of(Meaning::Unknown),
            of(Meaning::Wrong)
        ));
    }
    let statuses: Vec<String> = statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    say::out(&format!("replies by status: {}", statuses.join(", ")));
}

/// The verdict, and what it rests on.
pub fn verdict(verdict: &Verdict) {
    let figures: Vec<String> = verdict.figures.iter().map(|(name, number)| format!("{name}: {number}")).collect();
    say::out(&format!("\nchecked: {}", figures.join(", ")));
    if verdict.is_clean() {
        say::out(
            "verdict: clean. Nothing lost, nothing doubled, nothing negative, everybody told the truth, every saga closed.",
        );
        return;
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for breach in &verdict.breaches {
        *kinds.entry(breach.rule.told()).or_default() += 1;
    }
    say::out(&format!("verdict: NOT CLEAN, {} breaches", verdict.breaches.len()));
    for (rule, count) in kinds {
        say::out(&format!("  {count:>6} × not kept: {rule}"));
    }
    for breach in verdict.breaches.iter().take(SHOWN) {
        say::out(&format!("  {breach}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_the_time_between_two_answers_that_a_fault_touches() {
        let answers = Answers(vec![10, 20, 90, 95, 200]);
        assert_eq!(answers.longest_pause_us(12, 15), 10);
        assert_eq!(answers.longest_pause_us(30, 40), 70);
        assert_eq!(answers.longest_pause_us(15, 94), 70);
        assert_eq!(answers.longest_pause_us(91, 92), 5);
        assert_eq!(answers.longest_pause_us(96, 97), 105);
        assert_eq!(answers.longest_pause_us(300, 400), 0);
        assert_eq!(Answers(Vec::new()).longest_pause_us(0, 9), 0);
    }
}
