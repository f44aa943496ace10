//! Whether a process does its work.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::folder::Folder;
use crate::http_client;
use crate::limits::{READY_ANSWER, READY_POLL};
use crate::procs;
use crate::up::plan::{Probe, Process};
use crate::up::supervisor::State;

/// Why a process is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// Its port was taken by somebody else.
    PortTaken,
    /// It refused its configuration; its own words.
    Refused(String),
    /// It was not ready in time; what the last look said.
    Late(String),
}

/// Asks once.
///
/// # Errors
/// What it says instead of being ready.
pub async fn ask(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Http(address, path) => {
            let (status, body) = http_client::call(Method::GET, *address, path, READY_ANSWER).await?;
            if status == 200 {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&body);
            let text: String = text.chars().take(300).collect();
            Err(format!("answers {status} {}", text.trim().replace('\n', " ")))
        }
        Probe::Redis(address) => tokio::time::timeout(READY_ANSWER, ping(*address))
            .await
            .unwrap_or_else(|_| Err(format!("{address} does not answer"))),
    }
}

/// `PING` as an inline command; while it loads its data a redis answers `-LOADING …`.
async fn ping(address: SocketAddr) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.write_all(b"PING\r\n").await.map_err(failed)?;
    let mut answer = [0_u8; 256];
    let length = stream.read(&mut answer).await.map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    if answer.starts_with("+PONG") { Ok(()) } else { Err(format!("answers {}", answer.trim())) }
}

/// Waits until the process is ready, and is itself the one who says so.
///
/// # Errors
/// Why it is not, at the deadline or as soon as waiting is pointless.
pub async fn wait(
    process: &Process,
    state: &watch::Receiver<State>,
    folder: &Folder,
    deadline: Instant,
) -> Result<(), NotReady> {
    let mut said;
    loop {
        match &*state.borrow() {
            State::PortTaken => return Err(NotReady::PortTaken),
            State::Refused(line) => return Err(NotReady::Refused(line.clone())),
            State::Stopped { .. } => return Err(NotReady::Late("it was stopped".to_owned())),
            State::Running => {}
        }
        match ask(&process.probe).await {
            Ok(()) if owns_its_port(process, folder) => return Ok(()),
            Ok(()) => said = "another process answers on its port".to_owned(),
            Err(why) => said = why,
        }
        if Instant::now() >= deadline {
            return Err(NotReady::Late(said));
        }
        tokio::time::sleep(pause(deadline)).await;
    }
}

fn owns_its_port(process: &Process, folder: &Folder) -> bool {
    folder.birth(&process.name).is_some_and(|birth| procs::listens(birth.pid, process.address.port()))
}

fn pause(deadline: Instant) -> Duration {
    READY_POLL.min(deadline.saturating_duration_since(Instant::now()))
}
