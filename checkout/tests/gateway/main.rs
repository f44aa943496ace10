//! The gateway as a process, before upstreams that live, die and break off.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::stage::{Gateway, Manner, Nobody, PATIENCE, Upstream, answer, answer_or_end, ask, send, try_send};

/// For so long the gateway looks for another answer.
const REPEAT_PATIENCE: Duration = Duration::from_secs(10);
/// For so long it serves open connections when its door is closed.
const FAREWELL: Duration = Duration::from_millis(500);

#[tokio::test]
async fn requests_are_spread_and_passed_on_unchanged() {
    let (one, two) = (Upstream::start(Manner::Answer).await, Upstream::start(Manner::Answer).await);
    let gateway = Gateway::start(&[one.url(), two.url()]).await;
    // An instance that is slow to say how it is, on a busy machine, is passed over until it has.
    in_time("they take turns", async || take_turns(&gateway, [&one, &two]).await).await;
}

/// Whether each of two instances has had its turn in each of ten rounds.
async fn take_turns(gateway: &Gateway, instances: [&Upstream; 2]) -> bool {
    let mut in_turn = true;
    for _ in 0..10 {
        let before = instances.map(Upstream::requests);
        for number in 0..2 {
            let answer = gateway.get(&format!("/orders/find/{number}%2Fx?a=b")).await;
            assert!(answer.ends_with(&format!("POST /orders/find/{number}%2Fx?a=b HTTP/1.1")), "{answer}");
        }
        in_turn &= instances.map(Upstream::requests) == before.map(|requests| requests + 1);
    }
    in_turn
}

#[tokio::test]
async fn an_instance_that_cannot_be_connected_to_is_passed_over() {
    let alive = Upstream::start(Manner::Answer).await;
    let (one, two) = (Nobody::new(), Nobody::new());
    let gateway = Gateway::start(&[one.url(), alive.url(), two.url()]).await;
    for _ in 0..20 {
        assert!(gateway.get("/orders/x").await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(alive.requests(), 20);
}

#[tokio::test]
async fn a_request_whose_instance_dies_is_answered_by_another_one() {
    let (dying, alive) = (Upstream::start(Manner::BreakOff).await, Upstream::start(Manner::Answer).await);
    let gateway = Gateway::start(&[dying.url(), alive.url()]).await;
    for (method, path) in [("POST", "/orders/checkout/5"), ("GET", "/orders/find/5"), ("POST", "/orders/create/7")] {
        for _ in 0..4 {
            let answer = gateway.ask(method, path, "").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(path), "{answer}");
        }
    }
    assert_eq!(alive.requests(), 12);
    assert!(dying.requests() > 0, "the other one was asked too");
}

#[tokio::test]
async fn a_command_is_repeated_under_the_id_that_it_had() {
    let (dying, alive) = (Upstream::start(Manner::BreakOff).await, Upstream::start(Manner::Answer).await);
    let gateway = Gateway::start(&[dying.url(), alive.url()]).await;
    let forged = "checkout-request-id: mine\r\nconnection: checkout-request-id, idempotency-key\r\n";
    while dying.requests() < 3 {
        let answer = gateway.ask("POST", "/payment/pay/7/1", forged).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "no payment here: {answer}");
        assert!(gateway.ask("POST", "/orders/create/7", forged).await.starts_with("HTTP/1.1 200"));
    }
    let (first, second) = (dying.header("checkout-request-id"), alive.header("checkout-request-id"));
    assert_eq!(first.len(), dying.requests(), "each has an id");
    assert!(first.iter().all(|id| id.len() == 32 && second.contains(id)), "{first:?} {second:?}");
    let distinct: std::collections::BTreeSet<_> = second.iter().collect();
    assert_eq!(distinct.len(), alive.requests(), "no two have the same");
    // A checkout is idempotent by its nature, and its record would only cost.
    assert!(gateway.ask("POST", "/orders/checkout/5", "").await.starts_with("HTTP/1.1 200"));
    assert_eq!(alive.header("checkout-request-id").len(), second.len());
}

