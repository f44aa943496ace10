//! Legal histories, repeated, replayed and in any order, are never called illegal; each planted illegality always is.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use audit::history::{Historian, Patience, Place};
use audit::{Finding, Rule};
use common::event::Kind::{self, *};
use common::event::{Event, SagaEvent, Watermark};
use common::saga::{Items, Saga, parse_entries};
use common::trace::TraceParent;
use proptest::prelude::*;

const GRACE_MS: u64 = 10_000;
const END_MS: u64 = 3 * GRACE_MS;
const LIMIT_MS: u64 = 60_000;
/// When the test's first message is stored; its sagas start later than what could have been lost before it.
const BEGIN_MS: u64 = 1_000_000;
const FIRST_START_MS: u64 = BEGIN_MS + 6_000;

/// The ways that a saga can go when its messages come in the order in which they were caused.
const WAYS: &[&[Kind]] = &[
    &[CheckoutStarted, PaymentDebited, StockReserved, CheckoutCompleted],
    &[CheckoutStarted, PaymentDeclined, CheckoutFailed],
    &[CheckoutStarted, PaymentDebited, StockFailed, PaymentRefunded, CheckoutFailed],
    // Past its limit, stock had reserved: it says so again.
    &[CheckoutStarted, PaymentDebited, CheckoutAbandoned, StockReserved, CheckoutCompleted],
    // Past its limit before payment had seen it: the tombstone, and then the late start, which is answered as refunded.
    &[CheckoutStarted, CheckoutAbandoned, StockFailed, PaymentRefunded, CheckoutFailed],
    &[CheckoutAbandoned, StockFailed, PaymentRefunded, CheckoutFailed],
    // Declined, and abandoned all the same before order heard of it.
    &[CheckoutStarted, PaymentDeclined, CheckoutAbandoned, StockFailed, PaymentDeclined, CheckoutFailed],
    // Abandoned between debit and stock; stock then answers the debit with its failure.
    &[CheckoutStarted, PaymentDebited, CheckoutAbandoned, StockFailed, PaymentRefunded, StockFailed, CheckoutFailed],
];

fn saga(order: usize, attempt: usize, amount: u64) -> Saga {
    Saga {
        saga_id: format!("{order}.k.{attempt}").parse().unwrap(),
        order_id: order.to_string().parse().unwrap(),
        started_at_ms: FIRST_START_MS + order as u64,
        user_id: "7".parse().unwrap(),
        amount: amount.to_string().parse().unwrap(),
        items: Items::sum(parse_entries("1:2").unwrap()).unwrap(),
    }
}

fn event(kind: Kind, saga: Saga, round: u32) -> Event {
    let event = SagaEvent::first(kind, saga, round, TraceParent::random());
    let reason = kind.needs_reason().then(|| "abandoned".parse().unwrap());
    Event::Saga(SagaEvent { reason, ..event })
}

struct Told {
    historian: Historian,
    sequence: u64,
    at_ms: u64,
    found: Vec<Finding>,
}

impl Told {
    fn begin() -> Self {
        let patience =
            Patience { saga_limit_ms: LIMIT_MS, grace_ms: GRACE_MS, end_ms: END_MS, max_sagas: 100_000, forgets: true };
        let mut told = Self { historian: Historian::new(patience), sequence: 0, at_ms: BEGIN_MS, found: Vec::new() };
        told.tell(&Event::Watermark(Watermark { closed_before_ms: 1 }));
        told.at_ms = FIRST_START_MS + 100;
        told
    }

    fn tell(&mut self, event: &Event) {
        self.sequence += 1;
        self.at_ms += 1;
        let place = Place { sequence: self.sequence, at_ms: self.at_ms };
        self.found.extend(self.historian.hear(place, Some(event)));
        self.found.extend(self.historian.settle(0));
    }

