//! What the parts of a checkout cost by themselves on this machine, and how near a whole checkout comes to their sum, in one run.
//!
//! A figure in checkouts per second says as much about the machine as about the platform. So this first measures the three parts that a checkout
//! cannot do without (each with nothing around it, CPU of server and client together, as in the tables of the design):
//!
//! - a message of JetStream: stored in a file with one replica, acknowledged, delivered to a durable pull consumer, acknowledged (2,000 in flight);
//! - a function call: a debit with its outcome record, pipelined over four connections, `appendfsync always`;
//! - a request: an axum handler that only answers, 64 connections of HTTP/1.1.
//!
//! Three messages, four calls and one request are the floor of a checkout. Then `checkout bench` runs with the platform itself, and the last lines
//! say how many times the floor a checkout costs there. Run it by `make floor`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use testing::servers::{PATIENCE, Redis};

const MESSAGES: u64 = 100_000;
const MESSAGES_IN_FLIGHT: usize = 2_000;
/// About the size of an event of the platform, headers included.
const MESSAGE_BYTES: usize = 200;
const CALLS: u64 = 200_000;
const CALLS_PER_PIPELINE: u64 = 48;
const CALL_CONNECTIONS: u64 = 4;
const REQUESTS: u64 = 200_000;
const REQUEST_CONNECTIONS: u64 = 64;
/// Each part is measured so often, in turn, because a shared machine changes its speed while one looks; the median counts.
const ROUNDS: usize = 3;

/// One effect with its record and its total, as short as it can be said.
const FUNCTION: &str = "#!lua name=floor
redis.register_function('floor_debit', function(keys, args)
  local recorded = redis.call('HGET', keys[2], args[1])
  if recorded then return { recorded } end
  if tonumber(redis.call('GET', keys[1]) or '0') < 0 then return { 'short' } end
  redis.call('INCRBY', keys[1], args[2])
  redis.call('HSET', keys[2], args[1], 'debited ' .. args[2])
  redis.call('HINCRBY', keys[3], 'debited', args[2])
  return { 'debited' }
end)";

#[tokio::main]
async fn main() {
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        println!("floor, round {round} of {ROUNDS}");
        for (figures, (name, cost)) in rounds.iter_mut().zip([
            ("message of JetStream", message().await),
            ("function call", call().await),
            ("request", request().await),
        ]) {
            println!("  {name:<22} {cost:>6.1} µs of CPU");
            figures.push(cost);
        }
    }
    let [message, call, request] = rounds.map(median);
    let floor = 3.0 * message + 4.0 * call + request;
    println!("floor of a checkout: 3 × {message:.1} + 4 × {call:.1} + {request:.1} = {floor:.0} µs of CPU\n");
    checkout(floor);
}

