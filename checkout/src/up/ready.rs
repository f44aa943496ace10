//! Whether a process does its work.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::secret::Login;
use http::Method;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
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
        Probe::Redis(address, login) => ping(*address, login).await,
        Probe::Node(address, login) => match role(*address, login).await? {
            Role::Primary | Role::Replica => ping(*address, login).await,
            Role::Behind => Err(format!("{address} does not follow a primary yet")),
        },
        Probe::Sentinel(address, login, groups) => {
            for group in groups {
                let answer = say_to_redis(*address, login, &format!("SENTINEL CKQUORUM {group}")).await?;
                if !answer.starts_with("+OK") {
                    return Err(format!("answers {}", answer.trim()));
                }
            }
            Ok(())
        }
    }
}

/// What a node of a database is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows a primary, and has caught up with it.
    Replica,
    /// It would follow a primary, but is not linked to it or still gets its first copy.
    Behind,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Behind => "replica, behind",
        })
    }
}

/// Asks a node what it is.
///
/// # Errors
/// What it says instead.
pub async fn role(address: SocketAddr, login: &Login) -> Result<Role, String> {
    let answer = say_to_redis(address, login, "INFO replication").await?;
    let has = |line: &str| answer.lines().any(|it| it.trim() == line);
    match () {
        () if has("role:master") => Ok(Role::Primary),
        () if has("role:slave") && has("master_link_status:up") => Ok(Role::Replica),
        () if has("role:slave") => Ok(Role::Behind),
        () => Err(format!("answers {}", answer.trim())),
    }
}

/// Gives a node the usual priority when the sentinels look for a new primary.
///
/// # Errors
/// What it says instead.
pub async fn trust(address: SocketAddr, login: &Login) -> Result<(), String> {
    let answer = say_to_redis(address, login, "CONFIG SET replica-priority 100").await?;
    if answer.starts_with("+OK") { Ok(()) } else { Err(format!("answers {}", answer.trim())) }
}

/// `PING` as an inline command; while it loads its data a redis answers `-LOADING …`.
async fn ping(address: SocketAddr, login: &Login) -> Result<(), String> {
    let answer = say_to_redis(address, login, "PING").await?;
    if answer.starts_with("+PONG") { Ok(()) } else { Err(format!("answers {}", answer.trim())) }
}

/// One inline command on a connection of its own after logging in, and the beginning of the answer.
///
/// # Errors
/// It cannot be reached, or does not let us in.
pub async fn say_to_redis(address: SocketAddr, login: &Login, command: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let exchange = async {
        let mut stream = BufReader::new(TcpStream::connect(address).await.map_err(failed)?);
        let Login { user, password } = login;
        let words = format!("AUTH {user} {}\r\n{command}\r\n", &**password);
        stream.write_all(words.as_bytes()).await.map_err(failed)?;
        let mut admitted = String::new();
        stream.read_line(&mut admitted).await.map_err(failed)?;
        if !admitted.starts_with("+OK") {
            return Err(format!("{address} answers {}", admitted.trim()));
        }
        let mut answer = [0_u8; 4096];
        let length = stream.read(&mut answer).await.map_err(failed)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    tokio::time::timeout(READY_ANSWER, exchange).await.unwrap_or_else(|_| Err(format!("{address} does not answer")))
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
    folder.birth(&process.name).is_some_and(|birth| procs::listens(birth.pid, process.listens.port()))
}

fn pause(deadline: Instant) -> Duration {
    READY_POLL.min(deadline.saturating_duration_since(Instant::now()))
}
