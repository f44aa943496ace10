//! What a person reads at the end.

use std::collections::BTreeMap;

use crate::chaos::faults::Happened;
use crate::chaos::faults::hurt::MOVED;
use crate::checker::Verdict;
use crate::checker::history::{Exchange, Meaning};
use crate::say;

/// Breaches that are shown one by one; all are counted.
const SHOWN: usize = 30;
/// After a fault, an answer that comes late is still its doing.
const AFTERMATH_US: u64 = 2_000_000;

/// Times at which some client had a definite answer to a checkout, in order; from them the pauses are read.
#[derive(Debug)]
pub struct Answers {
    ends: Vec<u64>,
    /// When each of these checkouts was asked for, in order, and the first end of it and all later ones.
    starts: Vec<(u64, u64)>,
}

impl Answers {
    /// Those of a history.
    #[must_use]
    pub fn of(exchanges: &[Exchange]) -> Self {
        let with_an_end = exchanges.iter().filter(|it| it.is_checkout_with_an_end());
        Self::at(with_an_end.map(|it| (it.start_us, it.end_us)).collect())
    }

    fn at(mut starts: Vec<(u64, u64)>) -> Self {
        let mut ends: Vec<u64> = starts.iter().map(|(_, end)| *end).collect();
        ends.sort_unstable();
        starts.sort_unstable();
        let mut first = u64::MAX;
        for (_, end) in starts.iter_mut().rev() {
            first = first.min(*end);
            *end = first;
        }
        Self { ends, starts }
    }

    /// When a checkout that was asked for after this moment was first answered.
    fn first_after(&self, at_us: u64) -> Option<u64> {
        let first = self.starts.partition_point(|(start, _)| *start < at_us);
        self.starts.get(first).map(|(_, end)| *end)
    }

    /// How long after the stores were back a new checkout was answered and every older one closed; nothing where that was not seen.
    fn recovery_us(&self, it: &Happened) -> Option<u64> {
        let back = it.back_us?;
        let answered = self.first_after(back)?;
        Some(answered.max(it.closed_us?) - back)
    }

    /// The longest time between two answers that touches the time between `start_us` and `end_us`.
    #[must_use]
    pub fn longest_pause_us(&self, start_us: u64, end_us: u64) -> u64 {
        let first = self.ends.partition_point(|at| *at < start_us).saturating_sub(1);
        let touched = self.ends[first.min(self.ends.len())..].windows(2).take_while(|pair| pair[0] <= end_us);
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
        "\n{:<26}{:>6}{:>8}{:>14}{:>19}{:>17}{:>25}",
        "fault", "times", "effect", "took a place", "longest pause (s)", "whole after (s)", "recovered median, worst"
    ));
    let seconds = |us: u64| us as f64 / 1e6;
    for (kind, all) in &kinds {
        let times = all.len();
        let moved = all.iter().filter(|it| it.outcome.effect.ends_with(MOVED)).count();
        // One that hurt nobody has nothing that was longest.
        let all: Vec<&Happened> = all.iter().copied().filter(|it| it.outcome.had_effect).collect();
        let pause = all.iter().map(|it| answers.longest_pause_us(it.start_us, it.end_us + AFTERMATH_US)).max();
        let whole = all.iter().map(|it| it.end_us - it.start_us).max();
        let mut recovered: Vec<u64> = all.iter().filter_map(|it| answers.recovery_us(it)).collect();
        recovered.sort_unstable();
        let recovered = match recovered.last() {
            Some(worst) => format!("{:.2}, {:.2}", seconds(recovered[recovered.len() / 2]), seconds(*worst)),
            None => "-".to_owned(),
        };
        say::out(&format!(
            "{kind:<26}{times:>6}{:>8}{moved:>14}{:>19.1}{:>17.1}{recovered:>25}",
            all.len(),
            seconds(pause.unwrap_or(0)),
            seconds(whole.unwrap_or(0)),
        ));
    }
    say::out(
        "recovered: seconds from when what was hurt served again to when a new checkout was answered and every older saga was closed",
    );
    let unseen = happened.iter().filter(|it| it.outcome.had_effect && answers.recovery_us(it).is_none()).count();
    if unseen > 0 {
        say::out(&format!(
            "{unseen} faults whose recovery was not seen: no checkout came after them, or sagas stayed open"
        ));
    }
    say::out(&counted(happened));
    for it in happened.iter().filter(|it| !it.outcome.had_effect) {
        say::out(&format!("  no effect: {} of {}: {}", it.fault, it.outcome.target, it.outcome.effect));
    }
}

