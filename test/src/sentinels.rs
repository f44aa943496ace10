//! A database of several nodes behind real sentinels, for one test.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::FromRedisValue;

use crate::ports::Reserved;
use crate::servers::{Console, PATIENCE, Redis, binary, new_dir};

/// The name under which the sentinels watch over the group.
const NAME: &str = "group";

/// Silence after which a sentinel holds a node to be dead: longer than a disk keeps a healthy one waiting that writes to it before it answers.
const DOWN_AFTER_MS: u64 = 3_000;

/// A primary, its replicas, and three sentinels of which two suffice.
pub struct Group {
    /// The nodes; the first began as the primary.
    pub nodes: Vec<Redis>,
    /// Those who watch over them.
    pub sentinels: Vec<Sentinel>,
}

/// A sentinel. It is killed and its folder removed when this is dropped.
pub struct Sentinel {
    child: Child,
    dir: PathBuf,
    port: Reserved,
}

impl Group {
    /// Starts it all, and waits until a failover would succeed.
    pub fn start(replicas: usize) -> Self {
        Self::of(replicated(replicas))
    }

    /// The same with nodes that are there already, the first of which is the primary.
    pub fn of(nodes: Vec<Redis>) -> Self {
        let (primary, replicas) = (nodes[0].port(), nodes.len() - 1);
        let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(primary)).collect();
        let deadline = Instant::now() + PATIENCE;
        let is_ready = |sentinel: &Sentinel| {
            let mut console = sentinel.console();
            let facts: Vec<String> = console.ask(&["SENTINEL", "MASTER", NAME]).into_iter().flatten().collect();
            let fact =
                |name: &str| facts.chunks(2).find(|pair| pair[0] == name).map_or(0, |pair| pair[1].parse().unwrap());
            fact("num-slaves") == replicas && fact("num-other-sentinels") == 2
        };
        while !sentinels.iter().all(is_ready) {
            assert!(Instant::now() < deadline, "the sentinels do not find each other and the replicas");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { nodes, sentinels }
    }

    /// The URL of the database.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|it| it.port.address().to_string()).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The node that this sentinel holds to be the primary.
    pub fn primary_according_to(&self, sentinel: usize) -> usize {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let deadline = Instant::now() + PATIENCE;
        // Who stands still in the middle of this asks again.
        let answer = loop {
            match self.sentinels[sentinel].console().try_ask(&question) {
                Ok(answer) => break Vec::<String>::from_redis_value(answer).expect("an address"),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        let port: u16 = answer[1].parse().unwrap();
        self.nodes.iter().position(|node| node.port() == port).expect("one of the nodes")
    }
}

/// A primary (the first) and so many replicas that follow it and have caught up; nobody watches over them.
pub fn replicated(replicas: usize) -> Vec<Redis> {
    let primary = Redis::start_with(&[("repl-diskless-sync-delay", "0"), ("repl-ping-replica-period", "1")]);
    let port = format!("127.0.0.1 {}", primary.port());
    let replica = || Redis::start_with(&[("replicaof", &port), ("repl-diskless-sync-delay", "0")]);
    let nodes: Vec<Redis> = std::iter::once(primary).chain((0..replicas).map(|_| replica())).collect();
    let deadline = Instant::now() + PATIENCE;
    let online = || {
        let info = nodes[0].console().text(&["INFO", "replication"]).unwrap_or_default();
        info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online")).count()
    };
    while online() < replicas {
        assert!(Instant::now() < deadline, "the replicas do not catch up");
        std::thread::sleep(Duration::from_millis(10));
    }
    nodes
}

impl Sentinel {
    fn start(primary: u16) -> Self {
        let dir = new_dir();
        let port = Reserved::new();
        let config = dir.join("sentinel.conf");
        let text = format!(
            "bind 127.0.0.1\nport {}\ndir \"{}\"\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\nsentinel failover-timeout {NAME} 4000\n",
            port.port(),
            dir.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(binary());
        command.arg(&config).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let sentinel = Self { child: command.spawn().expect("a sentinel starts"), dir, port };
        drop(sentinel.console());
        sentinel
    }

    fn url(&self) -> String {
        format!("redis://{}", self.port.address())
    }

    /// A connection to look into it.
    pub fn console(&self) -> Console {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(console) = Console::open(&self.url()) {
                return console;
            }
            assert!(Instant::now() < deadline, "a sentinel does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
