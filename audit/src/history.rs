//! What must be true of the events of all sagas, heard one after the other: a state machine `(history, event) → findings`.
//!
//! Events may come twice, replayed, or in another order than they happened. So a contradiction is told at once, because nothing that is
//! still to come can take it away; but a missing cause, or a missing end, is told only when it has had time to come.
//!
//! Sums are those that the events themselves tell: what each saga debited, refunded and reserved, of each kind what was heard first, so that an event
//! which comes twice counts once. What an ended saga kept must be what its order cost, or nothing; a saga is added to the totals once,
//! when it is forgotten, because until then something of it may come.
//!
//! A part of the stream may be lost: trimmed, purged, deleted. What began before such a gap is *incomplete*, and of an incomplete
//! saga only contradictions are told. Ended sagas are forgotten behind the watermark, like their records in the databases.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use common::event::{Event, Kind, SagaEvent};
use common::limits::MAX_CLOCK_AHEAD_MS;

use crate::finding::{Finding, Rule};
use crate::moved::Moved;
use crate::saga::parts;

/// How patient it is, and how much it remembers.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Age at which an open saga is overdue (ms).
    pub saga_limit_ms: u64,
    /// How long after a saga's last event its causes may still come, and after the watermark anything of one that has ended (ms).
    pub grace_ms: u64,
    /// How long after the watermark the end of a saga may still come (ms): who closed it may have died before it said so, and another one say it
    /// only when it is given the same event again.
    pub end_ms: u64,
    /// Sagas that are remembered at most. Beyond, the oldest are forgotten early. One costs some 350 bytes.
    pub max_sagas: usize,
    /// Whether ended sagas are forgotten behind the watermark. Not, where a past of known length is judged.
    pub forgets: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self { saga_limit_ms: 60_000, grace_ms: 10_000, end_ms: 60_000, max_sagas: 1_000_000, forgets: true }
    }
}

/// A place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch by NATS's clock.
    pub at_ms: u64,
}

/// What was heard so far. Amounts and ends are those of sagas that were heard completely, each once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sagas remembered now.
    pub remembered: usize,
    /// Of these, how many have not ended.
    pub open: usize,
    /// Of these, how many are overdue.
    pub overdue: usize,
    /// Of the remembered ones, how many were not heard completely.
    pub incomplete: usize,
    /// How often a part of the stream was missing.
    pub gaps: u64,
    /// Events about sagas that were forgotten already.
    pub late: u64,
    /// Sagas that were forgotten early, to bound the memory.
    pub dropped: u64,
    /// Sagas that completed, each once.
    pub completed: u64,
    /// Sagas that failed, each once.
    pub failed: u64,
    /// What they debited.
    pub debited_amount: i128,
    /// What of it they refunded.
    pub refunded_amount: i128,
    /// What the completed ones cost: debited less refunded, or something is wrong.
    pub completed_amount: i128,
    /// Pieces that they reserved. A reservation is never released.
    pub reserved_pieces: i128,
    /// Pieces that the completed ones were for: those that were reserved, or something is wrong.
    pub completed_pieces: i128,
}

/// Kinds that exclude each other in one saga, whatever else happened.
const EXCLUDING: &[(Kind, Kind)] = &[
    (Kind::StockReserved, Kind::StockFailed),
    (Kind::StockReserved, Kind::PaymentDeclined),
    (Kind::StockReserved, Kind::PaymentRefunded),
    (Kind::StockReserved, Kind::CheckoutFailed),
    (Kind::CheckoutCompleted, Kind::StockFailed),
    (Kind::CheckoutCompleted, Kind::PaymentDeclined),
    (Kind::CheckoutCompleted, Kind::PaymentRefunded),
    (Kind::CheckoutCompleted, Kind::CheckoutFailed),
    (Kind::PaymentDebited, Kind::PaymentDeclined),
    (Kind::PaymentDeclined, Kind::PaymentRefunded),
];

/// What must have been told before (one of these), for each kind that has a cause.
const CAUSES: &[(Kind, &[Kind])] = &[
    (Kind::PaymentDebited, &[Kind::CheckoutStarted]),
    (Kind::PaymentDeclined, &[Kind::CheckoutStarted, Kind::StockFailed]),
    (Kind::StockReserved, &[Kind::PaymentDebited]),
    (Kind::StockFailed, &[Kind::PaymentDebited, Kind::CheckoutAbandoned]),
    (Kind::PaymentRefunded, &[Kind::StockFailed]),
    (Kind::CheckoutCompleted, &[Kind::StockReserved]),
    (Kind::CheckoutFailed, &[Kind::PaymentDeclined, Kind::PaymentRefunded]),
];

