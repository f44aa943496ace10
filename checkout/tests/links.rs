//! The network that can be hurt, between this process under the name of an instance and a server of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use checkout::folder::Folder;
use checkout::links::fault::{Fault, Trouble};
use checkout::links::{Held, Links};
use testing::ports::Reserved;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Far more than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What has not come in this time does not come.
const NOTHING: Duration = Duration::from_millis(300);

/// A network with one server, whose ends of connections are given out as they are made.
struct World {
    folder: Folder,
    _links: Links,
    server: SocketAddr,
    front: SocketAddr,
    /// Nobody else gets the ports while nobody listens there.
    _ports: [Reserved; 2],
    accepted: mpsc::UnboundedReceiver<TcpStream>,
    accepting: tokio::task::JoinHandle<()>,
}

impl World {
    /// We ourselves are `order-1`.
    async fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("checkout-links-{name}-{}", std::process::id()));
        let folder = Folder::create(Some(root)).unwrap();
        folder.record("order-1", std::process::id());
        let links = Links::new(&folder).unwrap();
        let ports = [Reserved::new(), Reserved::new()];
        let (address, front) = (ports[0].address(), ports[1].address());
        let server = TcpListener::bind(address).await.unwrap();
        links.front("nats-1", address, front).unwrap();
        let (accepted, accepting) = serve(server);
        Self { folder, _links: links, server: address, front, _ports: ports, accepted, accepting }
    }

    /// A connection, by both of its ends.
    async fn connect(&mut self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.front).await.unwrap();
        let server = timeout(PATIENCE, self.accepted.recv()).await.expect("it is passed on").unwrap();
        (client, server)
    }

    async fn fault(&self, one: &str, trouble: Trouble) -> Held {
        let fault = Fault { one: vec![one.to_owned()], other: vec!["nats-1".to_owned()], trouble };
        Held::begin(&self.folder, &fault).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.folder.root());
    }
}

fn serve(listener: TcpListener) -> (mpsc::UnboundedReceiver<TcpStream>, tokio::task::JoinHandle<()>) {
    let (sender, accepted) = mpsc::unbounded_channel();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = sender.send(stream);
        }
    });
    (accepted, accepting)
}

async fn says(from: &mut TcpStream, to: &mut TcpStream, word: &[u8]) {
    from.write_all(word).await.unwrap();
    hears(to, word).await;
}

async fn hears(to: &mut TcpStream, word: &[u8]) {
    let mut heard = vec![0; word.len()];
    timeout(PATIENCE, to.read_exact(&mut heard)).await.expect("it comes").unwrap();
    assert_eq!(heard, word);
}

/// Waits until a connection has been reset.
async fn is_reset(stream: &mut TcpStream) {
    let read = timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("it is told");
    assert!(read.is_err(), "a reset, and no end: {read:?}");
}

