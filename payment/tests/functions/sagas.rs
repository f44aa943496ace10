//! Debit and refund: each saga's amount is taken at most once and given back at most once, in whatever order they come.

use common::amount::MAX;
use common::redis::Operation;
use payment::decision::Outcome;
use payment::effect::{add_funds, batch_init, pay};
use testing::database::operation;

use crate::support::{Payment, declined, refunded, saga, voided};

#[tokio::test]
async fn a_debit_takes_the_amount_once() {
    let mut payment = Payment::with_users(&[("7", 30)]).await;
    let saga = saga("5.k.0", "7", 20);
    for _ in 0..3 {
        assert_eq!(payment.debit(&saga).await, Outcome::Debited);
        assert_eq!((payment.credit("7"), payment.total("debited")), (Some(10), 20));
    }
    assert_eq!(payment.record(&saga).as_deref(), Some("debited 20 7"));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_debit_without_credit_is_declined_for_ever() {
    let mut payment = Payment::with_users(&[("7", 19)]).await;
    let saga = saga("5.k.0", "7", 20);
    assert_eq!(payment.debit(&saga).await, declined("insufficient_credit:7"));
    payment.db.call(add_funds(&operation("a"), &"7".parse().unwrap(), 100.try_into().unwrap())).await;
    assert_eq!(payment.debit(&saga).await, declined("insufficient_credit:7"));
    assert_eq!(payment.refund(&saga, "out_of_stock:1").await, declined("insufficient_credit:7"));
    assert_eq!(payment.record(&saga).as_deref(), Some("declined 20 7 insufficient_credit:7"));
    assert_eq!((payment.credit("7"), payment.total("debited"), payment.total("refunded")), (Some(119), 0, 0));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_debit_of_an_unknown_user_is_declined_for_ever() {
    let mut payment = Payment::start().await;
    for (id, amount) in [("5.k.0", 20), ("6.k.0", 0)] {
        let saga = saga(id, "7", amount);
        assert_eq!(payment.debit(&saga).await, declined("unknown_user:7"));
        assert_eq!(payment.credit("7"), None);
        assert_eq!(payment.record(&saga), Some(format!("declined {amount} 7 unknown_user:7")));
    }
    payment.put_user("7", 20);
    assert_eq!(payment.debit(&saga("5.k.0", "7", 20)).await, declined("unknown_user:7"));
    assert_eq!(payment.credit("7"), Some(20));
    payment.assert_books_balance();
}

#[tokio::test]
async fn the_last_coin_and_nothing_at_all_can_be_debited() {
    let mut payment = Payment::with_users(&[("7", MAX)]).await;
    assert_eq!(payment.debit(&saga("5.k.0", "7", MAX)).await, Outcome::Debited);
    assert_eq!(payment.debit(&saga("6.k.0", "7", 0)).await, Outcome::Debited);
    assert_eq!(payment.debit(&saga("8.k.0", "7", 1)).await, declined("insufficient_credit:7"));
    assert_eq!(payment.credit("7"), Some(0));
    assert_eq!(payment.refund(&saga("6.k.0", "7", 0), "abandoned").await, refunded("abandoned"));
    assert_eq!(payment.refund(&saga("5.k.0", "7", MAX), "abandoned").await, refunded("abandoned"));
    assert_eq!(payment.credit("7"), Some(MAX));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_refund_gives_the_amount_back_once_and_the_first_reason_stands() {
    let mut payment = Payment::with_users(&[("7", 30)]).await;
    let saga = saga("5.k.0", "7", 20);
    payment.debit(&saga).await;
    for reason in ["out_of_stock:1", "out_of_stock:1", "abandoned"] {
        assert_eq!(payment.refund(&saga, reason).await, refunded("out_of_stock:1"));
        assert_eq!((payment.credit("7"), payment.total("refunded")), (Some(30), 20));
    }
    assert_eq!(payment.debit(&saga).await, refunded("out_of_stock:1"), "a late debit takes nothing");
    assert_eq!(payment.record(&saga).as_deref(), Some("refunded 20 7 out_of_stock:1"));
    assert_eq!((payment.credit("7"), payment.total("debited")), (Some(30), 20));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_refund_before_its_debit_lays_a_tombstone() {
    let mut payment = Payment::with_users(&[("7", 30)]).await;
    for user in ["7", "nobody"] {
        let saga = saga(&format!("5.{user}.0"), user, 20);
        for _ in 0..2 {
            assert_eq!(payment.refund(&saga, "abandoned").await, voided("abandoned"));
        }
        assert_eq!(payment.refund(&saga, "out_of_stock:1").await, voided("abandoned"), "the first reason stands");
        assert_eq!(payment.debit(&saga).await, voided("abandoned"), "a late debit takes nothing");
        assert_eq!(payment.refund(&saga, "abandoned").await, voided("abandoned"));
        assert_eq!(payment.record(&saga), Some(format!("voided 20 {user} abandoned")));
    }
    assert_eq!((payment.credit("7"), payment.credit("nobody")), (Some(30), None));
    assert_eq!((payment.total("debited"), payment.total("refunded")), (0, 0));
    payment.assert_books_balance();
}

#[tokio::test]
async fn the_same_saga_with_other_content_is_a_conflict_and_changes_nothing() {
    let mut payment = Payment::with_users(&[("7", 30), ("8", 30)]).await;
    let (debited, gone, void, poor) =
        (saga("1.k.0", "7", 5), saga("2.k.0", "7", 5), saga("3.k.0", "7", 5), saga("4.k.0", "7", 500));
    payment.debit(&debited).await;
    payment.debit(&gone).await;
    payment.refund(&gone, "abandoned").await;
    payment.refund(&void, "abandoned").await;
    payment.debit(&poor).await;
    let before = payment.db.console.dump();
    for recorded in [&debited, &gone, &void, &poor] {
        let id = recorded.saga_id.as_str();
        let record = payment.record(recorded).unwrap();
        for other in [saga(id, "7", 6), saga(id, "8", recorded.amount.get()), saga(id, "nobody", 0)] {
            assert_eq!(payment.debit(&other).await, Outcome::Conflict(record.clone()));
            assert_eq!(payment.refund(&other, "abandoned").await, Outcome::Conflict(record.clone()));
        }
    }
    assert_eq!(payment.db.console.dump(), before);
    payment.assert_books_balance();
}

#[tokio::test]
async fn sagas_of_other_attempts_and_incarnations_are_other_sagas() {
    let mut payment = Payment::with_users(&[("7", 30)]).await;
    for id in ["5.k.0", "5.k.1", "5.j.0"] {
        assert_eq!(payment.debit(&saga(id, "7", 10)).await, Outcome::Debited);
    }
    assert_eq!((payment.credit("7"), payment.records().len()), (Some(0), 3));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_refund_is_never_left_out() {
    let mut payment = Payment::with_users(&[("0", 20), ("7", MAX)]).await;
    let (replaced, rich) = (saga("5.k.0", "0", 20), saga("6.k.0", "7", 20));
    payment.debit(&replaced).await;
    payment.debit(&rich).await;
    let key: Operation = operation("batch");
    payment.db.batch(&key, 1, |chunk| batch_init(&key, chunk, 3.try_into().unwrap())).await.unwrap();
    payment.db.call(add_funds(&operation("a"), &"7".parse().unwrap(), 20.try_into().unwrap())).await;
    assert_eq!(payment.refund(&replaced, "abandoned").await, refunded("abandoned"));
    assert_eq!(payment.refund(&rich, "abandoned").await, refunded("abandoned"));
    assert_eq!((payment.credit("0"), payment.credit("7")), (Some(23), Some(MAX + 20)));
    payment.assert_books_balance();
    // More than the largest amount can only be spent, not be added to.
    let seven = "7".parse().unwrap();
    let credit = (MAX + 20).to_string();
    let add = payment.db.texts(add_funds(&operation("b"), &seven, 1.try_into().unwrap())).await;
    assert_eq!(add, ["overflow", &credit]);
    let paid = payment.db.texts(pay(&operation("c"), &seven, MAX.try_into().unwrap())).await;
    assert_eq!(paid, ["ok", "20"]);
    payment.assert_books_balance();
}

#[tokio::test]
async fn what_a_later_version_has_added_to_a_record_is_left_alone() {
    for (record, again, after) in [
        ("debited 20 7 later=1 more=x:y", Outcome::Debited, refunded("abandoned")),
        (
            "declined 20 7 insufficient_credit:7 later=1",
            declined("insufficient_credit:7"),
            declined("insufficient_credit:7"),
        ),
        ("refunded 20 7 out_of_stock:1 later=1", refunded("out_of_stock:1"), refunded("out_of_stock:1")),
        ("voided 20 7 abandoned later=1", voided("abandoned"), voided("abandoned")),
    ] {
        let mut payment = Payment::with_users(&[("7", 30)]).await;
        let saga = saga("5.k.0", "7", 20);
        assert_eq!(payment.debit(&saga).await, Outcome::Debited);
        let bucket = payment.db.console.keys("outcomes:").remove(0);
        payment.db.console.ask(&["HSET", &bucket, "5.k.0", record]);
        assert_eq!(payment.debit(&saga).await, again, "{record}");
        assert_eq!(payment.record(&saga).as_deref(), Some(record));
        assert_eq!(payment.refund(&saga, "abandoned").await, after, "{record}");
    }
}