    /// The same message once more.
    fn repeat(&mut self, sequence: u64, at_ms: u64, event: &Event) {
        self.found.extend(self.historian.hear(Place { sequence, at_ms }, Some(event)));
    }

    /// Lets everything have its time, below the limit of an open saga.
    fn rest(&mut self) {
        self.at_ms += GRACE_MS + 1;
        let at_ms = self.at_ms;
        self.found.extend(self.historian.settle(at_ms));
    }

    /// All is closed, and everybody has had time to say so.
    fn close(&mut self) {
        self.tell(&Event::Watermark(Watermark { closed_before_ms: self.at_ms }));
        self.at_ms += END_MS + 1;
        let at_ms = self.at_ms;
        self.found.extend(self.historian.settle(at_ms));
    }

    fn rules(mut self) -> Vec<Rule> {
        self.found.sort();
        self.found.dedup();
        self.found.iter().map(|finding| finding.rule).collect()
    }
}

/// Several sagas' ways, each event up to three times, moved by up to `reach` places.
fn histories() -> impl Strategy<Value = (Vec<usize>, Vec<(u8, u8)>, Vec<u8>)> {
    (
        prop::collection::vec(0..WAYS.len(), 1..12),
        prop::collection::vec((1..4_u8, 0..40_u8), 12 * 7),
        prop::collection::vec(any::<u8>(), 12),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_legal_history_is_never_called_illegal((ways, fates, tries) in histories()) {
        let mut messages = Vec::new();
        let mut fates = fates.into_iter().cycle();
        for (order, way) in ways.iter().enumerate() {
            let mut attempt = 0;
            // Some orders fail once or twice before.
            for _ in 0..tries[order] % 3 {
                for kind in WAYS[1] {
                    let (times, reach) = fates.next().unwrap();
                    (0..times).for_each(|round| messages.push((usize::from(reach) + messages.len(), *kind, saga(order, attempt, 5), round)));
                }
                attempt += 1;
            }
            for kind in WAYS[*way] {
                let (times, reach) = fates.next().unwrap();
                (0..times).for_each(|round| messages.push((usize::from(reach) + messages.len(), *kind, saga(order, attempt, 5), round)));
            }
        }
        messages.sort_by_key(|(place, ..)| *place);
        let mut told = Told::begin();
        for (_, kind, saga, round) in messages {
            let event = event(kind, saga, u32::from(round));
            told.tell(&event);
            if round == 1 {
                let (sequence, at_ms) = (told.sequence, told.at_ms);
                told.repeat(sequence, at_ms, &event);
            }
        }
        told.rest();
        told.close();
        let figures = told.historian.figures();
        prop_assert_eq!(&told.found, &Vec::new());
        prop_assert_eq!(figures.remembered, 0, "all is forgotten behind the watermark");
        prop_assert_eq!(figures.debited_amount - figures.refunded_amount, figures.completed_amount);
        let completed = ways.iter().filter(|way| WAYS[**way].contains(&CheckoutCompleted)).count() as u64;
        prop_assert_eq!(figures.completed, completed);
    }

    /// Whatever is left out of a way that another event of it needs, is missed.
    #[test]
    fn a_missing_cause_is_always_found(way in 0..4_usize, left_out in 0..8_usize, shift in 0..5_usize) {
        let kinds: Vec<Kind> = WAYS[way].to_vec();
        let gone = kinds[left_out % (kinds.len() - 1)];
        // An abandonment may come without a start, and a start only matters to what payment says of it.
        prop_assume!(gone != CheckoutAbandoned);
        let mut rest: Vec<Kind> = kinds.into_iter().filter(|kind| *kind != gone).collect();
        let by = shift % rest.len();
        rest.rotate_left(by);
        let mut told = Told::begin();
        rest.into_iter().for_each(|kind| told.tell(&event(kind, saga(1, 0, 5), 0)));
        told.rest();
        prop_assert!(told.rules().contains(&Rule::Cause), "{} is missing and nobody noticed", gone);
    }

    /// After a gap the same is not held against anybody.
    #[test]
    fn behind_a_gap_nothing_is_missed(way in 0..WAYS.len(), cut in 0..8_usize, anew in any::<bool>()) {
        let kinds = WAYS[way];
        let cut = cut % kinds.len();
        let mut told = Told::begin();
        kinds[..cut].iter().for_each(|kind| told.tell(&event(*kind, saga(1, 0, 5), 0)));
        // What comes next is lost; the stream goes on, or is made anew.
        told.sequence = if anew { 0 } else { told.sequence + 7 };
        kinds.iter().skip(cut + 1).for_each(|kind| told.tell(&event(*kind, saga(1, 0, 5), 0)));
        told.tell(&Event::Watermark(Watermark { closed_before_ms: 2 }));
        told.rest();
        told.close();
        prop_assert_eq!(told.historian.figures().gaps, 1);
        prop_assert_eq!(told.found, Vec::new());
    }

    /// What excludes each other is found at once, also behind a gap, in either order and whatever else is told.
    #[test]
    fn contradictions_are_always_found(way in 0..WAYS.len(), gap in any::<bool>(), before in any::<bool>()) {
        for forged in [CheckoutCompleted, CheckoutFailed, StockReserved, StockFailed, PaymentDeclined, PaymentRefunded] {
            let kinds = WAYS[way];
            let completes = kinds.contains(&CheckoutCompleted);
            let contradicts = match forged {
                CheckoutCompleted | StockReserved => !completes,
                _ => completes,
            };
            if !contradicts {
                continue;
            }
            let mut told = Told::begin();
            let forged = event(forged, saga(1, 0, 5), 0);
            if before {
                told.tell(&forged);
            }
            for kind in kinds {
                told.sequence += u64::from(gap);
                told.tell(&event(*kind, saga(1, 0, 5), 0));
            }
            if !before {
                told.tell(&forged);
            }
            prop_assert!(told.rules().contains(&Rule::Contradiction), "{:?} with {:?}", kinds, forged);
        }
    }
}

#[test]
fn another_amount_user_or_item_is_found() {
    let right = saga(1, 0, 5);
    let items = Items::sum(parse_entries("1:3").unwrap()).unwrap();
    let wrongs = [
        Saga { amount: "6".parse().unwrap(), ..right.clone() },
        Saga { user_id: "8".parse().unwrap(), ..right.clone() },
        Saga { items, ..right.clone() },
    ];
    for wrong in wrongs {
        let mut told = Told::begin();
        told.tell(&event(CheckoutStarted, right.clone(), 0));
        told.tell(&event(PaymentDebited, wrong, 0));
        assert_eq!(told.rules(), [Rule::Content]);
    }
}

#[test]
fn two_completed_attempts_or_one_after_a_completed_one_are_found() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut told = Told::begin();
        for attempt in [first, second] {
            WAYS[0].iter().for_each(|kind| told.tell(&event(*kind, saga(1, attempt, 5), 0)));
        }
        assert_eq!(told.rules(), [Rule::PaidTwice]);
    }
    let mut told = Told::begin();
    WAYS[0].iter().for_each(|kind| told.tell(&event(*kind, saga(1, 0, 5), 0)));
    told.tell(&event(CheckoutStarted, saga(1, 1, 5), 0));
    assert_eq!(told.rules(), [Rule::PaidTwice]);
}