#[tokio::test]
async fn without_a_fault_all_is_passed_on_to_the_end() {
    let mut world = World::new("calm").await;
    let (mut client, mut server) = world.connect().await;
    says(&mut client, &mut server, b"question").await;
    says(&mut server, &mut client, b"answer").await;
    let much = vec![7; 20 << 20];
    let sending = tokio::spawn(async move {
        client.write_all(&much).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut all = Vec::new();
    timeout(PATIENCE, server.read_to_end(&mut all)).await.unwrap().unwrap();
    assert_eq!(all.len(), 20 << 20);
    let mut client = sending.await.unwrap();
    says(&mut server, &mut client, b"the other half goes on").await;
}

#[tokio::test]
async fn a_cut_resets_both_ends_and_new_connections_until_it_is_over_and_meets_nobody_else() {
    let mut world = World::new("cut").await;
    let (mut client, mut server) = world.connect().await;
    let elsewhere = world.fault("payment-1", Trouble::Cut).await;
    assert_eq!(elsewhere.met, 0);
    says(&mut client, &mut server, b"not meant").await;
    let cut = world.fault("order-1", Trouble::Cut).await;
    assert_eq!(cut.met, 1);
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    let mut refused = TcpStream::connect(world.front).await.unwrap();
    is_reset(&mut refused).await;
    drop(cut);
    let began = Instant::now();
    let (mut client, mut server) = loop {
        assert!(began.elapsed() < PATIENCE, "the cut is not over");
        // The order is taken back when the end of its connection is heard.
        let mut client = TcpStream::connect(world.front).await.unwrap();
        tokio::select! {
            server = world.accepted.recv() => break (client, server.unwrap()),
            () = is_reset(&mut client) => {}
        }
    };
    says(&mut client, &mut server, b"again").await;
}

#[tokio::test]
async fn a_fault_counts_also_those_who_connect_while_it_lasts() {
    let world = World::new("count").await;
    let elsewhere = world.fault("payment-1", Trouble::Cut).await;
    let cut = world.fault("order-1", Trouble::Cut).await;
    assert_eq!((elsewhere.met, cut.met), (0, 0), "nobody is connected");
    let mut refused = TcpStream::connect(world.front).await.unwrap();
    is_reset(&mut refused).await;
    assert_eq!(cut.end().await, Ok(1));
    assert_eq!(elsewhere.end().await, Ok(0));
}

#[tokio::test]
async fn what_is_held_comes_whole_when_it_is_over() {
    let mut world = World::new("hold").await;
    let (mut client, mut server) = world.connect().await;
    let hold = world.fault("order-1", Trouble::Hold).await;
    client.write_all(b"one ").await.unwrap();
    client.write_all(b"two").await.unwrap();
    server.write_all(b"three").await.unwrap();
    let mut early = [0; 1];
    assert!(timeout(NOTHING, server.read(&mut early)).await.is_err(), "nothing comes");
    assert!(timeout(NOTHING, client.read(&mut early)).await.is_err(), "nor the other way");
    let mut another = TcpStream::connect(world.front).await.unwrap();
    assert!(timeout(NOTHING, world.accepted.recv()).await.is_err(), "nor a new connection");
    drop(hold);
    hears(&mut server, b"one two").await;
    hears(&mut client, b"three").await;
    let mut accepted = timeout(PATIENCE, world.accepted.recv()).await.expect("it is passed on").unwrap();
    says(&mut another, &mut accepted, b"four").await;
}

#[tokio::test]
async fn what_is_delayed_comes_in_order_and_not_before_its_time() {
    let mut world = World::new("delay").await;
    let (mut client, mut server) = world.connect().await;
    let delay = Duration::from_millis(200);
    let _held = world.fault("order-1", Trouble::Delay(200)).await;
    let began = Instant::now();
    client.write_all(b"there").await.unwrap();
    hears(&mut server, b"there").await;
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    server.write_all(b"and back").await.unwrap();
    hears(&mut client, b"and back").await;
    assert!(began.elapsed() >= delay * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn of_a_half_open_connection_one_end_is_gone_and_the_other_hears_of_it_at_the_end() {
    for is_client in [true, false] {
        let mut world = World::new(if is_client { "half-client" } else { "half-server" }).await;
        let (client, server) = world.connect().await;
        let (mut unaware, mut gone) = if is_client { (client, server) } else { (server, client) };
        let half = world.fault("order-1", Trouble::HalfOpen { client: is_client }).await;
        let end = timeout(PATIENCE, gone.read(&mut [0; 16])).await.expect("it hears at once");
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        unaware.write_all(b"is anybody there?").await.unwrap();
        assert!(timeout(NOTHING, unaware.read(&mut [0; 16])).await.is_err(), "it hears nothing");
        drop(half);
        is_reset(&mut unaware).await;
    }
}

#[tokio::test]
async fn where_the_server_is_away_nobody_listens_until_it_is_back() {
    let mut world = World::new("away").await;
    world.accepting.abort();
    let _ = (&mut world.accepting).await;
    let began = Instant::now();
    while TcpStream::connect(world.front).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "its front goes on to listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (accepted, accepting) = serve(TcpListener::bind(world.server).await.unwrap());
    (world.accepted, world.accepting) = (accepted, accepting);
    let mut client = loop {
        match TcpStream::connect(world.front).await {
            Ok(client) => break client,
            Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => panic!("its front does not come back: {error}"),
        }
    };
    client.write_all(b"back").await.unwrap();
    // Its front has looked whether it is there, once or more; such a connection ends without a word.
    let mut heard = [0; 4];
    loop {
        let mut server = timeout(PATIENCE, world.accepted.recv()).await.expect("it is passed on").unwrap();
        if timeout(PATIENCE, server.read_exact(&mut heard)).await.expect("a word or an end").is_ok() {
            break;
        }
    }
    assert_eq!(&heard, b"back");
}
