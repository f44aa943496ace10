//! Sends one command, and writes down what came back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::http::IDEMPOTENCY_KEY;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use crate::chaos::recorder::Recorder;
use crate::checker::history::{Command, Exchange, Line, Lost, Reply, Said, Thing};

/// The gateway gives up after a minute at most; who waits so long waits for nothing.
pub const PATIENCE: Duration = Duration::from_secs(75);
/// No reply is longer by far.
const LONGEST_REPLY: usize = 1 << 20;

/// Sends commands to one gateway. Cheap to clone; all clones share connections and history.
#[derive(Debug, Clone)]
pub struct Shopper {
    http: Client<HttpConnector, Empty<Bytes>>,
    base: Arc<str>,
    recorder: Arc<Recorder>,
}

impl Shopper {
    /// Sends to this URL.
    #[must_use]
    pub fn new(base: &str, recorder: Arc<Recorder>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .build(connector);
        Self { http, base: base.trim_end_matches('/').into(), recorder }
    }

    /// The history.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The history, to be kept.
    #[must_use]
    pub fn recorder_arc(&self) -> Arc<Recorder> {
        self.recorder.clone()
    }

    /// Sends a command, and waits for its reply at most so long.
    pub async fn ask(&self, client: u32, command: Command, key: Option<&str>, patience: Duration) -> Reply {
        let start_us = self.recorder.now_us();
        let reply = match tokio::time::timeout(patience, self.exchange(&command, key)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(lost)) => Reply { lost: Some(lost), ..Reply::default() },
            Err(_) => Reply { lost: Some(Lost::TimedOut), ..Reply::default() },
        };
        let end_us = self.recorder.now_us();
        let key = key.map(str::to_owned);
        self.recorder.write(&Line::Exchange(Exchange { client, command, key, start_us, end_us, reply: reply.clone() }));
        reply
    }

    /// Looks without writing it down.
    pub async fn look(&self, command: &Command) -> Option<Reply> {
        tokio::time::timeout(PATIENCE, self.exchange(command, None)).await.ok()?.ok()
    }

    /// What is answered at a path: the status, and the JSON, or null where it is none. Nothing where nobody answers.
    pub async fn read(&self, path: &str) -> Option<(StatusCode, Value)> {
        let (status, body, _) = tokio::time::timeout(PATIENCE, self.send(Method::GET, path, None)).await.ok()?.ok()?;
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn exchange(&self, command: &Command, key: Option<&str>) -> Result<Reply, Lost> {
        let (method, path) = route(command);
        let (status, body, location) = self.send(method, &path, key).await?;
        let is_done = status.is_success() && status != StatusCode::ACCEPTED;
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        let problem = json.as_ref().and_then(|json| json.get("type")?.as_str()?.rsplit(':').next().map(str::to_owned));
        let instance = json.as_ref().and_then(|json| json.get("instance")?.as_str().map(str::to_owned));
        let said = is_done.then(|| read(command, &body, json.as_ref())).flatten();
        let (problem, instance) = (problem.filter(|_| !is_done), instance.filter(|_| !is_done));
        Ok(Reply { status: Some(status.as_u16()), lost: None, problem, location, instance, said })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
    ) -> Result<(StatusCode, Bytes, Option<String>), Lost> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(key) = key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        let request = request.body(Empty::new()).map_err(|_| Lost::NotSent)?;
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| if error.is_connect() { Lost::NotSent } else { Lost::Broken })?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|it| it.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), LONGEST_REPLY).collect().await.map_err(|_| Lost::Broken)?;
        Ok((status, body.to_bytes(), location))
    }
}

fn route(command: &Command) -> (Method, String) {
    let path = match command {
        Command::CreateUser => "/payment/create_user".to_owned(),
        Command::CreateItem { price } => format!("/stock/item/create/{price}"),
        Command::CreateOrder { user } => format!("/orders/create/{user}"),
        Command::AddItem { order, item, quantity } => format!("/orders/addItem/{order}/{item}/{quantity}"),
        Command::Checkout { order } => format!("/orders/checkout/{order}"),
        Command::AddFunds { user, amount } => format!("/payment/add_funds/{user}/{amount}"),
        Command::Pay { user, amount } => format!("/payment/pay/{user}/{amount}"),
        Command::AddStock { item, pieces } => format!("/stock/add/{item}/{pieces}"),
        Command::SubtractStock { item, pieces } => format!("/stock/subtract/{item}/{pieces}"),
        Command::FindUser { user } => format!("/payment/find_user/{user}"),
        Command::FindItem { item } => format!("/stock/find/{item}"),
        Command::FindOrder { order } => format!("/orders/find/{order}"),
    };
    (if command.is_read() { Method::GET } else { Method::POST }, path)
}

/// What a success says. What cannot be read is kept as text, and no rule will find it in order.
fn read(command: &Command, body: &[u8], json: Option<&Value>) -> Option<Said> {
    let text = |name: &str| json?.get(name)?.as_str().map(str::to_owned);
    let number = |name: &str| json?.get(name)?.as_i64();
    let said = match command {
        Command::CreateUser => text("user_id").map(Said::Id),
        Command::CreateItem { .. } => text("item_id").map(Said::Id),
        Command::CreateOrder { .. } => text("order_id").map(Said::Id),
        Command::FindUser { .. } => {
            text("user_id").zip(number("credit")).map(|(user, credit)| Said::Thing(Thing::User { user, credit }))
        }
        Command::FindItem { item } => number("stock")
            .zip(number("price"))
            .map(|(stock, price)| Said::Thing(Thing::Item { item: item.clone(), stock, price })),
        Command::FindOrder { .. } => json.and_then(order).map(Said::Thing),
        _ => None,
    };
    Some(said.unwrap_or_else(|| Said::Text(String::from_utf8_lossy(body).into_owned())))
}

fn order(json: &Value) -> Option<Thing> {
    let entry = |it: &Value| Some((it.get(0)?.as_str()?.to_owned(), it.get(1)?.as_i64()?));
    Some(Thing::Order {
        order: json.get("order_id")?.as_str()?.to_owned(),
        user: json.get("user_id")?.as_str()?.to_owned(),
        items: json.get("items")?.as_array()?.iter().map(entry).collect::<Option<_>>()?,
        total: json.get("total_cost")?.as_i64()?,
        paid: json.get("paid")?.as_bool()?,
    })
}
