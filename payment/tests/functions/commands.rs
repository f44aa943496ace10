//! The functions of the REST commands: once per operation key.

use common::amount::{Amount, MAX};
use common::problem::Code;
use common::redis::Operation;
use payment::effect::{add_funds, batch_init, create_user, find_user, pay};
use testing::database::{operation, other_request};

use crate::support::{Payment, saga};

fn amount(number: u64) -> Amount {
    number.try_into().unwrap()
}

#[tokio::test]
async fn a_user_is_created_once_per_operation() {
    let mut payment = Payment::start().await;
    let (first, second) = ("u1".parse().unwrap(), "u2".parse().unwrap());
    let key = operation("create");
    assert_eq!(payment.db.texts(create_user(&key, &first)).await, ["ok", "u1"]);
    assert_eq!(payment.credit("u1"), Some(0));
    // The repeat comes with the id that another instance drew; it answers with the first one.
    assert_eq!(payment.db.texts(create_user(&key, &second)).await, ["ok", "u1"]);
    assert_eq!(payment.db.texts(create_user(&other_request(&key), &second)).await, ["key_mismatch"]);
    assert_eq!(payment.credit("u2"), None);
    assert_eq!(payment.db.texts(find_user(&first)).await, ["0"]);
    assert_eq!(payment.db.call(find_user(&second)).await.get(0), None);
    let ttl = payment.db.console.number(&["TTL", &key.key]);
    assert!((1..=600).contains(&ttl), "the operation's record expires in {ttl} s");
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_repeated_creation_does_not_reset_the_credit() {
    let mut payment = Payment::start().await;
    let user = "u1".parse().unwrap();
    payment.db.call(create_user(&operation("create"), &user)).await;
    payment.db.call(add_funds(&operation("add"), &user, amount(5))).await;
    payment.db.call(create_user(&operation("create"), &user)).await;
    assert_eq!(payment.credit("u1"), Some(5));
    payment.assert_books_balance();
}

#[tokio::test]
async fn funds_are_added_once_per_operation() {
    let mut payment = Payment::with_users(&[("1", 7)]).await;
    let (known, unknown) = ("1".parse().unwrap(), "2".parse().unwrap());
    for _ in 0..3 {
        assert_eq!(payment.db.texts(add_funds(&operation("a"), &known, amount(5))).await, ["ok", "12"]);
    }
    let mismatch = add_funds(&other_request(&operation("a")), &known, amount(6));
    assert_eq!(payment.db.texts(mismatch).await, ["key_mismatch"]);
    assert_eq!(payment.db.texts(add_funds(&operation("b"), &known, amount(0))).await, ["ok", "12"]);
    assert_eq!(payment.db.texts(add_funds(&operation("c"), &unknown, amount(5))).await, ["no_user"]);
    // A refusal is a reply like any other: its repeat gives it again, whatever has become of the user.
    payment.put_user("2", 0);
    assert_eq!(payment.db.texts(add_funds(&operation("c"), &unknown, amount(5))).await, ["no_user"]);
    assert_eq!((payment.credit("1"), payment.credit("2"), payment.total("deposited")), (Some(12), Some(0), 5));
    payment.assert_books_balance();
}

#[tokio::test]
async fn credit_stops_at_the_largest_exact_number() {
    let mut payment = Payment::with_users(&[("1", MAX - 1), ("2", 0)]).await;
    let (one, two) = ("1".parse().unwrap(), "2".parse().unwrap());
    let max = MAX.to_string();
    assert_eq!(payment.db.texts(add_funds(&operation("a"), &one, amount(1))).await, ["ok", &max]);
    assert_eq!(payment.db.texts(add_funds(&operation("b"), &one, amount(1))).await, ["overflow", &max]);
    assert_eq!(payment.db.texts(add_funds(&operation("c"), &one, amount(MAX))).await, ["overflow", &max]);
    assert_eq!(payment.db.texts(add_funds(&operation("d"), &one, amount(0))).await, ["ok", &max]);
    assert_eq!(payment.db.texts(add_funds(&operation("e"), &two, amount(MAX))).await, ["ok", &max]);
    assert_eq!(payment.db.texts(pay(&operation("f"), &two, amount(MAX))).await, ["ok", "0"]);
    assert_eq!((payment.credit("1"), payment.credit("2")), (Some(MAX), Some(0)));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_payment_is_taken_once_per_operation_and_never_more_than_there_is() {
    let mut payment = Payment::with_users(&[("1", 7)]).await;
    let (known, unknown) = ("1".parse().unwrap(), "2".parse().unwrap());
    assert_eq!(payment.db.texts(pay(&operation("a"), &known, amount(8))).await, ["no_credit", "7"]);
    for _ in 0..3 {
        assert_eq!(payment.db.texts(pay(&operation("b"), &known, amount(7))).await, ["ok", "0"]);
    }
    assert_eq!(payment.db.texts(pay(&operation("c"), &known, amount(1))).await, ["no_credit", "0"]);
    assert_eq!(payment.db.texts(pay(&operation("d"), &known, amount(0))).await, ["ok", "0"]);
    assert_eq!(payment.db.texts(pay(&operation("e"), &unknown, amount(0))).await, ["no_user"]);
    let mismatch = pay(&other_request(&operation("b")), &known, amount(0));
    assert_eq!(payment.db.texts(mismatch).await, ["key_mismatch"]);
    assert_eq!((payment.credit("1"), payment.credit("2"), payment.total("paid")), (Some(0), None, 7));
    payment.assert_books_balance();
}

async fn init(payment: &Payment, key: &Operation, users: u64, credit: u64) -> Result<(), Code> {
    let call = |chunk: &_| batch_init(key, chunk, amount(credit));
    payment.db.batch(key, users, call).await.map_err(|problem| problem.code)
}

#[tokio::test]
async fn a_batch_creates_and_replaces_users_whole() {
    let mut payment = Payment::with_users(&[("2499", 3), ("2500", 4), ("other", 5)]).await;
    assert_eq!(init(&payment, &operation("first"), 2_500, 10).await, Ok(()));
    assert_eq!(payment.db.console.keys("user:").len(), 2_502);
    for (user, credit) in [("0", 10), ("999", 10), ("1000", 10), ("2499", 10), ("2500", 4), ("other", 5)] {
        assert_eq!(payment.credit(user), Some(credit), "user {user}");
    }
    assert_eq!((payment.total("initial"), payment.total("replaced")), (25_012, 3));
    payment.assert_books_balance();

    payment.debit(&saga("5.k.0", "7", 4)).await;
    assert_eq!(init(&payment, &operation("second"), 1_000, 2).await, Ok(()));
    assert_eq!((payment.credit("7"), payment.total("replaced")), (Some(2), 3 + 9_996));
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_batch_that_is_done_is_not_repeated() {
    let mut payment = Payment::start().await;
    for users in [0, 1, 1_500] {
        let key = operation(&format!("batch-{users}"));
        assert_eq!(init(&payment, &key, users, 10).await, Ok(()));
        payment.db.call(pay(&operation(&format!("pay-{users}")), &"0".parse().unwrap(), amount(1))).await;
        let before = payment.db.console.dump();
        assert_eq!(init(&payment, &key, users, 10).await, Ok(()));
        assert_eq!(payment.db.console.dump(), before, "a repeat changes nothing");
        assert_eq!(init(&payment, &other_request(&key), users, 10).await, Err(Code::KeyMismatch));
        assert_eq!(payment.db.console.dump(), before, "another request with the key changes nothing");
    }
    payment.assert_books_balance();
}

#[tokio::test]
async fn a_batch_belongs_to_the_request_that_began_it_until_its_lease_is_over() {
    let mut payment = Payment::start().await;
    let key = operation("batch");
    let chunks = payment.db.chunks(1_500).await;
    let call = |n: usize| batch_init(&key, &chunks[n], amount(10));
    assert_eq!(payment.db.texts(call(0)).await, ["ok"]);
    let lease = payment.db.console.number(&["TTL", &key.key]);
    assert!((1..=10).contains(&lease), "a request that dies leaves its key free in {lease} s");
    assert_eq!(init(&payment, &key, 1_500, 10).await, Err(Code::KeyInUse));
    // The owner repeats a chunk whose reply it lost; the books still balance.
    assert_eq!(payment.db.texts(call(0)).await, ["ok"]);
    assert_eq!((payment.total("initial"), payment.total("replaced")), (20_000, 10_000));
    payment.assert_books_balance();

    payment.db.console.ask(&["DEL", &key.key]);
    assert_eq!(init(&payment, &key, 1_500, 10).await, Ok(()));
    assert_eq!(payment.db.texts(call(1)).await, ["done"], "the first owner comes too late");
    let ttl = payment.db.console.number(&["TTL", &key.key]);
    assert!((11..=600).contains(&ttl), "what is done is remembered as long as any reply: {ttl} s");
    assert_eq!(payment.db.console.keys("user:").len(), 1_500);
    payment.assert_books_balance();
}
