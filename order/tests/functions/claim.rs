//! Claiming sagas that are due: with a lease, a page at a time.

use std::time::Duration;

use common::limits::MAX_SAGAS_PER_CLAIM;
use common::saga::Saga;
use common::undo::State;
use order::config::ReconcileSettings;
use order::effect::Claimed;

use crate::support::{Orders, TRACE, settings};

const HOUR_MS: u64 = 3_600_000;

/// Backoffs so long that no test meets their end: one, two, four hours, then five.
fn patient() -> ReconcileSettings {
    settings(Duration::from_millis(HOUR_MS), Duration::from_millis(5 * HOUR_MS))
}

/// Orders with one open saga that was begun two hours ago.
async fn with_old_saga() -> (Orders, Saga) {
    let mut orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    let saga = orders.make_older(&saga, 2 * HOUR_MS);
    (orders, saga)
}

fn ids(claimed: &[Claimed]) -> Vec<&str> {
    claimed.iter().map(|claimed| claimed.saga.saga_id.as_str()).collect()
}

#[tokio::test]
async fn a_saga_is_claimed_whole_when_it_is_old_enough() {
    let (mut orders, saga) = with_old_saga().await;
    orders.put_order("6", "k");
    let young = orders.started("6", "inbox", None).await;
    let before = orders.now_ms();
    let (claimed, more) = orders.claim(&patient()).await;
    let after = orders.now_ms();
    assert_eq!((ids(&claimed), more), (vec!["5.k.0"], false));
    assert_eq!((&claimed[0].saga, claimed[0].round, claimed[0].traceparent.as_str()), (&saga, 1, TRACE));
    let ages = before - saga.started_at_ms..=after - saga.started_at_ms;
    assert!(ages.contains(&claimed[0].age_ms));
    assert_eq!(orders.places(&saga), ["retry", "retry_started"]);
    assert_eq!(orders.scores("retry_started")["5.k.0"], saga.started_at_ms);
    assert_eq!(orders.places(&young), ["open"]);
    orders.assert_books_balance();
}

#[tokio::test]
async fn a_claim_is_a_lease_so_a_second_one_finds_nothing() {
    let (mut orders, saga) = with_old_saga().await;
    assert_eq!(orders.claim(&patient()).await.0.len(), 1);
    for _ in 0..3 {
        assert_eq!(orders.claim(&patient()).await, (vec![], false));
    }
    assert_eq!(orders.undo(&saga)["round"], "1");
    assert_eq!(orders.places(&saga), ["retry", "retry_started"]);
}

#[tokio::test]
async fn when_a_lease_is_over_anybody_claims_the_saga_again_after_a_longer_one() {
    let (mut orders, saga) = with_old_saga().await;
    for (round, hours) in [(1, 1), (2, 2), (3, 4), (4, 5), (5, 5)] {
        let before = orders.now_ms();
        let (claimed, _) = orders.claim(&patient()).await;
        let after = orders.now_ms();
        assert_eq!((ids(&claimed), claimed[0].round), (vec!["5.k.0"], round));
        assert_eq!(claimed[0].saga, saga);
        let (due, lease) = (orders.scores("retry")["5.k.0"], hours * HOUR_MS);
        assert!((before + lease / 2..=after + lease).contains(&due), "round {round}: due in {}", due - after);
        assert_eq!(orders.scores("retry_started")["5.k.0"], saga.started_at_ms);
        // The lease ends.
        orders.db.console.ask(&["ZADD", "retry", &after.to_string(), "5.k.0"]);
    }
}

#[tokio::test]
async fn leases_differ_so_that_sagas_do_not_come_back_all_at_once() {
    let mut orders = Orders::start().await;
    let mut dues = std::collections::BTreeSet::new();
    for n in 0..20 {
        let id = n.to_string();
        orders.put_order(&id, "k");
        let saga = orders.started(&id, "inbox", None).await;
        orders.make_older(&saga, 2 * HOUR_MS);
    }
    orders.claim(&patient()).await;
    dues.extend(orders.scores("retry").into_values());
    assert!(dues.len() > 10, "{dues:?}");
}

#[tokio::test]
async fn a_claim_takes_one_page_and_says_whether_there_may_be_more() {
    let mut orders = Orders::start().await;
    let extra = 7;
    for n in 0..MAX_SAGAS_PER_CLAIM + extra {
        orders.put_order(&n.to_string(), "k");
        let saga = orders.started(&n.to_string(), "inbox", None).await;
        orders.make_older(&saga, 2 * HOUR_MS - n);
    }
    let (first, more) = orders.claim(&patient()).await;
    assert_eq!((first.len() as u64, more), (MAX_SAGAS_PER_CLAIM, true));
    let oldest: Vec<String> = (0..MAX_SAGAS_PER_CLAIM).map(|n| format!("{n}.k.0")).collect();
    assert_eq!(ids(&first), oldest, "the oldest come first");
    let (second, more) = orders.claim(&patient()).await;
    assert_eq!((second.len() as u64, more), (extra, false));
    assert_eq!(orders.claim(&patient()).await, (vec![], false));
    orders.assert_books_balance();

    // What is due again and what is due for the first time share the page.
    orders.put_order("new", "k");
    let new = orders.started("new", "inbox", None).await;
    orders.make_older(&new, 2 * HOUR_MS);
    for n in 0..MAX_SAGAS_PER_CLAIM - 1 {
        orders.db.console.ask(&["ZADD", "retry", "XX", &n.to_string(), &format!("{n}.k.0")]);
    }
    let (page, more) = orders.claim(&patient()).await;
    assert_eq!((page.len() as u64, more), (MAX_SAGAS_PER_CLAIM, true));
    assert_eq!(ids(&page).last(), Some(&"new.k.0"));
    orders.assert_books_balance();
}

#[tokio::test]
async fn entries_of_sagas_that_are_closed_or_gone_are_cleared_away() {
    let (mut orders, saga) = with_old_saga().await;
    orders.close(&saga, &State::Completed).await;
    let old = (saga.started_at_ms).to_string();
    // Left behind by a defect or by hand: a saga that is closed, and sagas of which nothing is known.
    orders.db.console.ask(&["ZADD", "open", &old, "gone.k.0", &old, "5.k.0"]);
    orders.db.console.ask(&["ZADD", "retry", &old, "lost.k.0"]);
    orders.db.console.ask(&["ZADD", "retry_started", &old, "lost.k.0"]);
    assert_eq!(orders.claim(&patient()).await, (vec![], false));
    assert_eq!(orders.db.console.keys("open").len() + orders.db.console.keys("retry").len(), 0);
    assert_eq!(orders.undo(&saga).get("round"), None);
    assert_eq!(orders.db.console.keys("undo:"), ["undo:5.k.0"], "no entry is invented");
}

#[tokio::test]
async fn an_empty_database_has_nothing_to_claim() {
    let orders = Orders::start().await;
    assert_eq!(orders.claim(&patient()).await, (vec![], false));
}
