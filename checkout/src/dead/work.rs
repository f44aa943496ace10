//! Doing something with many letters: at a pace, several in hand, and stopping when NATS fails.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt as _;
use nats::graveyard::GraveyardError;
use tokio::time::Instant;

use super::text::escape;
use crate::say;

/// Letters in hand at once. Each takes three or four answers of the server, one after the other.
const IN_HAND: usize = 16;

/// How often the person hears how far it is.
const NEWS: Duration = Duration::from_secs(2);

/// When each of many may begin, so that no more than `rate` do in a second. Time that was lost is not made up for: it would be a burst.
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    due: Option<Instant>,
}

impl Pace {
    /// So many per second.
    #[must_use]
    pub fn new(rate: NonZeroU32) -> Self {
        Self { gap: Duration::from_secs(1) / rate.get(), due: None }
    }

    /// When the next one may begin, asked at `now`.
    pub fn next(&mut self, now: Instant) -> Instant {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + self.gap);
        due
    }
}

/// What became of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Done.
    pub done: usize,
    /// Looked at and left as they are.
    pub refused: usize,
    /// Gone before it was their turn: others work here too.
    pub gone: usize,
    /// Failed, or not tried any more after that.
    pub failed: usize,
}

impl Tally {
    /// Prints it. Whether all of them were done.
    #[must_use]
    pub fn summary(&self, what: &str, all: usize) -> bool {
        let not_tried = all - self.done - self.refused - self.gone - self.failed;
        let mut line = format!("{what}: {} of {all}", self.done);
        for (count, name) in
            [(self.refused, "refused"), (self.gone, "gone"), (self.failed, "failed"), (not_tried, "not tried")]
        {
            if count > 0 {
                line.push_str(&format!(", {name}: {count}"));
            }
        }
        say::out(&line);
        self.done == all
    }
}

/// What is said while it lasts.
pub enum News<'a> {
    /// So many are through.
    Progress(&'a Tally, usize),
    /// This one is not done, and why.
    NotDone(u64, String),
}

/// Says it to the person, now and then.
pub fn tell(what: &'static str) -> impl FnMut(News<'_>) {
    let mut last = Instant::now();
    move |news| match news {
        News::Progress(tally, all) => {
            if last.elapsed() >= NEWS {
                last = Instant::now();
                say::err(&format!("{what}: {} of {all}", tally.done));
            }
        }
        News::NotDone(sequence, why) => say::err(&format!("{sequence}: {}", escape(&why, false))),
    }
}

/// Does it with each, after its turn has come. A refusal concerns one letter; any other failure would meet all, so no further one
/// is begun, and those in hand are waited for.
pub async fn each<Turn: Future<Output = ()>>(
    sequences: &[u64],
    mut turn: impl FnMut(usize) -> Turn,
    act: impl AsyncFn(u64) -> Result<(), GraveyardError>,
    news: &mut impl FnMut(News<'_>),
) -> Tally {
    let (stopped, act) = (Cell::new(false), &act);
    let begun = futures::stream::iter(sequences.iter().copied().enumerate())
        .take_while(|_| std::future::ready(!stopped.get()))
        .then(|(n, sequence)| {
            let turn = turn(n);
            async move {
                turn.await;
                sequence
            }
        })
        // Once more, because it may have happened while the turn was waited for.
        .take_while(|_| std::future::ready(!stopped.get()))
        .map(async |sequence| (sequence, act(sequence).await))
        .buffer_unordered(IN_HAND);
    let mut tally = Tally::default();
    let mut begun = std::pin::pin!(begun);
    while let Some((sequence, result)) = begun.next().await {
        match result {
            Ok(()) => tally.done += 1,
            Err(error) => {
                match error {
                    GraveyardError::Refused(_) => tally.refused += 1,
                    GraveyardError::NoLetter(_) => tally.gone += 1,
                    GraveyardError::Broker(_) => {
                        tally.failed += 1;
                        stopped.set(true);
                    }
                }
                news(News::NotDone(sequence, error.to_string()));
            }
        }
        news(News::Progress(&tally, sequences.len()));
    }
    tally
}

/// 0 when all was done, else 1.
#[must_use]
pub fn exit_code(all_done: bool) -> ExitCode {
    if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use nats::BrokerError;

    use super::*;

    fn nothing(_: News<'_>) {}

    #[test]
    fn a_pace_spreads_evenly_and_makes_up_for_nothing() {
        let start = Instant::now();
        let mut pace = Pace::new(NonZeroU32::new(50).unwrap());
        let at = |ms| start + Duration::from_millis(ms);
        // A hundred and one at once: the last begins after two seconds.
        let dues: Vec<_> = (0..=100).map(|_| pace.next(start)).collect();
        assert!(dues.iter().enumerate().all(|(n, due)| *due == at(20 * n as u64)));
        // Ten seconds later nothing is owed.
        assert_eq!([pace.next(at(10_000)), pace.next(at(10_000))], [at(10_000), at(10_020)]);
    }

    #[tokio::test]
    async fn none_begins_before_its_turn() {
        let (turns, begun) = (Cell::new(0), RefCell::new(Vec::new()));
        let sequences: Vec<u64> = (1..=100).collect();
        let turn = |n| {
            let (turns, begun) = (&turns, &begun);
            async move {
                tokio::task::yield_now().await;
                assert_eq!((turns.get(), begun.borrow().len() <= n), (n, true));
                turns.set(n + 1);
            }
        };
        let act = async |sequence| {
            begun.borrow_mut().push(sequence);
            assert!(begun.borrow().len() <= turns.get());
            tokio::task::yield_now().await;
            Ok(())
        };
        let tally = each(&sequences, turn, act, &mut nothing).await;
        assert_eq!((tally.done, turns.get()), (100, 100));
        assert_eq!(begun.into_inner(), sequences);
    }

    #[tokio::test]
    async fn a_refusal_concerns_one_and_a_failure_all() {
        let sequences: Vec<u64> = (1..=100).collect();
        let begun = Cell::new(0);
        let act = async |sequence| {
            begun.set(begun.get() + 1);
            match sequence {
                3 => Err(GraveyardError::Refused("no".to_owned())),
                4 => Err(GraveyardError::NoLetter(4)),
                40 => Err(BrokerError::Request("gone".to_owned()).into()),
                _ => Ok(()),
            }
        };
        let mut told = Vec::new();
        let mut news = |news: News<'_>| {
            if let News::NotDone(sequence, _) = news {
                told.push(sequence);
            }
        };
        let tally = each(&sequences, |_| std::future::ready(()), act, &mut news).await;
        assert_eq!((tally.refused, tally.gone, tally.failed), (1, 1, 1));
        // What was in hand is finished and counted, and nothing was begun after it.
        assert!(begun.get() <= 40 + IN_HAND && tally.done == begun.get() - 3, "{tally:?}");
        assert_eq!(told, [3, 4, 40]);
        assert!(!tally.summary("done", 100));
    }
}