#[tokio::test]
async fn a_checkout_whose_key_is_in_use_by_its_own_first_try_joins_that() {
    let in_use = r#"{"type":"urn:checkout:problem:idempotency-key-in-use"}"#;
    let other = r#"{"type":"urn:checkout:problem:abandoned"}"#;
    for (body, status) in [(in_use, "200"), (other, "409")] {
        let (dying, alive) =
            (Upstream::start(Manner::BreakOff).await, Upstream::start(Manner::Refuse("409 Conflict", body)).await);
        let gateway = Gateway::start(&[dying.url(), alive.url()]).await;
        while dying.requests() == 0 {
            let answer = gateway.ask("POST", "/orders/checkout/5", "idempotency-key: k\r\n").await;
            if dying.requests() == 0 {
                assert!(answer.starts_with("HTTP/1.1 409"), "a first try is told what the service says: {answer}");
            } else {
                assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_whose_instance_stands_still_is_answered_by_another_one() {
    let began = Instant::now();
    loop {
        let (still, alive) = (Upstream::start(Manner::StandStill).await, Upstream::start(Manner::Answer).await);
        let gateway = Gateway::start(&[still.url(), alive.url()]).await;
        for (method, path) in [("GET", "/orders/find/5"), ("POST", "/orders/checkout/5")] {
            let answer = gateway.ask(method, path, "").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        assert_eq!(alive.requests(), 2, "whoever is asked first");
        match still.requests() {
            1 => return,
            // On a busy machine it may be passed over before the first request comes.
            0 => assert!(began.elapsed() < PATIENCE, "it is never asked"),
            more => panic!("it is passed over afterwards: {more}"),
        }
    }
}

/// Tries again what a machine that stood still has spoilt, but not for ever: what never comes about is broken.
async fn in_time(what: &str, attempt: impl AsyncFn() -> bool) {
    for _ in 0..5 {
        if attempt().await {
            return;
        }
    }
    panic!("never in time: {what}");
}

/// "Nothing was started" is true of the second try, and not known of the first.
#[tokio::test]
async fn who_refuses_for_now_does_not_speak_for_an_instance_that_died_with_the_request() {
    for status in ["429 Too Many Requests", "503 Service Unavailable", "500 Internal Server Error"] {
        in_time("another one is asked until it answers", async || is_asked_again_and_again(status).await).await;
    }
}

/// Whether the gateway had the time for it: a machine that stands still may use up its patience.
async fn is_asked_again_and_again(status: &'static str) -> bool {
    let (dead, over) = (CancellationToken::new(), CancellationToken::new());
    let dying = Upstream::start(Manner::Die(dead.clone())).await;
    let other = Upstream::start(Manner::NotNow(status, over.clone())).await;
    let gateway = Gateway::start(&[dying.url(), other.url()]).await;
    let mut waiting = TcpStream::connect(gateway.address).await.unwrap();
    while dying.requests() == 0 {
        let before = other.requests();
        send(&mut waiting, "/orders/checkout/5").await;
        while dying.requests() == 0 && other.requests() == before {
            tokio::task::yield_now().await;
        }
        if dying.requests() == 0 {
            assert!(answer(&mut waiting).await.contains(status), "a first try is told what the service says");
        }
    }
    dying.door.cancel();
    while TcpStream::connect(dying.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let died = Instant::now();
    dead.cancel();
    let told = answer(&mut waiting);
    tokio::pin!(told);
    let is_asked_again = async {
        while other.requests() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        told = &mut told => {
            assert!(is_out_of_patience(&told, died), "told of the first try: {told}");
            return false;
        }
        () = is_asked_again => over.cancel(),
    }
    let told = told.await;
    assert!(told.starts_with("HTTP/1.1 200") || is_out_of_patience(&told, died), "{told}");
    told.starts_with("HTTP/1.1 200")
}

/// Whether a client was told that nobody knows yet, after the time for which another answer is looked for.
fn is_out_of_patience(told: &str, died: Instant) -> bool {
    told.starts_with("HTTP/1.1 202") && died.elapsed() >= REPEAT_PATIENCE
}

/// The first try may yet begin the order's next saga. Not so of what the first try finds recorded when it comes.
#[tokio::test]
async fn a_checkout_that_is_refused_after_an_instance_died_with_it_is_not_known_yet() {
    let (key, never) = ("idempotency-key: k\r\n", CancellationToken::new());
    for (path, headers, told) in [
        ("/orders/checkout/5", "", "HTTP/1.1 202"),
        ("/orders/checkout/5", key, "HTTP/1.1 400"),
        ("/orders/addItem/5/7/1", "", "HTTP/1.1 400"),
    ] {
        let dying = Upstream::start(Manner::BreakOff).await;
        let other = Upstream::start(Manner::NotNow("400 Bad Request", never.clone())).await;
        let gateway = Gateway::start(&[dying.url(), other.url()]).await;
        while dying.requests() == 0 {
            let answer = gateway.ask("POST", path, headers).await;
            let expected = if dying.requests() == 0 { "HTTP/1.1 400" } else { told };
            assert!(answer.starts_with(expected), "{path} {headers}: {answer}");
            assert_eq!(answer.contains("location: /orders/find/5"), expected == "HTTP/1.1 202", "{answer}");
        }
    }
}

#[tokio::test]
async fn what_nobody_answers_is_not_known_yet_and_goes_through_few_instances() {
    let mut dying = Vec::new();
    for _ in 0..5 {
        dying.push(Upstream::start(Manner::BreakOff).await);
    }
    let gateway = Gateway::start(&dying.iter().map(Upstream::url).collect::<Vec<_>>()).await;
    let sent = || dying.iter().map(Upstream::requests).sum::<usize>();
    let answer = gateway.get("/orders/checkout/5").await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    for part in ["application/problem+json", "location: /orders/find/5", "\"status\":202", "may or may not"] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert_eq!(sent(), 3);
    assert!(!gateway.get("/orders/create/7").await.contains("location: "));
    // A read started nothing, whoever died of it.
    assert!(gateway.ask("GET", "/orders/find/5", "").await.starts_with("HTTP/1.1 503"));
    assert_eq!(sent(), 9);
}

#[tokio::test]
async fn a_lonely_instance_that_comes_back_answers_what_it_died_of() {
    in_time("who comes back answers", async || is_answered_by_who_comes_back().await).await;
}

/// Whether the gateway had the time for it: a machine that stands still may use up its patience.
async fn is_answered_by_who_comes_back() -> bool {
    let dead = CancellationToken::new();
    let upstream = Upstream::start(Manner::Die(dead.clone())).await;
    let url = upstream.url();
    let gateway = Gateway::start(std::slice::from_ref(&url)).await;
    // It dies of the first request and refuses connections until it is started again.
    let mut waiting = TcpStream::connect(gateway.address).await.unwrap();
    send(&mut waiting, "/orders/checkout/5").await;
    while upstream.requests() == 0 {
        tokio::task::yield_now().await;
    }
    upstream.door.cancel();
    while TcpStream::connect(upstream.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let died = Instant::now();
    dead.cancel();
    let again = upstream.succeeded(Manner::Answer).await;
    let told = answer(&mut waiting).await;
    if is_out_of_patience(&told, died) {
        return false;
    }
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!(again.requests(), 1);
    true
}

#[tokio::test]
async fn with_no_instance_to_connect_to_nothing_was_started_and_a_retry_is_invited() {
    let nobody = Nobody::new();
    let gateway = Gateway::start(&[nobody.url()]).await;
    let answer = gateway.get("/orders/x").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for part in ["application/problem+json", "retry-after: 1", "\"status\":503", "nothing was started"] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert!(gateway.get("/health/live").await.starts_with("HTTP/1.1 405"), "live takes GET only");
}

#[tokio::test]
async fn other_paths_are_a_problem_of_their_own() {
    let upstream = Upstream::start(Manner::Answer).await;
    let gateway = Gateway::start(&[upstream.url()]).await;
    for path in ["/", "/ordersx", "/health/ready/x", "/metrics"] {
        let answer = gateway.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("application/problem+json"), "{path}: {answer}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_parts_politely_from_who_is_idle() {
    in_time("a request during the farewell is answered", async || is_parted_from_politely().await).await;
}

/// Whether who is idle could send another request while farewell was said: on a busy machine that may be over before.
async fn is_parted_from_politely() -> bool {
    let allowed = Arc::new(Semaphore::new(0));
    let upstream = Upstream::start(Manner::Wait(Arc::clone(&allowed))).await;
    let mut gateway = Gateway::start(&[upstream.url()]).await;
    let mut running = TcpStream::connect(gateway.address).await.unwrap();
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    allowed.add_permits(1);
    assert!(ask(&mut idle, "/orders/first").await.starts_with("HTTP/1.1 200"));
    send(&mut running, "/orders/slow").await;
    while upstream.requests() < 2 {
        tokio::task::yield_now().await;
    }

    let asked = Instant::now();
    gateway.terminate();
    while TcpStream::connect(gateway.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // The door is closed; who is inside is still served, and told that this was the last time.
    let is_in_time = try_send(&mut idle, "/orders/last").await;
    allowed.add_permits(2);
    let last = if is_in_time { answer_or_end(&mut idle).await } else { None };
    if let Some(last) = &last {
        let last = last.to_ascii_lowercase();
        assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "{last}");
    } else {
        assert!(asked.elapsed() >= FAREWELL, "it was parted from without a farewell");
    }
    assert!(answer(&mut running).await.starts_with("HTTP/1.1 200"));
    assert!(gateway.process.wait().await.unwrap().success());
    last.is_some()
}

#[tokio::test]
async fn who_sends_a_byte_now_and_then_is_parted_from_and_delays_nobody() {
    let upstream = Upstream::start(Manner::Answer).await;
    let gateway = Gateway::start_with(&[upstream.url()], &["--head-limit-ms=300"]).await;
    let mut slow = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        slow.push(tokio::spawn(async move {
            let head = b"POST /orders/checkout/1 HTTP/1.1\r\nhost: test\r\nx-slow: ";
            let mut sent = 0_usize;
            // Until the other side has had enough: the write fails, or the read tells of the end.
            while stream.write_all(&[*head.get(sent).unwrap_or(&b'a')]).await.is_ok() {
                sent += 1;
                match tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await {
                    Err(_still_open) => {}
                    Ok(_) => break,
                }
            }
        }));
    }
    let mut answered = 0;
    while answered == 0 || slow.iter().any(|task| !task.is_finished()) {
        // On a busy machine we ourselves may be slow, and are parted from.
        let began = Instant::now();
        match gateway.try_get("/orders/checkout/2").await {
            Some(answer) => {
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                answered += 1;
            }
            None => assert!(began.elapsed() >= Duration::from_millis(300), "it was quick, and is parted from"),
        }
        tokio::task::yield_now().await;
    }
    assert!(upstream.header("x-slow").is_empty(), "none of them got through");
}

#[tokio::test]
async fn who_takes_no_answers_is_parted_from() {
    let upstream = Upstream::start(Manner::Answer).await;
    let gateway = Gateway::start_with(&[upstream.url()], &["--head-limit-ms=300"]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut greedy = socket.connect(gateway.address).await.unwrap();
    let requests = "GET /orders/find/5 HTTP/1.1\r\nhost: test\r\n\r\n".repeat(100);
    let parted = async { while greedy.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(120), parted).await.expect("it is parted from");
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_not_passed_on() {
    let upstream = Upstream::start(Manner::Answer).await;
    let gateway = Gateway::start(&[upstream.url()]).await;
    let headers = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let long = "x".repeat(60_000);
    for (path, headers, status) in [
        ("/orders/find/".to_owned() + &long.repeat(4), String::new(), "HTTP/1.1 4"),
        ("/orders/find/1".to_owned(), headers(300), "HTTP/1.1 431"),
        ("/orders/find/1".to_owned(), format!("x-long: {}\r\n", long.repeat(4)), "HTTP/1.1 431"),
        ("/orders/find/1".to_owned(), "content-length: 1000000\r\n".to_owned(), "HTTP/1.1 413"),
        ("/orders/find/1".to_owned(), "content-length: many\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n");
        // The other side may answer and part before it has read all of it.
        let (mut read, mut write) = stream.split();
        let (_, answer) = tokio::join!(write.write_all(request.as_bytes()), async {
            let mut answer = vec![0; 12];
            let _ = read.read_exact(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        });
        assert!(answer.starts_with(status), "{answer:?}, not {status}, for {} bytes", request.len());
    }
    assert_eq!(upstream.requests(), 0);
    assert!(gateway.get("/orders/checkout/2").await.starts_with("HTTP/1.1 200"), "the gateway is well");
}
