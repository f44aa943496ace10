//! The auditor that follows the stream: silent under honest load, names what was forged, and goes on after its death.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix::sys::signal::Signal;
use testing::client::Client;
use testing::load::{Load, Seed};
use testing::platform::{Options, Platform};
use testing::stream::{Nats, Stored};
use testing::wait::{eventually, until};

/// The sum of the auditor's metrics of which the line begins so.
async fn metric(platform: &Platform, begins: &str) -> Option<u64> {
    let url = platform.processes().remove("auditor").unwrap();
    let answer = Client::new(&url).send(http::Method::GET, "/metrics", &[]).await.ok()?;
    let text = answer.text();
    let of_line = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
    let values: Vec<u64> = text.lines().filter(|line| line.starts_with(begins)).filter_map(of_line).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

async fn has_heard_all(platform: &Platform, nats: &Nats) {
    eventually("the auditor has heard all", async || {
        let stored = nats.events().await.len() as u64;
        let before = metric(platform, "auditor_recalled_total").await.unwrap_or(0);
        metric(platform, "auditor_events_total").await.is_some_and(|heard| before + heard >= stored)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_silent_under_load_names_what_is_forged_and_goes_on_after_its_death() {
    // A saga is held up below, for as long as it takes.
    let platform = Platform::start(Options::default().auditor().set("order.SAGA_LIMIT_MS=3600000")).await;
    Seed::mixed(300).fill(&platform.client()).await;
    Load::start(&platform, 200, 16).all().await;
    let nats = Nats::of(&platform).await;
    has_heard_all(&platform, &nats).await;
    assert_eq!(metric(&platform, "auditor_findings_total").await, Some(0));
    assert!(!platform.folder().log("auditor").contains("FINDING"), "{}", platform.folder().log("auditor"));
    eventually("it counts ends", async || metric(&platform, "auditor_sagas{state=\"remembered\"}").await >= Some(200))
        .await;

    // A forged event, after which the stream tells two ends of one saga: of the newest, because older ones may be forgotten by now.
    let forge = async || {
        let events = nats.events().await;
        let completed = events.iter().rfind(|event| event.subject == "checkout.completed").unwrap();
        let mut body = completed.json();
        body["reason"] = "abandoned".into();
        nats.publish("checkout.failed", completed.headers_as("checkout.failed"), body.to_string()).await;
        completed.saga().to_owned()
    };
    let contradictions = "auditor_findings_total{rule=\"contradiction\"}";
    let saga = forge().await;
    let named = |saga: &str| {
        let log = platform.folder().log("auditor");
        log.lines().filter(|line| line.contains(&format!("FINDING contradiction: saga {saga}"))).count()
    };
    // What it finds is counted and named one after the other.
    let is_counted_and_named = async |saga: &str| {
        let times = named(saga);
        times > 0 && metric(&platform, contradictions).await == Some(times as u64)
    };
    eventually("it counts and names the forged event", async || is_counted_and_named(&saga).await).await;
    let times = named(&saga);

    // Killed in the middle of a saga of which it has heard a forged end.
    let client = platform.client();
    let (user, item) = (client.user(10).await, client.item(1, 10).await);
    let order = client.order(&user, &[(&item, 1)]).await;
    let stands_still = platform.hold("stock-1").await;
    let buyer = tokio::spawn({
        let (client, order) = (platform.client(), order.clone());
        async move { client.checkout(&order).await }
    });
    let is_its_debit = |event: &Stored| event.subject == "payment.debited" && event.json()["order_id"] == order;
    let debited = until("the debit", async || nats.events().await.into_iter().find(is_its_debit)).await;
    let mut body = debited.json();
    body["reason"] = "abandoned".into();
    nats.publish("checkout.failed", debited.headers_as("checkout.failed"), body.to_string()).await;
    has_heard_all(&platform, &nats).await;
    platform.end_and_await("auditor", Signal::SIGKILL).await;
    drop(stands_still);
    buyer.await.unwrap();
    eventually("its successor names that saga, and no other", async || is_counted_and_named(debited.saga()).await)
        .await;
    assert_eq!(named(&saga), times, "what its predecessor has told it does not tell again");

    // What happens while there is none.
    let order = client.order(&user, &[(&item, 1)]).await;
    client.checkout(&order).await.expect_status(200);
    let is_its_end = |event: &Stored| event.subject == "checkout.completed" && event.json()["order_id"] == order;
    until("its end", async || nats.events().await.into_iter().find(is_its_end)).await;
    let pid = platform.pid("auditor").unwrap();
    platform.signal("auditor", Signal::SIGKILL);
    let saga = forge().await;
    platform.restarted("auditor", pid).await;
    eventually("its successor names the next one", async || named(&saga) > 0).await;

    // A stream that was lost and made anew: a gap, and no finding about what is left.
    let found = metric(&platform, "auditor_findings_total").await;
    nats.delete().await;
    let load = Load::start(&platform, 300, 4);
    let gaps = "auditor_unheard_total{kind=\"gap\"}";
    eventually("it tells the gap", async || metric(&platform, gaps).await > Some(0)).await;
    load.stop().await;
    has_heard_all(&platform, &nats).await;
    assert_eq!(metric(&platform, "auditor_findings_total").await, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_the_sums_of_what_has_ended_and_what_was_not_given_back() {
    // So that sagas are soon behind the watermark, where they are counted.
    let forgetful = Options::default().set("order.WATERMARK_MARGIN_MS=1").set("order.WATERMARK_EVERY_MS=200");
    let platform = Platform::start(forgetful.auditor()).await;
    let client = platform.client();
    let (user, item) = (client.user(1_000_000).await, client.item(7, 100_000).await);
    let scarce = client.item(3, 0).await;
    let sum = async |name: &str| metric(&platform, &format!("auditor_{name}_total ")).await.unwrap_or(0);
    // What begins in its first seconds it has not heard from the beginning.
    eventually("it tells sums", async || {
        for wanted in [&item, &scarce] {
            let order = client.order(&user, &[(wanted, 2)]).await;
            client.checkout(&order).await;
        }
        sum("completed_credits").await > 0 && sum("refunded_credits").await > 0
    })
    .await;
    eventually("they agree", async || {
        let (debited, refunded) = (sum("debited_credits").await, sum("refunded_credits").await);
        let (completed, reserved) = (sum("completed_credits").await, sum("reserved_pieces").await);
        debited == refunded + completed && completed == reserved * 7 && reserved == sum("completed_pieces").await
    })
    .await;
    assert_eq!(metric(&platform, "auditor_findings_total").await, Some(0));

    // A debit of a saga that was declined, and that nobody gave back.
    let (poor, nats) = (client.user(0).await, Nats::of(&platform).await);
    let order = client.order(&poor, &[(&scarce, 2)]).await;
    client.checkout(&order).await.expect_problem(400, "insufficient-credit", &poor);
    let is_declined = |event: &Stored| event.subject == "payment.declined" && event.json()["order_id"] == order;
    let declined = until("its end", async || nats.events().await.into_iter().find(is_declined)).await;
    let mut body = declined.json();
    body.as_object_mut().unwrap().remove("reason");
    nats.publish("payment.debited", declined.headers_as("payment.debited"), body.to_string()).await;
    let kept = "auditor_findings_total{rule=\"kept\"}";
    eventually("it tells the difference", async || metric(&platform, kept).await == Some(1)).await;
    let expected = format!("FINDING kept: saga {}: expected 0 kept of the user's credit", declined.saga());
    let expected = format!("{expected}, found 6 debited and 0 refunded");
    eventually("it says what the difference is", async || platform.folder().log("auditor").contains(&expected)).await;
}
