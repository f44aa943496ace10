//! A wire between the writer and its Redis that a test can cut at the worst moment: after the server has carried the calls
//! out, and before the writer has heard of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::redis::Operation;
use futures::future::join_all;
use testing::servers::Redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{add, counter, eventually, far, is_ok, open, sent_in_vain};

/// The switch of a wire.
#[derive(Clone, Default)]
struct Switch {
    /// From now on, replies to calls are lost and their connections cut. What a connection begins with is answered: a writer that had to
    /// connect anew could carry out nothing else.
    loses_replies: Arc<AtomicBool>,
    /// Replies that were lost.
    lost: Arc<AtomicUsize>,
}

/// What only calls of functions contain.
const CALL: &[u8] = b"FCALL";

/// Lays a wire to `redis`; returns its own address.
async fn lay_wire(redis: &Redis, switch: Switch) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let port = redis.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(carry(client, server, switch.clone()));
        }
    });
    url
}

/// Carries bytes both ways until one side closes or the switch cuts.
async fn carry(client: TcpStream, server: TcpStream, switch: Switch) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let called = AtomicBool::new(false);
    let forth = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            if buffer[..read].windows(CALL.len()).any(|bytes| bytes == CALL) {
                called.store(true, Ordering::SeqCst);
            }
            to_server.write_all(&buffer[..read]).await?;
        }
    };
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            if called.load(Ordering::SeqCst) && switch.loses_replies.load(Ordering::SeqCst) {
                switch.lost.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    let _: Result<(), std::io::Error> = tokio::select! { result = forth => result, result = back => result };
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_replies_are_lost_are_repeated_and_applied_once() {
    let (redis, switch) = (Redis::start(), Switch::default());
    let url = lay_wire(&redis, switch.clone()).await;
    let (database, _tasks) = open(&url, 2).await;
    switch.loses_replies.store(true, Ordering::SeqCst);
    let calls = 200;
    let adds = (0..calls).map(|n| {
        let database = database.clone();
        tokio::spawn(async move { database.call(add(&Operation::internal(format!("{n}")), 1), far()).await })
    });
    let adds: Vec<_> = adds.collect();
    // Some calls have had their effect, and no caller knows.
    let mut console = redis.console();
    eventually("calls are carried out", || counter(&mut console) > 0).await;
    eventually("replies are lost", || switch.lost.load(Ordering::SeqCst) > 0).await;
    assert!(adds.iter().all(|add| !add.is_finished()));
    switch.loses_replies.store(false, Ordering::SeqCst);
    let mut sums: Vec<i64> = Vec::new();
    for reply in join_all(adds).await {
        let reply = reply.unwrap();
        assert!(is_ok(&reply), "{reply:?}");
        sums.push(reply.unwrap().parse(1).unwrap());
    }
    sums.sort_unstable();
    assert_eq!(sums, (1..=calls).collect::<Vec<_>>(), "each repeat is answered with its own first reply");
    assert_eq!(counter(&mut console), calls, "and none was applied twice");
}

#[tokio::test]
async fn a_call_whose_reply_is_lost_until_its_deadline_is_not_known() {
    let (redis, switch) = (Redis::start(), Switch::default());
    let url = lay_wire(&redis, switch.clone()).await;
    let (database, _tasks) = open(&url, 1).await;
    switch.loses_replies.store(true, Ordering::SeqCst);
    let key = Operation::from_client("key", "POST /add".into(), 600);
    let mut console = redis.console();
    sent_in_vain(&database, || add(&key, 1), || counter(&mut console)).await;
    eventually("it is carried out", || counter(&mut console) == 1).await;
    switch.loses_replies.store(false, Ordering::SeqCst);
    let again = database.call(add(&key, 1), far()).await.unwrap();
    assert_eq!((again.code(), again.text(1), counter(&mut console)), ("ok", "1", 1), "the client's repeat is safe");
}