#[test]
fn a_saga_past_its_limit_is_told_once_and_one_that_never_ended_when_it_is_said_to_be_closed() {
    let mut told = Told::begin();
    told.tell(&event(CheckoutStarted, saga(1, 0, 5), 0));
    told.rest();
    assert_eq!(told.found, Vec::new(), "young yet");
    told.at_ms += LIMIT_MS;
    told.rest();
    told.rest();
    assert_eq!(told.historian.figures().overdue, 1);
    assert_eq!(told.found.len(), 1);
    told.close();
    assert_eq!(told.rules(), [Rule::NeverEnded, Rule::Overdue]);
}

#[test]
fn what_comes_after_it_was_forgotten_is_counted_as_late() {
    let mut told = Told::begin();
    WAYS[0].iter().for_each(|kind| told.tell(&event(*kind, saga(1, 0, 5), 0)));
    told.close();
    told.tell(&event(CheckoutStarted, saga(1, 0, 5), 0));
    assert_eq!((told.historian.figures().late, told.historian.figures().remembered), (1, 0));
    assert_eq!(told.rules(), []);
}

#[test]
fn a_saga_is_forgotten_and_missed_although_the_next_watermark_comes_before_the_grace_of_the_last_is_over() {
    let mut told = Told::begin();
    WAYS[0].iter().for_each(|kind| told.tell(&event(*kind, saga(1, 0, 5), 0)));
    told.tell(&event(CheckoutStarted, saga(2, 0, 5), 0));
    let mut watermarks = |ms: u64| {
        for _ in 0..ms / 1_000 {
            told.tell(&Event::Watermark(Watermark { closed_before_ms: told.at_ms }));
            told.at_ms += 1_000;
        }
        (told.historian.figures().remembered, told.historian.figures().completed, told.found.clone())
    };
    assert_eq!(watermarks(2 * GRACE_MS), (1, 1, vec![]), "the end of the other one may still come");
    let (remembered, _, found) = watermarks(END_MS);
    assert_eq!((remembered, found.len(), found[0].rule), (0, 1, Rule::NeverEnded));
}

