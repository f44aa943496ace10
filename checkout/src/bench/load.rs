//! The load itself: clients in a closed loop, each on one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Empty};

use crate::bench::seed::Fresh;
use crate::bench::stats::{NO_ANSWER, Observed};
use crate::bench::target::Target;
use crate::failure::Failure;
use crate::http_client::{self, Sender};

/// After a connection that could not be opened again, so that a dead server is not asked in a hot loop.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Connected clients.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Client>,
}

/// What a run brought.
#[derive(Debug)]
pub struct Measured {
    /// All that was seen.
    pub observed: Observed,
    /// For how long: the time asked for, or less when the orders ran out.
    pub window: Duration,
    /// Whether the orders ran out.
    pub ran_out: bool,
}

impl Measured {
    /// Checkouts per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let count = self.observed.in_time() as f64;
        count / self.window.as_secs_f64().max(f64::EPSILON)
    }
}

/// One client: where it sends, and its connection while it has one.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    host: HeaderValue,
    connection: Option<Sender>,
}

impl Load {
    /// Connects all clients.
    ///
    /// # Errors
    /// When the target does not listen.
    pub async fn connect(target: &Target, clients: usize) -> Result<Self, Failure> {
        let connecting = (0..clients).map(|number| Client::connect(target.for_client(number)));
        let clients = join_all(connecting).await.into_iter().collect::<Result<_, _>>();
        Ok(Self { clients: clients.map_err(Failure::failed)? })
    }

    /// Lets all clients check out fresh orders for `time`, then waits for what is in flight. Gives the clients back for more.
    pub async fn run(self, fresh: &Arc<Fresh>, time: Duration) -> (Measured, Self) {
        let began = Instant::now();
        let end = began + time;
        let tasks: Vec<_> =
            self.clients.into_iter().map(|client| tokio::spawn(client.run(Arc::clone(fresh), end))).collect();
        let mut measured = Measured { observed: Observed::default(), window: time, ran_out: false };
        let mut clients = Vec::with_capacity(tasks.len());
        for task in tasks {
            // A client's task only fails when it panics, and then the run is void anyway.
            if let Ok((client, observed, ran_out)) = task.await {
                clients.push(client);
                measured.observed.merge(observed);
                measured.ran_out |= ran_out;
            }
        }
        if measured.ran_out {
            measured.window = began.elapsed().min(time);
        }
        (measured, Self { clients })
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: SocketAddr) -> Result<Self, String> {
        let host = HeaderValue::from_str(&address.to_string()).map_err(|error| error.to_string())?;
        let connection = Some(http_client::connect(address).await?);
        Ok(Self { address, host, connection })
    }

    async fn run(mut self, fresh: Arc<Fresh>, end: Instant) -> (Self, Observed, bool) {
        let mut observed = Observed::default();
        let mut now = Instant::now();
        while now < end {
            let Some(order) = fresh.take() else {
                return (self, observed, true);
            };
            let status = self.checkout(order).await;
            let answered = Instant::now();
            observed.add(status, answered - now, answered <= end);
            now = answered;
        }
        (self, observed, false)
    }

    /// Checks out one order; the status of the answer, or [`NO_ANSWER`].
    pub async fn checkout(&mut self, order: u64) -> u16 {
        let mut sender = match self.connection.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => match http_client::connect(self.address).await {
                Ok(sender) => sender,
                Err(_) => {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    return NO_ANSWER;
                }
            },
        };
        match self.exchange(&mut sender, order).await {
            Some(status) => {
                self.connection = Some(sender);
                status
            }
            None => NO_ANSWER,
        }
    }

    async fn exchange(&self, sender: &mut Sender, order: u64) -> Option<u16> {
        sender.ready().await.ok()?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/orders/checkout/{order}"))
            .header(header::HOST, self.host.clone())
            .body(Empty::<Bytes>::new())
            .ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        response.into_body().collect().await.ok()?;
        Some(status)
    }
}
