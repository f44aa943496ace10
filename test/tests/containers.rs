//! What nginx, the gateway in containers, says where nobody answers: the same as the gateway of `checkout up`, only that it does not wait.
//!
//! For `make test-compose`, which starts the platform in containers and points the tests at it: they stop and kill containers of the project
//! `COMPOSE_PROJECT_NAME`, one test at a time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::Command;

use futures::future::join_all;
use http::Method;
use testing::books::Books;
use testing::client::{Answer, Client};
use testing::platform::{Options, Platform};
use testing::wait::eventually;

fn docker(words: &[&str]) -> String {
    let output = Command::new("docker").args(words).output().expect("docker starts");
    assert!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The containers of one service of `compose.yaml`, by id.
fn containers(service: &str) -> Vec<String> {
    let project = std::env::var("COMPOSE_PROJECT_NAME").expect("the project in which the platform runs");
    let labels = [("project", project.as_str()), ("service", service), ("oneoff", "False")];
    let filters = labels.map(|(name, value)| format!("--filter=label=com.docker.compose.{name}={value}"));
    let [one, two, three] = &filters;
    let found: Vec<String> = docker(&["ps", "-aq", one, two, three]).lines().map(str::to_owned).collect();
    assert!(!found.is_empty(), "there is no container of {service}");
    found
}

fn signal(containers: &[String], signal: &str) {
    for container in containers {
        docker(&["kill", "--signal", signal, container]);
    }
}

fn is_healthy(container: &str) -> bool {
    docker(&["inspect", "-f", "{{.State.Health.Status}}", container]) == "healthy"
}

async fn start(containers: &[String]) {
    for container in containers {
        docker(&["start", container]);
    }
    eventually("all are healthy again", async || containers.iter().all(|it| is_healthy(it))).await;
}

/// Whether somebody from outside has a connection to this port of the container, as the kernel of the container knows it.
fn has_caller(container: &str, port: u16) -> bool {
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", container]);
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let (local, from_within, established) = (format!(":{port:04X}"), "0100007F:", "01");
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[1].ends_with(&local) && !words[2].starts_with(from_within) && words[3] == established
    })
}

async fn post(client: &Client, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.send(Method::POST, path, headers).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the platform in containers: make test-compose"]
async fn where_nobody_can_be_reached_nothing_was_started() {
    let client = Platform::start(Options::default()).await.client();
    let user = client.user(10).await;
    let all = containers("payment-service");
    for container in &all {
        docker(&["stop", "--time", "20", container]);
    }
    for path in ["/payment/create_user".to_owned(), format!("/payment/pay/{user}/1")] {
        for headers in [vec![], vec![("idempotency-key", path.as_str())]] {
            let answer = post(&client, &path, &headers).await.expect_problem(503, "no-instance", "nothing was started");
            assert_eq!(answer.header("retry-after"), "1");
        }
    }
    let found = client.send(Method::GET, &format!("/payment/find_user/{user}"), &[]).await.unwrap();
    found.expect_problem(503, "no-instance", "payment service");
    start(&all).await;
    assert_eq!(client.credit(&user).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the platform in containers: make test-compose"]
async fn where_all_die_with_a_request_in_hand_the_client_is_told_where_to_look() {
    let client = Platform::start(Options::default()).await.client();
    let user = client.user(10).await;
    let order = client.order(&user, &[]).await;
    let changes = [
        ("payment-service", 8002, format!("/payment/pay/{user}/1"), format!("/payment/find_user/{user}")),
        ("order-service", 8001, format!("/orders/checkout/{order}"), format!("/orders/find/{order}")),
        ("stock-service", 8003, "/stock/item/create/1".to_owned(), String::new()),
    ];
    for (service, port, change, place) in changes {
        // Once without a key, once with one: a checkout with a key takes another way through nginx.
        for headers in [vec![], vec![("idempotency-key", change.as_str())]] {
            let all = containers(service);
            signal(&all, "STOP");
            let (told, ()) = futures::join!(post(&client, &change, &headers), async {
                eventually("one of them has the request", async || all.iter().any(|it| has_caller(it, port))).await;
                signal(&all, "KILL");
            });
            assert_eq!(told.header("location"), place, "{service} {headers:?}");
            let problem = told.expect_problem(202, "not-known-yet", "may or may not take effect");
            assert_eq!(problem.header("retry-after"), "1");
            start(&all).await;
        }
    }
    assert!([8, 9, 10].contains(&client.credit(&user).await), "each of the two was done or not, once");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the platform in containers: make test-compose"]
async fn where_one_dies_with_requests_in_hand_another_one_answers_and_nothing_is_done_twice() {
    const REQUESTS: u64 = 40;
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let user = client.user(0).await;
    let all = containers("payment-service");
    let one = &all[..1];
    signal(one, "STOP");
    let path = format!("/payment/add_funds/{user}/1");
    let requests = join_all((0..REQUESTS).map(|_| post(&client, &path, &[])));
    let (answers, ()) = futures::join!(requests, async {
        eventually("the one that stands still has requests", async || has_caller(&one[0], 8002)).await;
        signal(one, "KILL");
    });
    let mut told = BTreeMap::<u16, u64>::new();
    answers.iter().for_each(|answer| *told.entry(answer.status).or_default() += 1);
    assert_eq!(told, BTreeMap::from([(200, REQUESTS)]));
    assert_eq!(client.credit(&user).await, REQUESTS);
    start(one).await;
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the platform in containers: make test-compose"]
async fn what_nginx_itself_refuses_is_a_problem_document_too() {
    let client = Platform::start(Options::default()).await.client();
    client.get("/payment/find_user/%00").await.expect_problem(400, "malformed", "cannot be read");
    let endless = format!("/payment/find_user/{}", "x".repeat(20_000));
    client.get(&endless).await.expect_problem(400, "malformed", "cannot be read");
}