#[test]
fn a_watermark_from_the_future_is_not_believed() {
    let mut told = Told::begin();
    told.tell(&event(CheckoutStarted, saga(1, 0, 5), 0));
    told.tell(&Event::Watermark(Watermark { closed_before_ms: u64::MAX }));
    told.rest();
    assert_eq!(told.historian.figures().open, 1);
    assert_eq!(told.rules(), []);
}

#[test]
fn no_more_is_remembered_than_allowed() {
    let patience =
        Patience { saga_limit_ms: LIMIT_MS, grace_ms: GRACE_MS, end_ms: END_MS, max_sagas: 100, forgets: true };
    let mut told = Told::begin();
    told.historian = Historian::new(patience);
    for order in 0..1_000 {
        told.tell(&event(CheckoutStarted, saga(order, 0, 5), 0));
        assert!(told.historian.figures().remembered <= 100);
    }
    let figures = told.historian.figures();
    assert_eq!(figures.dropped + figures.remembered as u64, 1_000);
    assert_eq!(told.rules(), [], "to forget is no finding");
}

/// A saga of `quantity` pieces for `amount`.
fn purchase(order: usize, amount: u64, quantity: u64) -> Saga {
    let items = Items::sum(parse_entries(&format!("1:{quantity}")).unwrap()).unwrap();
    Saga { items, ..saga(order, 0, amount) }
}

/// Debited, refunded, completed; reserved pieces and completed ones.
fn sums(told: &Told) -> [i128; 5] {
    let it = told.historian.figures();
    [it.debited_amount, it.refunded_amount, it.completed_amount, it.reserved_pieces, it.completed_pieces]
}

#[test]
fn sums_are_those_of_the_events_and_count_each_saga_once_however_often_it_is_told() {
    let mut told = Told::begin();
    for times in 0..3 {
        for kind in WAYS[0] {
            told.tell(&event(*kind, purchase(1, 50, 3), times));
            told.repeat(told.sequence, told.at_ms, &event(*kind, purchase(1, 50, 3), times));
        }
        WAYS[2].iter().for_each(|kind| told.tell(&event(*kind, purchase(2, 700, 20), times)));
        WAYS[1].iter().for_each(|kind| told.tell(&event(*kind, purchase(3, 9_000, 400), times)));
        // A tombstone gives nothing back.
        WAYS[5].iter().for_each(|kind| told.tell(&event(*kind, purchase(4, 10_000, 1), times)));
    }
    told.rest();
    assert_eq!(sums(&told), [0; 5], "something of them may still come");
    told.close();
    told.close();
    assert_eq!(sums(&told), [750, 700, 50, 3, 3]);
    // What comes of them when they are forgotten counts no more.
    WAYS[0].iter().for_each(|kind| told.tell(&event(*kind, purchase(1, 50, 3), 3)));
    told.close();
    assert_eq!(sums(&told), [750, 700, 50, 3, 3]);
    assert_eq!(told.rules(), []);
}

