//! How a fault is ordered: one line of JSON at a socket in the platform's folder, one line back, with how many connections it meets; it lasts until the
//! connection is closed, or at least no more is to come, which is answered with how many it has met in all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::failure::Failure;
use crate::folder::Folder;
use crate::links::Shared;
use crate::links::fault::Fault;

/// The answer takes no time; who waits for longer waits for a platform that has died.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest line that is read.
const LONGEST: u64 = 64 << 10;

fn socket(folder: &Folder) -> PathBuf {
    folder.root().join("run").join("links.sock")
}

/// The socket of a platform that starts. Its folder lets nobody in but its owner.
pub(super) fn listen(folder: &Folder) -> Result<UnixListener, Failure> {
    let path = socket(folder);
    // What a platform that was killed has left behind.
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

/// Nobody takes orders any more.
pub(super) fn close(folder: &Folder) {
    let _ = std::fs::remove_file(socket(folder));
}

/// Takes orders.
pub(super) async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move { carry_out(stream, &shared).await });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn carry_out(stream: UnixStream, shared: &Shared) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(LONGEST).read_line(&mut line).await.ok()?;
    let fault: Fault = match serde_json::from_str(&line) {
        Ok(fault) => fault,
        Err(error) => return stream.write_all(format!("no fault: {error}\n").as_bytes()).await.ok(),
    };
    let (number, met) = shared.begin(fault);
    let _ = stream.write_all(format!("{met}\n").as_bytes()).await;
    // To its end: whoever has ordered it lets go, or dies.
    let _ = stream.read_line(&mut line).await;
    let met = shared.end(number);
    stream.write_all(format!("{met}\n").as_bytes()).await.ok()
}

/// A fault that lasts as long as this is there.
#[derive(Debug)]
pub struct Held {
    /// Lets go of it when dropped.
    stream: BufReader<UnixStream>,
    /// How many connections it met when it began.
    pub met: usize,
}

impl Held {
    /// Orders a fault at the platform in this folder.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn begin(folder: &Folder, fault: &Fault) -> Result<Self, String> {
        let ordered = async {
            let mut stream = BufReader::new(UnixStream::connect(socket(folder)).await?);
            let mut line = serde_json::to_string(fault)?;
            line.push('\n');
            stream.write_all(line.as_bytes()).await?;
            line.clear();
            stream.read_line(&mut line).await?;
            Ok::<_, std::io::Error>((stream, line))
        };
        match tokio::time::timeout(ANSWER, ordered).await {
            Ok(Ok((stream, line))) => match line.trim().parse() {
                Ok(met) => Ok(Self { stream, met }),
                Err(_) => Err(format!("its network answers '{}'", line.trim())),
            },
            Ok(Err(error)) => Err(format!("its network cannot be reached: {error}")),
            Err(_) => Err("its network does not answer".to_owned()),
        }
    }

    /// Ends it: how many connections it has met in all, also such as were wanted while it lasted.
    ///
    /// # Errors
    /// Its network does not say.
    pub async fn end(mut self) -> Result<usize, String> {
        let told = async {
            let mut line = String::new();
            self.stream.get_mut().shutdown().await?;
            self.stream.read_line(&mut line).await?;
            Ok::<_, std::io::Error>(line)
        };
        match tokio::time::timeout(ANSWER, told).await {
            Ok(Ok(line)) => line.trim().parse().map_err(|_| format!("its network answers '{}'", line.trim())),
            Ok(Err(error)) => Err(format!("its network cannot be reached: {error}")),
            Err(_) => Err("its network does not answer".to_owned()),
        }
    }
}
