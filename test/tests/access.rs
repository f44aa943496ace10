//! The platform keeps its passwords to itself, and each of its users to what that needs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::redis::SENTINEL_NEWS;
use futures::StreamExt;
use nix::sys::signal::Signal;
use testing::client::Client;
use testing::ha::{FAILOVER_LIMIT, ask};
use testing::platform::{Options, Platform, SERVICES};
use testing::ports::Reserved;
use testing::servers::open;
use testing::stream::CHECKOUT;
use testing::wait::{PATIENCE, eventually, until};

/// A connection to a service's database as one of its users.
async fn login(
    platform: &Platform,
    service: &str,
    user: &str,
    password: &str,
) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let (_, host) = platform.redis_url(service).rsplit_once('@').unwrap();
    let url = if user.is_empty() { format!("redis://{host}") } else { format!("redis://{user}:{password}@{host}") };
    open(&url).await
}

/// Says something, and gives back what is said.
async fn say(connection: &mut redis::aio::MultiplexedConnection, words: &str) -> redis::RedisResult<redis::Value> {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.query_async(connection).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_the_commands_that_it_needs_in_its_own_database_and_no_others() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let (user, item) = (client.user(10).await, client.item(2, 5).await);
    let order = client.order(&user, &[(&item, 2)]).await;
    client.checkout(&order).await.expect_status(200);
    for service in SERVICES {
        let password = platform.secret(&format!("redis-{service}"));
        let mut own = login(&platform, service, service, &password).await.unwrap();
        redis::cmd("PING").query_async::<String>(&mut own).await.unwrap();
        for words in [
            "FLUSHALL",
            "FLUSHDB",
            "KEYS *",
            "CONFIG GET *",
            "CONFIG SET save x",
            "DEBUG SLEEP 0",
            "SHUTDOWN NOSAVE",
            "FUNCTION FLUSH",
            "FUNCTION DELETE order",
            "FUNCTION RESTORE x",
            "FUNCTION DUMP",
            "EVAL return 0",
            "SCRIPT FLUSH",
            "MONITOR",
            "CLIENT LIST",
            "CLIENT KILL ID 1",
            "ACL LIST",
            "ACL SETUSER x",
            "REPLICAOF NO ONE",
            "SWAPDB 0 1",
            "SAVE",
            "BGREWRITEAOF",
            "PSYNC ? -1",
            "MIGRATE h 1 k 0 1",
            "RESTORE k 0 x",
            "MODULE LIST",
            "PUBLISH x y",
            "LATENCY RESET",
            "SLOWLOG GET",
        ] {
            let refused = say(&mut own, words).await.unwrap_err().to_string();
            assert!(
                ["NOPERM", "permission", "not allowed"].iter().any(|it| refused.contains(it)),
                "{service}: {words}: {refused}"
            );
        }
        let mut nobody = login(&platform, service, "", "").await.unwrap();
        let refused =
            redis::cmd("GET").arg("x").query_async::<redis::Value>(&mut nobody).await.unwrap_err().to_string();
        assert!(refused.to_lowercase().contains("auth"), "{refused}");
        for other in SERVICES.iter().filter(|other| **other != service) {
            assert!(login(&platform, other, service, &password).await.is_err(), "{service} at the database of {other}");
            assert!(login(&platform, other, other, &password).await.is_err(), "as {other}");
        }
    }
}

/// A sentinel's URL for one of its users.
fn at_sentinel(platform: &Platform, sentinel: &str, login: &str) -> String {
    let url = platform.processes().remove(sentinel).unwrap();
    let (_, address) = url.rsplit_once('@').unwrap();
    format!("redis://{login}{address}")
}