#[test]
fn an_ended_saga_that_kept_another_sum_is_told_once_and_counted_as_it_told_itself() {
    let right = purchase(1, 50, 3);
    let wrong = purchase(1, 49, 3);
    let fewer = purchase(1, 50, 2);
    let on = |kind, saga: &Saga| event(kind, saga.clone(), 0);
    let ways = [
        // A refund of less.
        (
            vec![
                on(CheckoutStarted, &right),
                on(PaymentDebited, &right),
                on(StockFailed, &right),
                on(PaymentRefunded, &wrong),
                on(CheckoutFailed, &right),
            ],
            [Rule::Content, Rule::Kept],
            [50, 49, 0, 0, 0],
        ),
        // No refund.
        (
            vec![
                on(CheckoutStarted, &right),
                on(PaymentDebited, &right),
                on(StockFailed, &right),
                on(CheckoutFailed, &right),
            ],
            [Rule::Kept, Rule::Cause],
            [50, 0, 0, 0, 0],
        ),
        // A debit of less.
        (
            vec![
                on(CheckoutStarted, &right),
                on(PaymentDebited, &wrong),
                on(StockReserved, &right),
                on(CheckoutCompleted, &right),
            ],
            [Rule::Content, Rule::Kept],
            [49, 0, 50, 3, 3],
        ),
        // A reservation of less.
        (
            vec![
                on(CheckoutStarted, &right),
                on(PaymentDebited, &right),
                on(StockReserved, &fewer),
                on(CheckoutCompleted, &right),
            ],
            [Rule::Content, Rule::Kept],
            [50, 0, 50, 2, 3],
        ),
    ];
    for (events, rules, expected) in ways {
        let mut told = Told::begin();
        events.iter().for_each(|event| told.tell(event));
        assert!(!told.found.iter().any(|it| it.rule == Rule::Kept), "what is missing may still come");
        told.rest();
        told.rest();
        told.close();
        assert_eq!(sums(&told), expected);
        let times = told.found.iter().filter(|it| it.rule == Rule::Kept).count();
        assert_eq!(times, 1, "{:#?}", told.found);
        assert_eq!(told.rules(), rules);
    }
}

#[test]
fn what_was_not_heard_from_its_beginning_is_in_no_sum_and_accused_of_none() {
    let mut told = Told::begin();
    told.tell(&event(PaymentDebited, purchase(1, 50, 3), 0));
    told.sequence += 7;
    told.tell(&event(CheckoutFailed, purchase(1, 50, 3), 0));
    told.rest();
    told.close();
    assert_eq!((sums(&told), told.rules()), ([0; 5], vec![]));
}

#[test]
fn what_a_predecessor_has_counted_is_not_counted_again() {
    let mut told = Told::begin();
    WAYS[0].iter().for_each(|kind| told.tell(&event(*kind, purchase(1, 50, 3), 0)));
    told.close();
    let later = Saga { started_at_ms: told.at_ms, ..purchase(2, 700, 20) };
    WAYS[0].iter().for_each(|kind| told.tell(&event(*kind, later.clone(), 0)));
    told.historian.count_from_here();
    told.close();
    assert_eq!(sums(&told), [700, 0, 700, 20, 20]);
    assert_eq!(told.historian.figures().completed, 1);
    assert_eq!(told.rules(), []);
}
