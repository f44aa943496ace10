//! Requests whose client goes away, or whose instance dies, in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use http::Method;
use nix::sys::signal::Signal;
use testing::platform::{Options, Platform, SERVICES, program};
use testing::wait::{eventually, until};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// So many that a batch lasts for a second or two.
const USERS: u64 = 400_000;

async fn credit(platform: &Platform, user: u64) -> Option<u64> {
    let answer = platform.client().send(Method::GET, &format!("/payment/find_user/{user}"), &[]).await.ok()?;
    (answer.status == 200).then(|| answer.json()["credit"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_client_goes_away_is_done_to_its_end() {
    let platform = Platform::start(Options::default()).await;
    let address = platform.url().trim_start_matches("http://");
    // On a busy machine a batch may be over before its client has gone. That shows nothing, so another one is begun.
    for amount in 7..27 {
        let mut client = TcpStream::connect(address).await.unwrap();
        let path = format!("/payment/batch_init/{USERS}/{amount}");
        let request = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        eventually("the batch is begun", async || credit(&platform, 0).await == Some(amount)).await;
        drop(client);
        let was_in_its_middle = credit(&platform, USERS - 1).await != Some(amount);
        eventually("the batch is done", async || credit(&platform, USERS - 1).await == Some(amount)).await;
        if was_in_its_middle {
            return;
        }
    }
    panic!("no batch was left in its middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_instance_dies_is_done_by_another_one() {
    let platform = Platform::start(Options::default().scale("payment", 2)).await;
    let client = platform.client();
    let path = format!("/payment/batch_init/{USERS}/7");
    let (batch, repeat) = (path.clone(), platform.client());
    let batch = tokio::spawn(async move { client.post(&batch).await });
    eventually("the batch is begun", async || credit(&platform, 0).await == Some(7)).await;
    // One of them runs it, and after the first death it is surely the other.
    platform.end_and_await("payment-1", Signal::SIGKILL).await;
    platform.end_and_await("payment-2", Signal::SIGKILL).await;
    let answer = batch.await.unwrap();
    if answer.status == 202 {
        // On a very busy machine both restarts outlast the gateway's patience, and it says truly that it does not know. Then
        // the client repeats its request, which must not find the key of a dead instance in its way.
        let told = until("its outcome", async || {
            Some(repeat.insist(Method::POST, &path, &[]).await).filter(|answer| answer.status != 202)
        });
        told.await.expect_status(200);
    } else {
        answer.expect_status(200);
    }
    assert_eq!(platform.client().credit(&(USERS - 1).to_string()).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_a_key_whose_instance_dies_can_be_repeated_with_that_key_and_is_done() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let path = format!("/payment/batch_init/{USERS}/7");
    let key = [("idempotency-key", "one-batch")];
    let first = tokio::spawn({
        let (client, path) = (platform.client(), path.clone());
        async move { client.send(Method::POST, &path, &key).await }
    });
    eventually("the batch is begun", async || credit(&platform, 0).await == Some(7)).await;
    platform.end_and_await("payment-1", Signal::SIGKILL).await;
    let truthful = |status: u16| matches!(status, 200 | 202 | 409 | 502 | 503 | 504);
    if let Ok(answer) = first.await.unwrap() {
        assert!(truthful(answer.status), "{}: {}", answer.status, answer.text());
    }
    // The dead request keeps its key for a few seconds, in which it could still be at work as far as anybody knows.
    eventually("the key is free, and the batch done", async || match client.send(Method::POST, &path, &key).await {
        Ok(answer) => {
            assert!(truthful(answer.status), "{}: {}", answer.status, answer.text());
            answer.status == 200
        }
        Err(_) => false,
    })
    .await;
    assert_eq!(client.credit(&(USERS - 1).to_string()).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_without_a_key_happen_once_although_their_instances_die() {
    let platform = Platform::start(Options::default().scale("payment", 2)).await;
    let user = platform.client().user(0).await;
    let path = format!("/payment/add_funds/{user}/1");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, path) = (platform.client(), path.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    client.post(&path).await.expect_status(200);
                }
            })
        })
        .collect();
    for name in ["payment-1", "payment-2", "payment-1"] {
        let before = platform.client().get(&format!("/payment/find_user/{user}")).await.json()["credit"].as_u64();
        eventually("funds are added", async || {
            let now = platform.client().get(&format!("/payment/find_user/{user}")).await.json()["credit"].as_u64();
            now > before || now == Some(800)
        })
        .await;
        platform.end_and_await(name, Signal::SIGKILL).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    let answer = platform.client().get(&format!("/payment/find_user/{user}")).await;
    assert_eq!(answer.json()["credit"], 800, "each was added, and none twice");
}

#[test]
fn a_wrong_address_ends_a_service_with_one_line_that_names_it_and_no_password() {
    for service in SERVICES {
        for (name, value) in [
            ("REDIS_URL", "http://someone:secret@localhost"),
            ("REDIS_URL", "redis://someone:secret@localhost:many"),
            ("NATS_URL", "nats://someone:secret@localhost:many"),
            ("LISTEN", "localhost"),
        ] {
            let output = Command::new(program().with_file_name(service)).env(name, value).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{service} {name}: {said}");
            assert!(said.starts_with(&format!("{service}: {name}=")) && said.lines().count() == 1, "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
