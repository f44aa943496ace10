//! The gateway, whom it stands before, and a client.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::ports::Reserved;
pub use testing::wait::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What an upstream does with a request it has read.
#[derive(Clone)]
pub enum Manner {
    Answer,
    /// Closes the connection without a word.
    BreakOff,
    /// Answers nothing, and closes every connection when the test says that it is dead.
    Die(CancellationToken),
    /// Answers with this status and body, unless the request carries no `Idempotency-Key`.
    Refuse(&'static str, &'static str),
    /// Answers with this status until the test says otherwise.
    NotNow(&'static str, CancellationToken),
    /// Answers nothing, nor how it is.
    StandStill,
    /// Answers when the test lets it.
    Wait(Arc<Semaphore>),
}

/// A tiny HTTP server that counts the requests it has read.
pub struct Upstream {
    pub address: SocketAddr,
    /// Nobody else gets its port when its door is closed.
    place: Arc<Reserved>,
    pub requests: Arc<AtomicUsize>,
    /// The request heads, in the order in which they came.
    pub heads: Arc<Mutex<Vec<String>>>,
    /// Closes the listener.
    pub door: CancellationToken,
}

impl Upstream {
    pub async fn start(manner: Manner) -> Self {
        Self::start_at(Arc::new(Reserved::new()), manner).await
    }

    /// Another one, in the place of this one.
    pub async fn succeeded(&self, manner: Manner) -> Self {
        Self::start_at(Arc::clone(&self.place), manner).await
    }

    async fn start_at(place: Arc<Reserved>, manner: Manner) -> Self {
        let address = place.address();
        let listener = TcpListener::bind(address).await.unwrap();
        let (requests, heads) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, seen) = (Arc::clone(&requests), Arc::clone(&heads));
        let door = CancellationToken::new();
        let closed = door.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = closed.cancelled() => return,
                };
                tokio::spawn(converse(stream, manner.clone(), Arc::clone(&counted), Arc::clone(&seen)));
            }
        });
        Self { address, place, requests, heads, door }
    }

    /// The values that a header had in the requests that carried it.
    pub fn header(&self, name: &str) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        let values = heads.iter().flat_map(|head| head.lines()).filter_map(|line| line.split_once(": "));
        values.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned()).collect()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn converse(mut stream: TcpStream, manner: Manner, counted: Arc<AtomicUsize>, seen: Arc<Mutex<Vec<String>>>) {
    let dead = if let Manner::Die(dead) = &manner { dead.clone() } else { CancellationToken::new() };
    while let Some(Some(head)) = dead.run_until_cancelled(read_head(&mut stream)).await {
        if matches!(manner, Manner::StandStill) {
            let is_health = usize::from(head.starts_with("GET /health/"));
            counted.fetch_add(1 - is_health, Ordering::SeqCst);
            return std::future::pending().await;
        }
        if !head.starts_with("GET /health/") {
            counted.fetch_add(1, Ordering::SeqCst);
            seen.lock().unwrap().push(head.clone());
            match &manner {
                Manner::Answer => {}
                Manner::Refuse(status, body) if head.contains("idempotency-key: ") => {
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    continue;
                }
                Manner::Refuse(..) => {}
                Manner::NotNow(status, over) if !over.is_cancelled() => {
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    continue;
                }
                Manner::NotNow(..) => {}
                Manner::BreakOff | Manner::StandStill => return,
                Manner::Die(dead) => return dead.cancelled().await,
                Manner::Wait(allowed) => allowed.acquire().await.unwrap().forget(),
            }
        }
        let first = head.lines().next().unwrap_or_default();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{first}", first.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads up to the empty line; no request here has a body.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// An address where nobody listens, as long as this lives.
pub struct Nobody(Reserved);

impl Nobody {
    pub fn new() -> Self {
        Self(Reserved::new())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address())
    }
}

/// The gateway, as a process.
pub struct Gateway {
    pub address: SocketAddr,
    pub process: Child,
    _place: Reserved,
    /// Where payment and stock would be.
    _rest: Nobody,
}

impl Gateway {
    pub async fn start(order: &[String]) -> Self {
        Self::start_with(order, &[]).await
    }

    pub async fn start_with(order: &[String], flags: &[&str]) -> Self {
        let (place, rest) = (Reserved::new(), Nobody::new());
        let address = place.address();
        let process = Command::new(env!("CARGO_BIN_EXE_checkout"))
            .arg("gateway")
            .arg(format!("--listen={address}"))
            .arg(format!("--order={}", order.join(",")))
            .args([format!("--payment={}", rest.url()), format!("--stock={}", rest.url())])
            .args(flags)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let gateway = Self { address, process, _place: place, _rest: rest };
        let live = async { while TcpStream::connect(address).await.is_err() {} };
        tokio::time::timeout(PATIENCE, live).await.expect("the gateway listens");
        gateway
    }

    /// A request on a connection of its own; nothing where the gateway has parted from it, as from somebody who takes long.
    pub async fn try_get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        if try_send(&mut stream, path).await { answer_or_end(&mut stream).await } else { None }
    }

    pub async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        ask(&mut stream, path).await
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        send_with(&mut stream, method, path, headers).await;
        answer(&mut stream).await
    }

    pub fn terminate(&self) {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }
}

/// Sends a request and reads head and body of the answer as one text.
pub async fn ask(stream: &mut TcpStream, path: &str) -> String {
    send(stream, path).await;
    answer(stream).await
}

pub async fn send(stream: &mut TcpStream, path: &str) {
    send_with(stream, "POST", path, "").await;
}

/// The same where the connection may be closed: whether it could be sent.
pub async fn try_send(stream: &mut TcpStream, path: &str) -> bool {
    stream.write_all(request("POST", path, "").as_bytes()).await.is_ok()
}

/// The same with a method and lines of further headers.
pub async fn send_with(stream: &mut TcpStream, method: &str, path: &str, headers: &str) {
    stream.write_all(request(method, path, headers).as_bytes()).await.unwrap();
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{headers}content-length: 0\r\n\r\n")
}

pub async fn answer(stream: &mut TcpStream) -> String {
    answer_or_end(stream).await.expect("an answer, not a closed connection")
}

/// The same, or nothing where the connection is closed without one.
pub async fn answer_or_end(stream: &mut TcpStream) -> Option<String> {
    let reading = async {
        let head = read_head(stream).await?;
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await.ok()?;
        Some(head + &String::from_utf8(body).unwrap())
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time")
}