const fn bit(kind: Kind) -> u16 {
    1 << kind as u16
}

/// One saga's history.
#[derive(Debug, Clone)]
struct Track {
    attempt: u64,
    started_ms: u64,
    /// When its last event was stored.
    last_ms: u64,
    seen: u16,
    amount: u64,
    /// User and items, as told first.
    content: Box<str>,
    moved: Moved,
    complete: bool,
    overdue: bool,
    /// Rules that it was told to break at the end of its patience: once is enough.
    told: bool,
    /// Likewise of sums that differ.
    differs: bool,
}

impl Track {
    fn has(&self, kind: Kind) -> bool {
        self.seen & bit(kind) != 0
    }

    fn has_ended(&self) -> bool {
        self.has(Kind::CheckoutCompleted) || self.has(Kind::CheckoutFailed)
    }
}

/// Follows all sagas.
#[derive(Debug)]
pub struct Historian {
    patience: Patience,
    /// By `<order>.<incarnation>`.
    orders: HashMap<Arc<str>, Vec<Track>>,
    remembered: usize,
    newest: Option<Place>,
    /// Sagas that started before this may have lost events.
    complete_from_ms: u64,
    /// Every saga started before this is closed, and when that was heard: those after which ends may still come, oldest first.
    watermarks: VecDeque<(u64, u64)>,
    /// The newest after which they may not.
    ended_before_ms: u64,
    /// Sagas started before this are forgotten.
    forgotten_before_ms: u64,
    figures: Figures,
}

