//! Many callers share a pipeline, and each gets its own reply.

use common::redis::{Call, CallError, Operation};
use futures::future::join_all;
use testing::servers::Console;

use crate::support::{Bench, LANES_PATIENCE, add, add_one, far, is_ok};

/// How often the server has read from a connection.
fn reads(console: &mut Console) -> i64 {
    let info = console.text(&["INFO", "stats"]).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    line.expect("the server counts its reads").trim().parse().unwrap()
}

/// How many commands of a kind the server has carried out.
fn carried_out(console: &mut Console, command: &str) -> i64 {
    let info = console.text(&["INFO", "commandstats"]).unwrap();
    let prefix = format!("cmdstat_{command}:calls=");
    let line = info.lines().find_map(|line| line.strip_prefix(&prefix).and_then(|rest| rest.split(',').next()));
    line.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn many_callers_share_few_pipelines() {
    let bench = Bench::start(1).await;
    let mut console = bench.redis.console();
    let before = reads(&mut console);
    let calls = 2_000;
    let began = std::time::Instant::now();
    let replies = join_all((0..calls).map(|_| bench.database.call(add_one(), far()))).await;
    let reads = reads(&mut console) - before;
    assert!(replies.iter().all(is_ok));
    let is_soon = began.elapsed() < LANES_PATIENCE;
    // Where the server stands still for that long they come again, and are answered from their records.
    let calls_carried_out = carried_out(&mut console, "fcall");
    assert_eq!(bench.counter(), calls);
    assert!(calls_carried_out == calls || (calls_carried_out > calls && !is_soon), "{calls_carried_out}");
    // A pipeline is read in pieces of 16 KiB, some 100 calls each.
    assert!(reads < calls_carried_out / 20, "{calls_carried_out} calls came in {reads} reads");
}

#[tokio::test]
async fn each_caller_gets_its_own_replies_in_order() {
    let bench = Bench::start(4).await;
    let groups = (1..200_u32).map(|n| {
        let echo = move |m: u32| Call::command("ECHO").arg(format!("{n}/{m}"));
        let database = bench.database.clone();
        async move {
            let replies = database.call_all((0..n % 7).map(echo).collect(), far()).await.unwrap();
            let texts: Vec<_> = replies.into_iter().map(|reply| reply.unwrap().code().to_owned()).collect();
            assert_eq!(texts, (0..n % 7).map(|m| format!("{n}/{m}")).collect::<Vec<_>>());
        }
    });
    join_all(groups).await;
}

#[tokio::test]
async fn a_caller_may_send_more_than_a_group_holds() {
    let bench = Bench::start(1).await;
    let calls = common::limits::MAX_GROUP_COMMANDS * 3 + 1;
    let (many, one) = tokio::join!(
        bench.database.call_all((0..calls).map(|_| add_one()).collect(), far()),
        bench.database.call(add_one(), far()),
    );
    assert!(many.unwrap().iter().all(is_ok));
    assert!(is_ok(&one));
    assert_eq!(bench.counter(), calls as i64 + 1);
}

#[tokio::test]
async fn a_call_that_is_wrong_is_refused_and_its_neighbours_are_not() {
    let bench = Bench::start(1).await;
    let wrong = Call::command("HGETALL");
    let bad_value = add(&Operation::internal("POST /add".into()), 1).arg("ignored");
    let calls = vec![add_one(), wrong, bad_value, add_one()];
    let (mixed, alone) = tokio::join!(bench.database.call_all(calls, far()), bench.database.call(add_one(), far()));
    let mixed = mixed.unwrap();
    assert!(is_ok(&mixed[0]) && is_ok(&mixed[2]) && is_ok(&mixed[3]) && is_ok(&alone));
    assert!(matches!(&mixed[1], Err(CallError::Refused(why)) if why.contains("wrong number")), "{:?}", mixed[1]);
    assert_eq!(bench.counter(), 4);
}

#[tokio::test]
async fn nothing_to_call_is_answered_at_once() {
    let bench = Bench::start(1).await;
    bench.redis.pause();
    let replies = bench.database.call_all(Vec::new(), far()).await;
    bench.redis.resume();
    assert_eq!(replies, Ok(Vec::new()));
}