/// What a service asks the sentinels about its database.
const QUESTIONS: [&str; 3] =
    ["SENTINEL GET-MASTER-ADDR-BY-NAME redis-order", "SENTINEL MASTER redis-order", "SENTINEL REPLICAS redis-order"];

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_ask_and_hear_the_sentinels_and_tell_them_nothing() {
    const SENTINELS: [&str; 3] = ["sentinel-1", "sentinel-2", "sentinel-3"];
    let platform = Platform::start(Options::default().ha()).await;
    let client = platform.client();
    let (user, item) = (client.user(20).await, client.item(2, 5).await);
    let (of_services, of_admin) = (platform.secret("sentinel-service"), platform.secret("sentinel"));
    let as_service = |sentinel: &str| at_sentinel(&platform, sentinel, &format!("service:{of_services}@"));

    // It is what the services themselves are.
    for sentinel in SENTINELS {
        let as_admin = platform.processes().remove(sentinel).unwrap();
        eventually(&format!("all services listen to {sentinel}, as nobody else"), async || {
            let clients = ask::<String>(&as_admin, &["CLIENT", "LIST"]).await.unwrap_or_default();
            let mut listeners = clients.lines().filter(|line| line.contains(&format!(" sub={} ", SENTINEL_NEWS.len())));
            listeners.clone().count() == SERVICES.len() && listeners.all(|line| line.contains(" user=service "))
        })
        .await;
    }

    for sentinel in SENTINELS {
        let mut service = open(&as_service(sentinel)).await.unwrap();
        for question in QUESTIONS {
            say(&mut service, question).await.unwrap_or_else(|error| panic!("{question}: {error}"));
        }
        for words in [
            "SENTINEL SET redis-order quorum 1",
            "SENTINEL SET redis-order auth-pass x",
            "SENTINEL MONITOR mine 127.0.0.1 1 1",
            "SENTINEL REMOVE redis-order",
            "SENTINEL FAILOVER redis-order",
            "SENTINEL RESET *",
            "SENTINEL CONFIG SET announce-port 1",
            "SENTINEL CONFIG GET *",
            "SENTINEL SIMULATE-FAILURE crash-after-election",
            "SENTINEL IS-MASTER-DOWN-BY-ADDR 127.0.0.1 1 99 x",
            "SENTINEL DEBUG",
            "SENTINEL FLUSHCONFIG",
            "SENTINEL MASTERS",
            "SENTINEL SENTINELS redis-order",
            "CONFIG GET *",
            "CONFIG SET requirepass x",
            "SHUTDOWN NOSAVE",
            "ACL LIST",
            "ACL SETUSER service +@all",
            "CLIENT LIST",
            "CLIENT KILL TYPE pubsub",
            "CLIENT PAUSE 10000",
            "PUBLISH +switch-master redis-order",
            // By this the sentinels tell each other of new primaries.
            "PUBLISH __sentinel__:hello 127.0.0.1,1,x,99,redis-order,127.0.0.1,1,99",
            "SUBSCRIBE __sentinel__:hello",
            "PSUBSCRIBE *",
            "INFO",
        ] {
            let refused = say(&mut service, words).await.expect_err(words).to_string();
            // Sentinels have no CONFIG for anybody.
            let refusals = if words.starts_with("CONFIG") { ["unknown command"; 2] } else { ["NOPERM", "permission"] };
            assert!(refusals.iter().any(|it| refused.contains(it)), "{sentinel}: {words}: {refused}");
        }
        let mut nobody = open(&at_sentinel(&platform, sentinel, "")).await.unwrap();
        for words in ["PING", "SUBSCRIBE +switch-master", "SENTINEL FAILOVER redis-order"].iter().chain(&QUESTIONS) {
            let refused = say(&mut nobody, words).await.expect_err(words).to_string();
            assert!(refused.contains("NOAUTH"), "{sentinel}: {words}: {refused}");
        }
        for wrong in [format!("service:{of_admin}@"), format!("default:{of_services}@"), format!(":{of_services}@")] {
            assert!(open(&at_sentinel(&platform, sentinel, &wrong)).await.is_err(), "{sentinel}");
        }
    }

    // What it may do it may still where a sentinel starts again with the configuration that it has written itself.
    let before = platform.pid("sentinel-2").unwrap();
    platform.signal("sentinel-2", Signal::SIGKILL);
    let again = as_service("sentinel-2");
    eventually("it has started again, and knows its users", async || {
        let Ok(mut service) = open(&again).await else { return false };
        platform.pid("sentinel-2") != Some(before) && say(&mut service, QUESTIONS[0]).await.is_ok()
    })
    .await;

    // And it hears of another primary.
    let heard = redis::Client::open(again).unwrap();
    let mut heard = until("it listens", async || {
        let mut heard = heard.get_async_pubsub().await.ok()?;
        heard.subscribe(SENTINEL_NEWS).await.ok()?;
        Some(heard.into_on_message())
    })
    .await;
    let as_admin = platform.processes().remove("sentinel-1").unwrap();
    let moved = async { while heard.next().await.unwrap().get_channel_name() != "+switch-master" {} };
    tokio::pin!(moved);
    let began = Instant::now();
    loop {
        ask::<String>(&as_admin, &["SENTINEL", "FAILOVER", "redis-order"]).await;
        if tokio::time::timeout(FAILOVER_LIMIT, &mut moved).await.is_ok() {
            break;
        }
        // A busy machine may hold a failover up for so long that it is given up.
        assert!(began.elapsed() < PATIENCE, "it hears of it");
    }
    let order = client.order(&user, &[(&item, 2)]).await;
    client.checkout(&order).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_in_a_log_in_a_command_line_in_an_environment_or_in_a_file_that_others_may_read() {
    let options =
        SERVICES.iter().fold(Options::default(), |options, service| options.set(&format!("{service}.LOG=trace")));
    let platform = Platform::start(options.set("gateway.LOG=trace")).await;
    let client = platform.client();
    let user = client.user(10).await;
    platform.end_and_await("nats-1", Signal::SIGKILL).await;
    platform.end_and_await("redis-payment", Signal::SIGKILL).await;
    eventually("payment answers again", async || {
        let answer = client.send(http::Method::POST, &format!("/payment/add_funds/{user}/1"), &[]).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let root = platform.folder().path();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o077;
    let passwords: Vec<(String, String)> = fs::read_dir(root.join("secrets"))
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            assert_eq!(mode(&path), 0, "{}", path.display());
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read_to_string(&path).unwrap().trim().to_owned(),
            )
        })
        .collect();
    assert!(passwords.len() >= 10, "{}", passwords.len());
    for private in ["secrets", "nats-1", "redis-order", "run/platform.json", "nats.env"] {
        assert_eq!(mode(&root.join(private)), 0, "{private}");
    }
    let mut seen: Vec<(String, Vec<u8>)> = vec![("what it printed".into(), platform.folder().output().into_bytes())];
    for log in fs::read_dir(root.join("log")).unwrap().flatten() {
        seen.push((log.path().display().to_string(), fs::read(log.path()).unwrap()));
    }
    assert!(seen.iter().any(|(_, text)| String::from_utf8_lossy(text).contains("TRACE")), "the logs say everything");
    let mut processes = platform.folder().children();
    processes.push(platform.up_pid());
    assert!(processes.len() >= 8, "{processes:?}");
    for pid in processes {
        for file in ["cmdline", "environ"] {
            seen.push((format!("{file} of {pid}"), fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()));
        }
    }
    for (name, password) in &passwords {
        for (place, text) in &seen {
            assert!(!text.windows(password.len()).any(|part| part == password.as_bytes()), "{name} is in {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_written_into_an_address_is_in_no_log_and_no_command_line() {
    let platform = Platform::start(Options::default()).await;
    let (of_nats, of_redis) = (platform.secret("nats-payment"), platform.secret("redis-payment"));
    let (_, redis) = platform.redis_url("payment").rsplit_once('@').unwrap();
    let (_, nats) = platform.nats_url().rsplit_once('@').unwrap();
    let place = Reserved::new();
    let address = place.address();
    let log = platform.folder().path().join("log/payment-by-hand.log");
    let file = fs::File::create(&log).unwrap();
    let mut instance = tokio::process::Command::new(testing::platform::program().with_file_name("payment"))
        .env("LISTEN", address.to_string())
        .env("INSTANCE", "payment-by-hand")
        .env("LOG", "trace")
        .env("TOPOLOGY", "verify")
        .env("NATS_URL", format!("nats://payment:{of_nats}@{nats}"))
        .env("REDIS_URL", format!("redis://payment:{of_redis}@{redis}"))
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = Client::new(&format!("http://{address}"));
    let is_ready = async || client.send(http::Method::GET, "/health/ready", &[]).await.is_ok_and(|it| it.status == 200);
    eventually("it is ready", async || is_ready().await).await;
    // And it meets trouble with both.
    platform.end_and_await("nats-1", Signal::SIGKILL).await;
    platform.end_and_await("redis-payment", Signal::SIGKILL).await;
    eventually("it is ready again", async || is_ready().await).await;
    let pid = instance.id().unwrap();
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).unwrap();
    assert!(instance.wait().await.unwrap().success());
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("TRACE") && said.contains("NATS") && said.contains("again"), "{said}");
    for password in [of_nats, of_redis] {
        assert!(!said.contains(&password), "a password is in its log");
        assert!(!String::from_utf8_lossy(&cmdline).contains(&password), "a password is in its command line");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_file_lets_a_person_look_and_do_nothing_else() {
    let platform = Platform::start(Options::default()).await;
    let file = platform.folder().path().join("nats.env");
    assert!(platform.folder().output().contains(&format!(". {}", file.display())), "{}", platform.folder().output());
    // As a shell reads it.
    let script = format!(". '{}'; printf '%s\\n' \"$NATS_URL\" \"$NATS_USER\" \"$NATS_PASSWORD\"", file.display());
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let [url, user, password] = text.lines().collect::<Vec<_>>()[..] else { panic!("three lines: {text}") };
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    let options = options.connection_timeout(PATIENCE).request_timeout(Some(PATIENCE));
    let mut jetstream = async_nats::jetstream::new(options.connect(url).await.unwrap());
    let stream = jetstream.get_stream(CHECKOUT).await.unwrap();
    assert!(stream.cached_info().config.subjects.contains(&"checkout.started".to_owned()));
    // What is not allowed is not answered either.
    jetstream.set_timeout(Duration::from_secs(1));
    assert!(jetstream.publish("checkout.watermark", "{}".into()).await.unwrap().await.is_err());
    assert!(jetstream.delete_stream(CHECKOUT).await.is_err());
}