impl Historian {
    /// Nothing heard yet.
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            orders: HashMap::new(),
            remembered: 0,
            newest: None,
            complete_from_ms: 0,
            watermarks: VecDeque::new(),
            ended_before_ms: 0,
            forgotten_before_ms: 0,
            figures: Figures::default(),
        }
    }

    /// The time of the newest message, in milliseconds by NATS's clock.
    pub fn now_ms(&self) -> u64 {
        self.newest.map_or(0, |place| place.at_ms)
    }

    /// Whether this saga is remembered and was heard from its beginning.
    pub fn is_complete(&self, saga: &str) -> bool {
        self.track(saga).is_some_and(|track| track.complete)
    }

    /// Whether an event of this kind was heard about a saga that is remembered; nothing where it is not.
    pub fn has(&self, saga: &str, kind: Kind) -> Option<bool> {
        self.track(saga).map(|track| track.has(kind))
    }

    /// The sagas that are remembered and have ended, and whether they completed.
    pub fn ended(&self) -> impl Iterator<Item = (String, bool)> {
        let named = |(key, track): (&Arc<str>, &Track)| {
            (format!("{key}.{}", track.attempt), track.has(Kind::CheckoutCompleted))
        };
        let all = self.orders.iter().flat_map(|(key, tracks)| tracks.iter().map(move |track| (key, track)));
        all.filter(|(_, track)| track.has_ended()).map(named)
    }

    fn track(&self, saga: &str) -> Option<&Track> {
        let (key, attempt) = saga.rsplit_once('.')?;
        let attempt: u64 = attempt.parse().ok()?;
        self.orders.get(key)?.iter().find(|track| track.attempt == attempt)
    }

    /// What is known so far.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures { remembered: self.remembered, ..self.figures };
        for track in self.orders.values().flatten() {
            figures.open += usize::from(!track.has_ended());
            figures.overdue += usize::from(track.overdue && !track.has_ended());
            figures.incomplete += usize::from(!track.complete);
        }
        figures
    }

    /// Totals begin anew: what was forgotten so far was in those of a predecessor.
    pub fn count_from_here(&mut self) {
        let Figures { gaps, late, dropped, .. } = self.figures;
        self.figures = Figures { gaps, late, dropped, ..Figures::default() };
    }

    /// Hears one message of the stream. What cannot be understood has a place too.
    pub fn hear(&mut self, place: Place, event: Option<&Event>) -> Vec<Finding> {
        self.follow(place);
        match event {
            Some(Event::Saga(event)) => self.saga(place, event),
            Some(Event::Watermark(watermark)) => {
                let known =
                    self.watermarks.back().map_or(self.ended_before_ms, |(closed_before_ms, _)| *closed_before_ms);
                // One from the future is not believed by the services either.
                let believable = watermark.closed_before_ms <= place.at_ms.saturating_add(MAX_CLOCK_AHEAD_MS);
                if believable && watermark.closed_before_ms > known && self.patience.forgets {
                    self.watermarks.push_back((watermark.closed_before_ms, place.at_ms));
                }
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Something was lost before this place: what began before it cannot be judged.
    fn gap(&mut self, at_ms: u64) {
        self.complete_from_ms = self.complete_from_ms.max(at_ms.saturating_add(MAX_CLOCK_AHEAD_MS));
        self.orders.values_mut().flatten().for_each(|track| track.complete = false);
    }

    /// Keeps count of sequences. A message that comes again has a place that is passed; one of a stream that was made anew has a small
    /// sequence and a later time.
    fn follow(&mut self, place: Place) {
        let Some(newest) = self.newest else {
            self.newest = Some(place);
            self.gap(place.at_ms);
            return;
        };
        let is_next = place.sequence == newest.sequence + 1;
        let is_ahead = place.sequence > newest.sequence;
        if !is_ahead && place.at_ms <= newest.at_ms {
            return;
        }
        if !is_next {
            self.figures.gaps += 1;
            self.gap(place.at_ms);
        }
        self.newest = Some(Place { at_ms: place.at_ms.max(newest.at_ms), ..place });
    }

    fn saga(&mut self, place: Place, event: &SagaEvent) -> Vec<Finding> {
        let id = event.saga.saga_id.as_str();
        let Some((key, attempt)) = id.rsplit_once('.').and_then(|(key, it)| Some((key, it.parse::<u64>().ok()?)))
        else {
            return Vec::new();
        };
        let known = self.orders.get(key).and_then(|tracks| tracks.iter().position(|it| it.attempt == attempt));
        if known.is_none() && event.saga.started_at_ms < self.forgotten_before_ms {
            self.figures.late += 1;
            return Vec::new();
        }
        let content = format!("{} for {}", event.saga.user_id, event.saga.items);
        let amount = event.saga.amount.get();
        let complete = event.saga.started_at_ms >= self.complete_from_ms;
        let tracks = match self.orders.get_mut(key) {
            Some(tracks) => tracks,
            None => self.orders.entry(key.into()).or_default(),
        };
        let at = known.unwrap_or_else(|| {
            self.remembered += 1;
            tracks.push(Track {
                attempt,
                started_ms: event.saga.started_at_ms,
                last_ms: place.at_ms,
                seen: 0,
                amount,
                content: content.clone().into(),
                moved: Moved::default(),
                complete,
                overdue: false,
                told: false,
                differs: false,
            });
            tracks.len() - 1
        });
        let about = format!("saga {id}");
        let mut found = Vec::new();
        let track = &mut tracks[at];
        if track.amount != amount || *track.content != *content {
            let (expected, told) = (format!("{} of {}", track.amount, track.content), format!("{amount} of {content}"));
            found.push(Finding::new(Rule::Content, &*about, expected, format!("{} of {told}", event.kind)));
        }
        // A saga that a failover forgot is begun again under its id with a later start.
        track.started_ms = track.started_ms.max(event.saga.started_at_ms);
        track.last_ms = track.last_ms.max(place.at_ms);
        let is_new = !track.has(event.kind);
        track.seen |= bit(event.kind);
        if is_new {
            track.moved.add(event);
            for (one, other) in EXCLUDING {
                let met = if *one == event.kind { other } else { one };
                if (*one == event.kind || *other == event.kind) && track.has(*met) {
                    let actual = format!("{} and {met}", event.kind);
                    found.push(Finding::new(Rule::Contradiction, &*about, "one of them", actual));
                }
            }
            found.extend(paid_twice(key, tracks, at));
        }
        if self.remembered > self.patience.max_sagas {
            self.drop_oldest();
        }
        found
    }

    /// Looks at what had time enough, at the time of the newest message; or at `now_ms`, which may only be ahead of it where nothing
    /// more is waiting in the stream.
    pub fn settle(&mut self, now_ms: u64) -> Vec<Finding> {
        let now_ms = now_ms.max(self.now_ms());
        let patience = self.patience;
        while let Some((closed_before_ms, heard_ms)) = self.watermarks.front().copied()
            && now_ms >= heard_ms.saturating_add(patience.end_ms)
        {
            self.ended_before_ms = closed_before_ms;
            self.watermarks.pop_front();
        }
        let ended_before_ms = self.ended_before_ms;
        let mut with_grace = self.watermarks.iter().rev();
        let with_grace = with_grace.find(|(_, heard_ms)| now_ms >= heard_ms.saturating_add(patience.grace_ms));
        let closed_before_ms = with_grace.map_or(ended_before_ms, |(closed_before_ms, _)| *closed_before_ms);
        let mut found = Vec::new();
        let (figures, remembered) = (&mut self.figures, &mut self.remembered);
        self.orders.retain(|key, tracks| {
            tracks.retain_mut(|track| {
                let has_rested = now_ms >= track.last_ms.saturating_add(patience.grace_ms);
                let may_end = !track.has_ended() && track.complete;
                let bound_ms = if may_end { ended_before_ms } else { closed_before_ms };
                let is_behind = track.started_ms < bound_ms && has_rested;
                let about = || format!("saga {key}.{}", track.attempt);
                if has_rested && track.complete && !track.told {
                    let causes = missing_causes(track, &about());
                    track.told = !causes.is_empty();
                    found.extend(causes);
                }
                if has_rested && track.complete && track.has_ended() && !track.differs {
                    let differences = track.moved.differences(&about());
                    track.differs = !differences.is_empty();
                    found.extend(differences);
                }
                let age = now_ms.saturating_sub(track.started_ms);
                if !track.has_ended() && !track.overdue && age > patience.saga_limit_ms {
                    let about = format!("saga {key}.{}", track.attempt);
                    track.overdue = true;
                    let most = format!("an end within {} ms", patience.saga_limit_ms);
                    found.push(Finding::new(Rule::Overdue, about, most, format!("open after {age} ms")));
                }
                if !is_behind {
                    return true;
                }
                if may_end {
                    let about = format!("saga {key}.{}", track.attempt);
                    found.push(Finding::new(
                        Rule::NeverEnded,
                        about,
                        "an end, because order says it is closed",
                        "none",
                    ));
                }
                count(track, figures);
                *remembered -= 1;
                false
            });
            !tracks.is_empty()
        });
        self.forgotten_before_ms = self.forgotten_before_ms.max(closed_before_ms);
        found.sort();
        found
    }

    /// Forgets the oldest eighth.
    fn drop_oldest(&mut self) {
        let mut starts: Vec<u64> = self.orders.values().flatten().map(|track| track.started_ms).collect();
        let eighth = starts.len() / 8;
        let (_, bound, _) = starts.select_nth_unstable(eighth);
        let bound = *bound + 1;
        let (figures, remembered) = (&mut self.figures, &mut self.remembered);
        self.orders.retain(|_, tracks| {
            tracks.retain(|track| {
                let stays = track.started_ms >= bound;
                figures.dropped += u64::from(!stays);
                *remembered -= usize::from(!stays);
                stays
            });
            !tracks.is_empty()
        });
        self.forgotten_before_ms = self.forgotten_before_ms.max(bound);
    }
}

fn count(track: &Track, figures: &mut Figures) {
    if !track.complete || !track.has_ended() {
        return;
    }
    let moved = track.moved;
    figures.debited_amount += i128::from(moved.debited());
    figures.refunded_amount += i128::from(moved.refunded());
    figures.completed_amount += i128::from(moved.cost);
    figures.reserved_pieces += i128::from(moved.reserved);
    figures.completed_pieces += i128::from(moved.bought);
    if track.has(Kind::CheckoutCompleted) {
        figures.completed += 1;
    } else {
        figures.failed += 1;
    }
}

fn missing_causes(track: &Track, about: &str) -> Vec<Finding> {
    let missing = CAUSES.iter().filter(|(kind, causes)| track.has(*kind) && !causes.iter().any(|it| track.has(*it)));
    missing
        .map(|(kind, causes)| {
            let names: Vec<&str> = causes.iter().map(|kind| kind.subject()).collect();
            Finding::new(Rule::Cause, about, format!("{} before {kind}", names.join(" or ")), "none")
        })
        .collect()
}

/// An order is paid once, and then has no further saga.
fn paid_twice(key: &str, tracks: &[Track], at: usize) -> Vec<Finding> {
    let this = &tracks[at];
    let clashes = tracks.iter().enumerate().filter(|(other, track)| {
        let (earlier, later) = if track.attempt < this.attempt { (*track, this) } else { (this, *track) };
        *other != at && earlier.has(Kind::CheckoutCompleted) && later.seen != 0
    });
    clashes
        .map(|(_, track)| {
            let actual =
                format!("attempts {} and {}", track.attempt.min(this.attempt), track.attempt.max(this.attempt));
            let order = parts(&format!("{key}.0")).map_or(key, |(order, ..)| order).to_owned();
            Finding::new(Rule::PaidTwice, format!("order {order}"), "no attempt after the one that paid it", actual)
        })
        .collect()
}