/// CPU microseconds of one message.
async fn message() -> f64 {
    let server = Nats::start();
    let client = async_nats::connect(&server.url).await.unwrap();
    let jetstream = jetstream::new(client);
    let config = stream::Config { name: "FLOOR".into(), subjects: vec!["floor".into()], ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    let durable =
        consumer::pull::Config { durable_name: Some("floor".into()), max_ack_pending: 100_000, ..Default::default() };
    let consumer = stream.create_consumer(durable).await.unwrap();
    let before = cpu_us(server.child.id()) + cpu_us(std::process::id());
    let publish = async {
        let body = Bytes::from(vec![b'x'; MESSAGE_BYTES]);
        let mut in_flight = FuturesUnordered::new();
        for _ in 0..MESSAGES {
            if in_flight.len() >= MESSAGES_IN_FLIGHT {
                let stored: Result<_, _> = in_flight.next().await.unwrap();
                stored.unwrap();
            }
            in_flight.push(jetstream.publish("floor", body.clone()).await.unwrap().into_future());
        }
        while let Some(stored) = in_flight.next().await {
            stored.unwrap();
        }
    };
    let consume = async {
        let mut seen = 0;
        while seen < MESSAGES {
            let mut batch = consumer.fetch().max_messages(500).messages().await.unwrap();
            while let Some(message) = batch.next().await {
                message.unwrap().ack().await.unwrap();
                seen += 1;
            }
        }
    };
    tokio::join!(publish, consume);
    (cpu_us(server.child.id()) + cpu_us(std::process::id()) - before) / MESSAGES as f64
}

/// CPU microseconds of one function call.
async fn call() -> f64 {
    let server = Redis::start();
    server.console().ask(&["FUNCTION", "LOAD", FUNCTION]);
    let client = redis::Client::open(server.url()).unwrap();
    let before = cpu_us(server.pid()) + cpu_us(std::process::id());
    let mut connections = Vec::new();
    for number in 0..CALL_CONNECTIONS {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        connections.push(tokio::spawn(async move {
            let mut done = 0;
            while done < CALLS / CALL_CONNECTIONS {
                let mut pipeline = redis::pipe();
                for call in done..done + CALLS_PER_PIPELINE {
                    let id = format!("{number}-{call}");
                    pipeline.cmd("FCALL").arg("floor_debit").arg(3).arg(format!("user:{id}"));
                    pipeline.arg("outcomes").arg("totals").arg(id).arg(20);
                }
                let replies: Vec<(String,)> = pipeline.query_async(&mut connection).await.unwrap();
                assert!(replies.iter().all(|(outcome,)| outcome == "debited"), "{replies:?}");
                done += CALLS_PER_PIPELINE;
            }
            done
        }));
    }
    let mut calls = 0;
    for connection in connections {
        calls += connection.await.unwrap();
    }
    (cpu_us(server.pid()) + cpu_us(std::process::id()) - before) / calls as f64
}

/// CPU microseconds of one request.
async fn request() -> f64 {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/orders/checkout/{order}", post(|| async { "Checkout successful\n" }));
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let before = cpu_us(std::process::id());
    let clients: Vec<_> = (0..REQUEST_CONNECTIONS).map(|_| tokio::spawn(ask(address))).collect();
    for client in clients {
        client.await.unwrap();
    }
    let used = cpu_us(std::process::id()) - before;
    serving.abort();
    used / REQUESTS as f64
}

async fn ask(address: SocketAddr) {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    for order in 0..REQUESTS / REQUEST_CONNECTIONS {
        sender.ready().await.unwrap();
        let request = Request::post(format!("/orders/checkout/{order}"))
            .header(header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert!(response.status().is_success());
        response.into_body().collect().await.unwrap();
    }
}

/// Runs `checkout bench`, and prints how often the floor its checkouts cost.
fn checkout(floor: f64) {
    let file = std::env::temp_dir().join(format!("checkout-floor-{}.json", std::process::id()));
    let status = Command::new(testing::platform::program())
        .args(["bench", "--own-platform", "--clients", "256,1024", "--json"])
        .arg(&file)
        .status()
        .expect("checkout runs: build it with --release --bins first");
    assert!(status.success(), "checkout bench failed: {status}");
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let _ = std::fs::remove_file(&file);
    for step in figures["steps"].as_array().unwrap() {
        let groups = step["cpu_us_per_checkout"].as_object().unwrap();
        let used: f64 = groups.values().filter_map(serde_json::Value::as_f64).sum();
        println!(
            "{} clients: {:.0} checkouts/s, {used:.0} µs of CPU each with the load generator: {:.2} × the floor",
            step["clients"],
            step["checkouts_per_second"].as_f64().unwrap(),
            used / floor
        );
    }
}

/// A nats-server with JetStream in a folder of its own.
struct Nats {
    child: Child,
    dir: PathBuf,
    url: String,
}

impl Nats {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("checkout-floor-nats-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"])
            .arg(&dir)
            .arg("--ports_file_dir")
            .arg(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is on the PATH");
        let url = told_port(&dir, child.id());
        Self { child, dir, url }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Where the server listens: it took a free port and wrote it into a file.
fn told_port(dir: &Path, pid: u32) -> String {
    let file = dir.join(format!("nats-server_{pid}.ports"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        if let Some(url) = told.as_ref().and_then(|told| told["nats"][0].as_str()) {
            return url.to_owned();
        }
        assert!(Instant::now() < deadline, "nats-server does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// CPU microseconds that the living threads of a process have used.
fn cpu_us(pid: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or(0.0)
    };
    threads.flatten().map(of_thread).sum::<f64>() / 1e3
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
