//! `checkout audit`: clean while load runs; names each thing that is damaged by hand; and tells "differs" from "could not look".

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Output, Stdio};

use serde_json::Value;
use testing::books::Books;
use testing::books::read::Database;
use testing::load::{Load, Seed};
use testing::platform::{Options, Platform, program};
use testing::stream::Nats;
use testing::wait::{eventually, until};

async fn run(words: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program());
    command.arg("audit").args(words).stdin(Stdio::null()).env_remove("CHECKOUT_DATA");
    command.output().await.unwrap()
}

/// For so long what looks wrong must go on to, where nothing is: only who is slow waits for it.
const CALM: &str = "--settle=60";
/// The same where something is wrong.
const SHORT: &str = "--settle=1";

/// The report of an audit, and its exit code. Who could not look, on a machine that stands still for a while, looks again.
async fn audit(platform: &Platform, settle: &str) -> (i32, Value) {
    let folder = platform.folder().path().to_str().unwrap();
    until("an audit", async || {
        let output = run(&["--json", settle, "--data", folder]).await;
        match (output.status.code(), serde_json::from_slice::<Value>(&output.stdout)) {
            (Some(1), Err(_)) => {
                eprintln!("{}", String::from_utf8_lossy(&output.stderr));
                None
            }
            // It could look, and not prove a sum in that moment.
            (Some(1), Ok(report)) if report["findings"] == Value::Array(Vec::new()) => None,
            (Some(code), Ok(report)) => Some((code, report)),
            (code, report) => panic!("{code:?} {report:?}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    })
    .await
}

async fn assert_clean(platform: &Platform) -> Value {
    let (code, report) = audit(platform, CALM).await;
    assert_eq!(code, 0, "{report:#}");
    report
}

async fn ask(platform: &Platform, service: &str, words: &[&str]) -> Option<String> {
    let mut database = Database::open(&platform.primary_url(service).await.unwrap()).await;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    let value: redis::Value = command.query_async(&mut database.0).await.unwrap();
    match value {
        redis::Value::BulkString(bytes) => Some(String::from_utf8(bytes).unwrap()),
        redis::Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_everything_agrees() {
    let platform = Platform::start(Options::default().scale("order", 2)).await;
    // More balances than are read at once, of which all change.
    Seed { users: 3_000, items: 1_000, ..Seed::mixed(30_000) }.fill(&platform.client()).await;
    let load = Load::start(&platform, 30_000, 8);
    // More sagas than are read at once.
    load.more(1_000).await;
    for _ in 0..2 {
        let report = until("an audit while something moves", async || {
            let before = load.answered();
            let report = assert_clean(&platform).await;
            (load.answered() > before).then_some(report)
        })
        .await;
        assert_eq!(report["looked_at"]["users"], 3_000);
        assert!(report["looked_at"]["undo entries"].as_u64().unwrap() > 500);
        assert!(report["looked_at"]["events"].as_u64().unwrap() > 1_000);
    }
    let answers = load.stop().await;
    let books = Books::closed(&platform).await;
    answers.assert_true(&books);
    assert_clean(&platform).await;
}

/// How often writes of payment's database were held.
async fn times_held(platform: &Platform) -> u64 {
    let statistics = ask(platform, "payment", &["INFO", "commandstats"]).await.unwrap();
    let line = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_client|pause:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_never_rests_is_proven_by_holding_writes_for_a_moment_and_by_no_means_if_that_is_forbidden() {
    let platform = Platform::start(Options::default()).await;
    platform.client().batch_users(100, 1_000).await;
    // Deposits without end, each whole at every instant; more of them are always on their way than the database has carried out.
    let url = platform.primary_url("payment").await.unwrap();
    let restless: Vec<_> = (0..3)
        .map(|n| {
            let url = url.clone();
            tokio::spawn(async move {
                let mut database = Database::open(&url).await;
                let mut deposits = redis::pipe();
                for _ in 0..300 {
                    deposits.cmd("MULTI").cmd("INCRBY").arg(format!("user:{n}")).arg(1);
                    deposits.cmd("HINCRBY").arg("totals").arg("deposited").arg(1).cmd("EXEC");
                }
                while deposits.query_async::<Vec<redis::Value>>(&mut database.0).await.is_ok() {}
            })
        })
        .collect();
    let folder = platform.folder().path().to_str().unwrap();
    // Should the machine let all of them rest for the moment of a look, that look proves it, and shows nothing about holding.
    eventually("it cannot prove what never rests", async || {
        let output = run(&["--json", CALM, "--no-hold", "--data", folder]).await;
        let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
        assert_eq!(report["findings"], Value::Array(Vec::new()), "{report:#}");
        output.status.code() == Some(1)
    })
    .await;
    assert_eq!(times_held(&platform).await, 0, "it was forbidden");
    let mut is_proven = false;
    for _ in 0..5 {
        let before = times_held(&platform).await;
        let output = run(&["--json", CALM, "--data", folder]).await;
        assert_ne!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
        is_proven = output.status.code() == Some(0) && times_held(&platform).await > before;
        if is_proven {
            break;
        }
    }
    assert!(is_proven, "it is proven by holding writes");
    restless.iter().for_each(tokio::task::JoinHandle::abort);
    // And it goes on.
    platform.client().post("/payment/add_funds/5/1").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_is_not_missed() {
    let forgetful = ["WATERMARK_MARGIN_MS=1", "WATERMARK_EVERY_MS=200", "UNDO_RETENTION_S=1"];
    let options = forgetful.iter().fold(Options::default(), |options, it| options.set(&format!("order.{it}")));
    let platform = Platform::start(options).await;
    Seed::mixed(30_000).fill(&platform.client()).await;
    Load::start(&platform, 100, 8).all().await;
    eventually("all records are forgotten", async || {
        let payment = ask(&platform, "payment", &["SCARD", "buckets"]).await;
        let stock = ask(&platform, "stock", &["SCARD", "buckets"]).await;
        [payment, stock].iter().all(|count| count.as_deref() == Some("0"))
    })
    .await;
    let report = assert_clean(&platform).await;
    assert_eq!((&report["looked_at"]["payments"], &report["looked_at"]["orders"]), (&0.into(), &30_000.into()));
    let load = Load::start(&platform, 30_000, 8);
    load.more(100).await;
    assert_clean(&platform).await;
    load.stop().await;
}

/// One thing that is damaged: in which database, by which command, and what the audit calls it.
struct Damage {
    service: &'static str,
    harm: Vec<String>,
    mend: Vec<String>,
    rule: &'static str,
    about: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damage_is_named_and_nothing_is_called_wrong_once_it_is_mended() {
    let platform = Platform::start(Options::default()).await;
    Seed::mixed(300).fill(&platform.client()).await;
    Load::start(&platform, 200, 16).all().await;
    let books = Books::closed(&platform).await;
    assert_clean(&platform).await;

    let (order, paid) = books.orders.iter().find(|(_, order)| order.paid).unwrap();
    let saga = paid.current_saga.clone();
    let (payment, stock) = (&books.payments[&saga], &books.reservations[&saga]);
    let bucket = async || {
        let started: u64 =
            ask(&platform, "order", &["HGET", &format!("undo:{saga}"), "started_ms"]).await.unwrap().parse().unwrap();
        format!("outcomes:{}", started / common::limits::OUTCOME_BUCKET_MS)
    };
    let (payments, stocks) = (bucket().await, bucket().await);
    let words = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let damage = |service, harm: &[&str], mend: &[&str], rule, about: &str| Damage {
        service,
        harm: words(harm),
        mend: words(mend),
        rule,
        about: about.to_owned(),
    };
    let (of_saga, undo_key, order_key) = (format!("saga {saga}"), format!("undo:{saga}"), format!("order:{order}"));
    let damages = [
        damage("payment", &["INCRBY", "user:1", "1"], &["DECRBY", "user:1", "1"], "sum", "payment's sum of credits"),
        damage(
            "stock",
            &["HINCRBY", "item:1", "stock", "1"],
            &["HINCRBY", "item:1", "stock", "-1"],
            "sum",
            "stock's sum",
        ),
        damage(
            "payment",
            &["HINCRBY", "totals", "debited", "3"],
            &["HINCRBY", "totals", "debited", "-3"],
            "sum",
            "payment's",
        ),
        damage(
            "order",
            &["HINCRBY", "totals", "failed", "1"],
            &["HINCRBY", "totals", "failed", "-1"],
            "open_count",
            "sagas",
        ),
        damage(
            "order",
            &["HINCRBY", "totals", "completed_amount", "1"],
            &["HINCRBY", "totals", "completed_amount", "-1"],
            "totals",
            "amounts of completed sagas",
        ),
        damage("payment", &["HDEL", &payments, &saga], &["HSET", &payments, &saga, payment], "payment", &of_saga),
        damage(
            "payment",
            &["HSET", &payments, &saga, "debited 99 1"],
            &["HSET", &payments, &saga, payment],
            "payment",
            &of_saga,
        ),
        damage("stock", &["HDEL", &stocks, &saga], &["HSET", &stocks, &saga, stock], "stock", &of_saga),
        damage(
            "stock",
            &["HSET", &stocks, &saga, "failed 1:1 abandoned"],
            &["HSET", &stocks, &saga, stock],
            "stock",
            &of_saga,
        ),
        damage(
            "order",
            &["HSET", &undo_key, "state", "failed"],
            &["HSET", &undo_key, "state", "completed"],
            "stream",
            &of_saga,
        ),
        damage(
            "order",
            &["HSET", &order_key, "paid", "0"],
            &["HSET", &order_key, "paid", "1"],
            "order",
            &format!("order {order}"),
        ),
        damage(
            "order",
            &["HSET", "order:250", "paid", "1"],
            &["HSET", "order:250", "paid", "0"],
            "records",
            "orders that are paid",
        ),
    ];
    for Damage { service, harm, mend, rule, about } in damages {
        let of = |words: &[String]| words.iter().map(|word| word.to_owned()).collect::<Vec<_>>();
        let (harm, mend) = (of(&harm), of(&mend));
        let harmed: Vec<&str> = harm.iter().map(String::as_str).collect();
        ask(&platform, service, &harmed).await;
        let (code, report) = audit(&platform, SHORT).await;
        assert_eq!(code, 2, "{harm:?}: {report:#}");
        let named = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|finding| finding["rule"] == rule && finding["about"].as_str().unwrap().starts_with(&about));
        assert!(named, "{harm:?} should be {rule} of {about}: {report:#}");
        ask(&platform, service, &mend.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    assert_clean(&platform).await;

    // A forged event, after which the stream tells two ends.
    let nats = Nats::of(&platform).await;
    let events = nats.events().await;
    let completed = events.iter().find(|event| event.subject == "checkout.completed" && event.saga() == saga).unwrap();
    let mut body = completed.json();
    body["reason"] = "abandoned".into();
    nats.publish("checkout.failed", completed.headers_as("checkout.failed"), body.to_string()).await;
    let (code, report) = audit(&platform, SHORT).await;
    assert_eq!(code, 2);
    let named = |finding: &Value| finding["rule"] == "contradiction" && finding["about"] == of_saga.as_str();
    assert!(report["findings"].as_array().unwrap().iter().any(named), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicated_platform_is_audited_through_its_sentinels_also_after_a_failover() {
    let platform = Platform::start(Options::default().ha()).await;
    Seed::mixed(5_000).fill(&platform.client()).await;
    let load = Load::start(&platform, 5_000, 16);
    load.more(100).await;
    assert_clean(&platform).await;
    let before = platform.primary("payment").await;
    // It stands still until another one has taken its place.
    let held = platform.hold(&before).await;
    eventually("another node is the primary", async || platform.primary("payment").await != before).await;
    assert_clean(&platform).await;
    drop(held);
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_look_says_so_and_who_asks_wrongly_is_told() {
    let nowhere = ["redis://127.0.0.1:1", "nats://127.0.0.1:1"];
    let [redis, nats] = nowhere;
    let of = |output: &Output| (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned());
    let place = ["--nats", nats, "--order", redis, "--payment", redis, "--stock", redis];
    let (code, said) = of(&run(&[&place[..], &["--events=0"]].concat()).await);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("refused"), "{said}");
    for wrong in [
        &["--data", "/nowhere", "--nats", nats][..],
        &["--events", "many"],
        &[&place[..6], &["--stock", "http://x"]].concat(),
    ] {
        let (code, said) = of(&run(wrong).await);
        assert_eq!(code, Some(64), "{wrong:?}: {said}");
    }
    let (code, said) = of(&run(&["--data", "/nowhere"]).await);
    assert_eq!(code, Some(1), "{said}");
}