/// How many faults there were: those that hurt somebody, how many of these while another one did, and those that did not.
fn counted(happened: &[Happened]) -> String {
    let hurt: Vec<&Happened> = happened.iter().filter(|it| it.outcome.had_effect).collect();
    let is_met = |number: usize, it: &Happened| {
        let others = hurt.iter().enumerate().filter(|(other, _)| *other != number);
        others.into_iter().any(|(_, that)| that.start_us < it.end_us && it.start_us < that.end_us)
    };
    let overlapping = hurt.iter().enumerate().filter(|(number, it)| is_met(*number, it)).count();
    let missed = happened.len() - hurt.len();
    format!("{} faults with an effect, {overlapping} of them while another one lasted; {missed} without", hurt.len())
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
    use crate::chaos::faults::hurt::Outcome;

    #[test]
    fn a_platform_has_recovered_when_new_checkouts_are_answered_and_old_ones_closed() {
        let answers = Answers::at(vec![(5, 60), (50, 90), (55, 70), (200, 210)]);
        assert_eq!(answers.first_after(50), Some(70), "the second that was asked for is answered first");
        assert_eq!(answers.first_after(100), Some(210));
        assert_eq!(answers.first_after(300), None);
        let outcome = Outcome { target: String::new(), effect: String::new(), had_effect: true };
        let happened = |back_us, closed_us| Happened {
            fault: String::new(),
            outcome: outcome.clone(),
            start_us: 0,
            end_us: 0,
            back_us,
            closed_us,
        };
        assert_eq!(answers.recovery_us(&happened(Some(50), Some(60))), Some(20));
        assert_eq!(answers.recovery_us(&happened(Some(50), Some(80))), Some(30));
        assert_eq!(answers.recovery_us(&happened(Some(50), None)), None);
        assert_eq!(answers.recovery_us(&happened(Some(300), Some(310))), None);
    }

    #[test]
    fn faults_without_an_effect_are_counted_apart() {
        let happened = |had_effect, start_us, end_us| Happened {
            fault: String::new(),
            outcome: Outcome { target: String::new(), effect: String::new(), had_effect },
            start_us,
            end_us,
            back_us: None,
            closed_us: None,
        };
        let all = [happened(true, 0, 10), happened(false, 0, 100), happened(true, 20, 40), happened(true, 30, 50)];
        assert_eq!(counted(&all), "3 faults with an effect, 2 of them while another one lasted; 1 without");
        assert_eq!(counted(&all[..2]), "1 faults with an effect, 0 of them while another one lasted; 1 without");
    }

    #[test]
    fn a_pause_is_the_time_between_two_answers_that_a_fault_touches() {
        let answers = Answers::at([10, 20, 90, 95, 200].map(|at| (at, at)).to_vec());
        assert_eq!(answers.longest_pause_us(12, 15), 10);
        assert_eq!(answers.longest_pause_us(30, 40), 70);
        assert_eq!(answers.longest_pause_us(15, 94), 70);
        assert_eq!(answers.longest_pause_us(91, 92), 5);
        assert_eq!(answers.longest_pause_us(96, 97), 105);
        assert_eq!(answers.longest_pause_us(300, 400), 0);
        assert_eq!(Answers::at(Vec::new()).longest_pause_us(0, 9), 0);
    }
}
