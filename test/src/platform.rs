//! The whole platform as a user starts it: the real `checkout up`, on ports and in a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::Client;
pub use crate::folder::Folder;
use crate::servers::open;
use crate::wait::{PATIENCE, eventually, until};

/// The three services.
pub const SERVICES: [&str; 3] = ["order", "payment", "stock"];

/// How a platform is started.
#[derive(Debug, Clone)]
pub struct Options {
    scale: Vec<String>,
    set: Vec<String>,
    ha: bool,
    auditor: bool,
    program: PathBuf,
}

impl Default for Options {
    /// One instance of each service. Records and closed undo entries are kept for longer than any test, so that the books can be
    /// checked whole; and a request is waited for, so that a machine that stands still for seconds makes no outcome unknown.
    fn default() -> Self {
        let set = ["order.WATERMARK_MARGIN_MS=3600000", "order.UNDO_RETENTION_S=3600"].map(str::to_owned).to_vec();
        let options = Self { scale: Vec::new(), set, ha: false, auditor: false, program: program() };
        options.request_limit_ms(40_000)
    }
}

impl Options {
    /// `--scale service=count`.
    #[must_use]
    pub fn scale(mut self, service: &str, count: u16) -> Self {
        self.scale.push(format!("--scale={service}={count}"));
        self
    }

    /// So many instances of each service.
    #[must_use]
    pub fn scale_all(self, count: u16) -> Self {
        SERVICES.into_iter().fold(self, |options, service| options.scale(service, count))
    }

    /// `--ha`: three of everything that keeps data.
    #[must_use]
    pub fn ha(self) -> Self {
        Self { ha: true, ..self }
    }

    /// Runs this `checkout`, with the services that are beside it.
    #[must_use]
    pub fn program(self, checkout: PathBuf) -> Self {
        Self { program: checkout, ..self }
    }

    /// `--auditor`: follows the stream.
    #[must_use]
    pub fn auditor(self) -> Self {
        Self { auditor: true, ..self }
    }

    /// `--set target.NAME=value`. Of two for the same name the later one holds.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.set.push(setting.to_owned());
        self
    }

    /// How long a request may wait for its outcome, at all services.
    #[must_use]
    pub fn request_limit_ms(self, limit: u32) -> Self {
        SERVICES.into_iter().fold(self, |options, service| options.set(&format!("{service}.REQUEST_LIMIT_MS={limit}")))
    }

    /// Replays soon and often, so that a test of recovery need not wait for limits that are made for production. Whose outcome is not
    /// known as soon as by default is told so.
    #[must_use]
    pub fn recovers_soon(self) -> Self {
        let order = ["REPLAY_FIRST_MS=300", "REPLAY_LONGEST_MS=2000", "RECONCILE_EVERY_MS=100"];
        let options = order
            .iter()
            .fold(self.request_limit_ms(10_000), |options, setting| options.set(&format!("order.{setting}")));
        SERVICES.into_iter().fold(options, |options, service| options.set(&format!("{service}.ACK_WAIT_MS=1000")))
    }
}

/// Names the folder of a platform that runs elsewhere, which the tests are then pointed at: `run/platform.json` says where it is, `secrets` has
/// its passwords. (`test/compose` makes one for the platform in containers.)
pub const ELSEWHERE: &str = "CHECKOUT_TEST_PLATFORM";

/// A running platform. It ends when it is dropped, unless it runs elsewhere.
#[derive(Debug)]
pub struct Platform {
    folder: Arc<Folder>,
    /// None where somebody else has started it.
    up: Option<Child>,
    addresses: Value,
    is_abandoned: bool,
}

/// The program `checkout`, which is beside this test program, with those that it starts.
///
/// # Panics
/// They are not built.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own file");
    let has_all = |folder: &&Path| ["checkout", "order", "payment", "stock"].iter().all(|it| folder.join(it).is_file());
    match own.ancestors().skip(1).find(has_all) {
        Some(folder) => folder.join("checkout"),
        None => panic!("checkout, order, payment and stock are not built above {}: run `make test`", own.display()),
    }
}

impl Platform {
    /// Starts a platform in a new folder and waits until it is ready. Where the tests are pointed at one that runs elsewhere, it is that
    /// one as it is, whatever the options.
    pub async fn start(options: Options) -> Self {
        match std::env::var_os(ELSEWHERE) {
            Some(folder) => Self::elsewhere(Path::new(&folder)),
            None => Self::start_in(Folder::new_temporary(), options).await,
        }
    }

