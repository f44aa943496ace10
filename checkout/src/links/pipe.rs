//! One connection between two processes, carried through whatever is wrong between them.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::try_join;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::links::Faults;
use crate::links::fault::{Broken, Weather};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// Chunks on their way in one direction; beyond, the sender has to wait, as it has where buffers are full.
const ON_THE_WAY: usize = 64;
/// How long the server may take to accept. It is on this machine.
const CONNECT: Duration = Duration::from_secs(2);

/// What is wrong between these two, now and later.
#[derive(Debug, Clone)]
pub struct Sky {
    /// Who has connected; nobody that is known, where it is no process of the platform.
    pub from: Option<String>,
    /// To whom.
    pub to: String,
    /// All that is wrong.
    pub faults: watch::Receiver<Faults>,
}

impl Sky {
    fn of(&self, faults: &Faults) -> Weather {
        Weather::between(faults.values(), self.from.as_deref(), &self.to)
    }

    fn now(&self) -> Weather {
        self.of(&self.faults.borrow())
    }

    /// Waits until the weather is like this.
    async fn until(&self, is_it: impl Fn(Weather) -> bool) -> Weather {
        let mut faults = self.faults.clone();
        let weather = faults.wait_for(|faults| is_it(self.of(faults))).await.ok().map(|faults| self.of(&faults));
        match weather {
            Some(weather) => weather,
            // The platform stops, and nothing changes any more.
            None => pending().await,
        }
    }

    async fn breaks(&self) -> Broken {
        self.until(|weather| weather.broken.is_some()).await.broken.unwrap_or(Broken::Cut)
    }
}

/// The server could not be connected to: it is not there.
#[derive(Debug)]
pub struct Away;

/// Carries a connection until it ends.
///
/// # Errors
/// There is no server; the client has been told so.
pub async fn carry(mut near: TcpStream, server: SocketAddr, sky: Sky) -> Result<(), Away> {
    if sky.now().is_held {
        sky.until(|weather| !weather.is_held || weather.broken.is_some()).await;
    }
    if let Some(broken) = sky.now().broken {
        match broken {
            Broken::Cut => reset(near),
            Broken::HalfOpen { .. } => swallow(near, &sky).await,
        }
        return Ok(());
    }
    let Ok(Ok(mut far)) = tokio::time::timeout(CONNECT, TcpStream::connect(server)).await else {
        reset(near);
        return Err(Away);
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let broken = {
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        tokio::select! {
            // An end that is reset is reset for the other too.
            done = try_join(pump(near_read, far_write, &sky), pump(far_read, near_write, &sky)) => done.err().map(|_| Broken::Cut),
            broken = sky.breaks() => Some(broken),
        }
    };
    match broken {
        None => {}
        Some(Broken::Cut) => {
            reset(near);
            reset(far);
        }
        Some(Broken::HalfOpen { client: true }) => {
            drop(far);
            swallow(near, &sky).await;
        }
        Some(Broken::HalfOpen { client: false }) => {
            drop(near);
            swallow(far, &sky).await;
        }
    }
    Ok(())
}

/// Ends a connection without a farewell.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// Takes what comes from an end whose other end is gone, until that is told.
async fn swallow(mut stream: TcpStream, sky: &Sky) {
    let mut nowhere = vec![0; CHUNK];
    let swallowing = async { while let Ok(1..) = stream.read(&mut nowhere).await {} };
    tokio::select! {
        () = swallowing => {}
        _ = sky.until(|weather| weather.broken.is_none()) => {}
    }
    reset(stream);
}

/// Carries one direction to its end.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, sky: &Sky) -> io::Result<()> {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Bytes)>(ON_THE_WAY);
    let reading = async move {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while from.read_buf(&mut buffer).await? > 0 {
            if sender.send((Instant::now() + sky.now().delay, buffer.split().freeze())).await.is_err() {
                break;
            }
            buffer.reserve(CHUNK);
        }
        Ok(())
    };
    let writing = async {
        while let Some((due, bytes)) = on_the_way.recv().await {
            tokio::time::sleep_until(due).await;
            if sky.now().is_held {
                sky.until(|weather| !weather.is_held).await;
            }
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    try_join(reading, writing).await.map(drop)
}
