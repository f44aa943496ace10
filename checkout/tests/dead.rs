//! `checkout dead` as a person types it, on a real nats-server: what is printed, what is done, and the exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::event::{Event, Watermark};
use nats::graveyard::{Filter, Graveyard, Order};
use nats::topology::{Durable, Limits};
use nats::{Broker, React, Ready, Verdict, consume};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// How long anything may take. Only a failing test waits as long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    dir: PathBuf,
    url: String,
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).collect::<Vec<_>>();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join(".tools/bin"));
    let mut candidates = on_path.into_iter().chain(tools).map(|dir| dir.join("nats-server"));
    candidates
        .find(|path| path.is_file())
        .expect("nats-server: set NATS_SERVER, or put it on the PATH or in .tools/bin")
}

impl Server {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("checkout-dead-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new(binary());
        command
            .args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"])
            .arg(dir.join("js"))
            .arg("--ports_file_dir")
            .arg(&dir);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nats-server starts");
        let mut server = Self { child, dir, url: String::new() };
        // The server chooses a free port itself and writes it into a file.
        let file = server.dir.join(format!("nats-server_{}.ports", server.child.id()));
        let deadline = Instant::now() + PATIENCE;
        while server.url.is_empty() {
            assert!(Instant::now() < deadline, "nats-server wrote no port into {}", file.display());
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let ports = serde_json::from_str::<Value>(&text).unwrap_or_default();
            server.url = ports["nats"][0].as_str().unwrap_or_default().to_owned();
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// `checkout dead …`: exit code, standard output, standard error.
    fn dead(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkout"));
        command.arg("dead").args(words).args(["--nats", &self.url]).env("USER", "ada");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn json(&self, words: &[&str]) -> Value {
        let (code, out, err) = self.dead(&[words, &["--json"]].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Declares everything dead, with a reason that a terminal should not see as it is.
struct Undertaker;

impl React for Undertaker {
    async fn react(&self, batch: Vec<Event>) -> Vec<Verdict> {
        batch.iter().map(|event| Verdict::Dead(format!("too\u{202e} old: {}", event.id()))).collect()
    }
}

/// A server on which payment and stock each gave up on the watermarks 1 to `n`.
async fn with_letters(name: &str, n: u64) -> (Server, Graveyard) {
    for _ in 0..3 {
        let (server, graveyard) = letters(name, n).await;
        let letters = graveyard.letters(&Filter::default(), Order::Oldest, usize::MAX).await.unwrap();
        if letters.len() as u64 == 2 * n {
            return (server, graveyard);
        }
        // What was not confirmed in time, on a machine that stood still, was put aside twice.
    }
    panic!("three times not each was put aside once");
}

async fn letters(name: &str, n: u64) -> (Server, Graveyard) {
    let server = Server::start(name);
    let broker = Broker::connect(&server.url, "test", "test-1", PATIENCE).await.unwrap();
    let limits = Limits::default();
    broker.ensure_topology(&limits).await.unwrap();
    let events: Vec<_> = (1..=n).map(|closed_before_ms| Event::Watermark(Watermark { closed_before_ms })).collect();
    broker.publish_all(&events).await.unwrap();
    let graveyard = Graveyard::new(broker.clone());
    for (durable, expected) in [(Durable::Payment, n), (Durable::Stock, 2 * n)] {
        let (ready, shutdown) = (Ready::default(), CancellationToken::new());
        let reactor = Arc::new(Undertaker);
        let consumer = tokio::spawn(consume(broker.clone(), durable, limits.clone(), reactor, ready, shutdown.clone()));
        let deadline = Instant::now() + PATIENCE;
        while graveyard.letters(&Filter::default(), Order::Oldest, usize::MAX).await.unwrap().len() < expected as usize
        {
            assert!(Instant::now() < deadline, "{durable} did not put {n} letters aside");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.cancel();
        consumer.await.unwrap();
    }
    (server, graveyard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_listed_shown_redriven_and_dropped() {
    let (server, graveyard) = with_letters("verbs", 5).await;

    let (code, table, _) = server.dead(&["list", "--consumer", "stock", "--limit", "2"]);
    assert_eq!((code, table.lines().count()), (0, 3), "{table}");
    assert!(table.contains("checkout.watermark") && table.contains("too\\u{202e} old: watermark/5"), "{table}");
    let list = server.json(&["list", "--reason", "OLD: watermark/3"]);
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!((&list[0]["consumer"], &list[1]["consumer"]), (&"stock".into(), &"payment".into()));
    assert_eq!((&list[1]["sequence"], &list[1]["saga"]), (&3.into(), &Value::Null));

    let (code, shown, _) = server.dead(&["show", "3"]);
    assert!(
        code == 0 && shown.contains("dead-consumer: payment") && shown.contains("\"closed_before_ms\": 3"),
        "{shown}"
    );
    assert!(shown.contains("a redrive publishes it at checkout.watermark again"), "{shown}");

    let (code, told, _) = server.dead(&["redrive", "--all", "--consumer", "payment", "--dry-run"]);
    assert!(
        code == 0 && told.contains("would redrive 5 to checkout.watermark") && told.contains("5 looked at"),
        "{told}"
    );
    let (code, told, _) = server.dead(&["drop", "--all", "--reason", "no", "--dry-run"]);
    assert!(code == 0 && told.contains("would drop 10") && told.contains("10 looked at"), "{told}");
    assert_eq!(server.json(&["log"]), Value::Array(vec![]), "a dry run did something");

    let (code, told, _) = server.dead(&["redrive", "--all", "--consumer", "payment", "--rate", "1000"]);
    assert_eq!((code, told.trim()), (0, "redriven: 5 of 5"));
    let (code, told, err) = server.dead(&["drop", "7", "99", "--reason", "a test"]);
    assert_eq!((code, told.trim(), err.trim()), (1, "dropped: 1 of 1", "there is no dead letter 99"));

    let left = graveyard.letters(&Filter::default(), Order::Oldest, usize::MAX).await.unwrap();
    assert_eq!(left.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [6, 8, 9, 10]);
    let log = server.json(&["log"]);
    assert_eq!(log.as_array().unwrap().len(), 6);
    assert_eq!(
        (&log[0]["action"], &log[0]["why"], &log[0]["letter"]["sequence"]),
        (&"dropped".into(), &"a test".into(), &7.into())
    );
    assert!(log[0]["who"].as_str().unwrap().starts_with("ada@"), "{log}");
    let (code, whole, _) = server.dead(&["log", "6"]);
    assert!(code == 0 && whole.contains("dropped by ada@") && whole.contains("\"closed_before_ms\": 2"), "{whole}");
    // The server tells them when it comes to it.
    let deadline = Instant::now() + PATIENCE;
    let advisories = || server.json(&["advisories"]).as_array().unwrap().len();
    while advisories() < 10 {
        assert!(Instant::now() < deadline, "only {} advisories", advisories());
    }
    assert_eq!(advisories(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_says_who_is_to_blame() {
    let (server, _) = with_letters("codes", 1).await;
    for wrong in [
        ["redrive", "1", "--consumer", "stock"].as_slice(),
        &["redrive"],
        &["redrive", "1", "--all"],
        &["drop", "1"],
        &["drop", "--all", "--reason", " "],
        &["list", "--consumer", "nobody"],
        &["bury", "1"],
    ] {
        let (code, out, err) = server.dead(wrong);
        assert!((code, out.as_str()) == (64, "") && !err.is_empty(), "{wrong:?}: {code} {out} {err}");
    }
    for missing in [["show", "99"].as_slice(), &["redrive", "99"], &["log", "99"]] {
        assert_eq!(server.dead(missing).0, 1, "{missing:?}");
    }
    assert_eq!(server.dead(&["list"]).0, 0);
    assert_eq!(server.json(&["list"]).as_array().unwrap().len(), 2);

    let nobody = Command::new(env!("CARGO_BIN_EXE_checkout"))
        .args(["dead", "list", "--data"])
        .arg(server.dir.join("nothing"))
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no platform is ready"), "{nobody:?}");
}