    /// A platform that somebody else has started, and will stop.
    ///
    /// # Panics
    /// Its folder does not say where it is.
    pub fn elsewhere(folder: &Path) -> Self {
        let folder = Folder::of_others(folder);
        let file = folder.path().join("run/platform.json");
        let text = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let addresses = serde_json::from_slice(&text).expect("platform.json is JSON");
        Self { folder, up: None, addresses, is_abandoned: true }
    }

    /// Whether somebody else has started it.
    pub fn is_elsewhere(&self) -> bool {
        self.up.is_none()
    }

    fn up(&mut self) -> &mut Child {
        self.up.as_mut().expect("a platform that this test has started")
    }

    /// Starts a platform in this folder and waits until it is ready.
    ///
    /// # Panics
    /// It does not get ready.
    pub async fn start_in(folder: Arc<Folder>, options: Options) -> Self {
        let output = fs::File::options().create(true).append(true).open(folder.path().join("up.out")).unwrap();
        let mut command = Command::new(&options.program);
        command.args(["up", "--port=0", "--ready-timeout=100", "--data"]).arg(folder.path()).args(&options.scale);
        command.args(options.ha.then_some("--ha"));
        command.args(options.auditor.then_some("--auditor"));
        command.args(options.set.iter().map(|setting| format!("--set={setting}")));
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let up = command.spawn().expect("checkout starts");
        let mut platform = Self { folder, up: Some(up), addresses: Value::Null, is_abandoned: false };
        let file = platform.folder.path().join("run/platform.json");
        let began = Instant::now();
        // A killed predecessor may have left its addresses: those of the new one are there once it has taken the folder over.
        while !(file.is_file() && platform.pid("up") == Some(platform.up_pid())) {
            if let Some(status) = platform.up().try_wait().unwrap() {
                panic!("checkout up ended with {status}: {}", platform.folder.output());
            }
            assert!(began.elapsed() < PATIENCE, "the platform is not ready: {}", platform.folder.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        platform.addresses = serde_json::from_slice(&fs::read(&file).unwrap()).expect("platform.json is JSON");
        platform
    }

    /// Its data folder.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The pid of `checkout up` itself.
    ///
    /// # Panics
    /// It is another test's, or nobody's.
    pub fn up_pid(&self) -> i32 {
        let up = self.up.as_ref().expect("a platform that this test has started");
        i32::try_from(up.id()).expect("a pid")
    }

    /// The URL of the gateway.
    pub fn url(&self) -> &str {
        self.addresses["gateway"].as_str().expect("a gateway")
    }

    /// The URL of NATS.
    pub fn nats_url(&self) -> &str {
        self.addresses["nats"].as_str().expect("a NATS server")
    }

    /// The URL at which the primary of a service's database is reached now.
    pub async fn primary_url(&self, service: &str) -> Option<String> {
        common::redis::locate_primary(self.redis_url(service)).await.ok()
    }

    /// The name of the node that is the primary of a service's database now.
    ///
    /// # Panics
    /// No sentinel knows it.
    pub async fn primary(&self, service: &str) -> String {
        let primary = until("a primary", async || self.primary_url(service).await).await;
        let is_there = |url: &String| primary.starts_with(&format!("{url}/"));
        let found = self.processes().into_iter().find(|(_, url)| is_there(url));
        found.unwrap_or_else(|| panic!("{primary} is none of our processes")).0
    }

    /// The URL of a service's database: that of its sentinels, where it has some.
    pub fn redis_url(&self, service: &str) -> &str {
        self.addresses["redis"][service].as_str().expect("a database")
    }

    /// One of the platform's passwords.
    pub fn secret(&self, name: &str) -> String {
        let text = fs::read_to_string(self.folder.path().join("secrets").join(name)).expect("a password");
        text.trim().to_owned()
    }

    /// URLs of all processes, by name; those of databases and sentinels with a login that may do everything.
    pub fn processes(&self) -> BTreeMap<String, String> {
        let all = self.addresses["processes"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let with_login = |name: &str, url: String| match name.split('-').next() {
            Some("redis") => url.replacen("://", &format!("://admin:{}@", self.secret("redis-admin")), 1),
            Some("sentinel") => url.replacen("://", &format!("://:{}@", self.secret("sentinel")), 1),
            _ => url,
        };
        all.map(|process| {
            let name = text(&process["name"]);
            let url = with_login(&name, text(&process["url"]));
            (name, url)
        })
        .collect()
    }

    /// Names of the instances of a service.
    pub fn instances(&self, service: &str) -> Vec<String> {
        let prefix = format!("{service}-");
        self.processes().into_keys().filter(|name| name.starts_with(&prefix)).collect()
    }

    /// A client with connections of its own to the gateway.
    pub fn client(&self) -> Client {
        Client::new(self.url())
    }

    /// The pid of a process now, if it runs.
    pub fn pid(&self, name: &str) -> Option<i32> {
        fs::read_to_string(self.folder.path().join(format!("run/{name}.pid"))).ok()?.trim().parse().ok()
    }

    /// Sends a signal to one process.
    ///
    /// # Panics
    /// It does not run.
    pub fn signal(&self, name: &str, signal: Signal) {
        let pid = self.pid(name).unwrap_or_else(|| panic!("{name} does not run"));
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{signal} to {name}: {error}"));
    }

    /// Holds a process still until the guard is dropped. Returns when every thread of it stands still: on a busy machine the signal
    /// takes effect only when the thread that it was given to has its turn, and until then the others work on.
    pub async fn hold(&self, name: &str) -> Held {
        let pid = self.pid(name).unwrap_or_else(|| panic!("{name} does not run"));
        self.signal(name, Signal::SIGSTOP);
        let held = Held { pid };
        eventually(&format!("{name} stands still"), async || is_stopped(pid)).await;
        held
    }

    /// Sends a signal that ends a process, and waits until the supervisor has started it again and it is ready.
    pub async fn end_and_await(&self, name: &str, signal: Signal) {
        let before = self.pid(name).unwrap_or_else(|| panic!("{name} does not run"));
        self.signal(name, signal);
        self.restarted(name, before).await;
    }

    /// Waits until a process runs with another pid than `before`, and is ready.
    pub async fn restarted(&self, name: &str, before: i32) {
        eventually(&format!("{name} is started again"), async || self.pid(name).is_some_and(|now| now != before)).await;
        eventually(&format!("{name} is ready again"), async || self.is_ready(name).await).await;
    }

    /// Whether a process does its work.
    pub async fn is_ready(&self, name: &str) -> bool {
        let Some(url) = self.processes().remove(name) else { return false };
        if name.starts_with("nats") {
            tokio::net::TcpStream::connect(url.trim_start_matches("nats://")).await.is_ok()
        } else if name.starts_with("redis") {
            let Ok(mut connection) = open(&url).await else { return false };
            redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
        } else {
            let ready = Client::new(&url).send(http::Method::GET, "/health/ready", &[]).await;
            ready.is_ok_and(|answer| answer.status == 200)
        }
    }

    /// Asks the platform to stop as a user does, and waits for its exit status.
    pub async fn stop(mut self) -> ExitStatus {
        self.send(Signal::SIGTERM);
        self.exit_status().await
    }

    /// Waits for its exit status, when it has been asked to stop.
    pub async fn ended(mut self) -> ExitStatus {
        self.exit_status().await
    }

    /// `kill -9` of `checkout up` itself: its children stay behind.
    pub async fn abandon(mut self) -> Arc<Folder> {
        self.send(Signal::SIGKILL);
        self.exit_status().await;
        // The children are the next platform's business.
        self.is_abandoned = true;
        self.folder.clone()
    }

    async fn exit_status(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.up().try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "checkout up does not end: {}", self.folder.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn send(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.up_pid()), signal);
    }

    /// Ends everything: the first SIGTERM asks, the second kills; the drain itself is what `drain.rs` tests.
    fn end(&mut self) {
        for pid in self.folder.children() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if !matches!(self.up().try_wait(), Ok(None)) {
                break;
            }
            self.send(Signal::SIGTERM);
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.up().kill();
        let _ = self.up().wait();
        for pid in self.folder.children() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if !self.is_abandoned {
            self.end();
        }
    }
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        // The name before may hold anything, also brackets.
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    });
    states.all(|state| state == 'T')
}

/// A process that is held still. It goes on when this is dropped.
#[derive(Debug)]
pub struct Held {
    pid: i32,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGCONT);
    }
}
