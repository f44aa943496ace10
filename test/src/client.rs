//! A client of the REST interface, as a shop would write one: every route, as JSON or text.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::wait::until;

/// Far above what any request may take, so that a hanging one fails its test by name instead of hanging it.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// Sends requests to one address. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http<HttpConnector, Empty<Bytes>>,
    base: String,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {} {}", self.status, self.text()))
    }

    /// A header's text, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The answer itself, if it has this status.
    ///
    /// # Panics
    /// It has another.
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Checks that this is a problem of RFC 9457 with this status and type, whose detail names `named`.
    ///
    /// # Panics
    /// It is not.
    pub fn expect_problem(self, status: u16, kind: &str, named: &str) -> Self {
        let shown: String = self.text().chars().take(600).collect();
        assert_eq!(self.status, status, "{shown}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{shown}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:checkout:problem:{kind}"), "{shown}");
        assert_eq!(problem["status"], status, "{shown}");
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        assert!(!text("title").is_empty(), "a title is missing: {shown}");
        assert!(text("detail").contains(named), "the detail does not name {named:?}: {shown}");
        // What a client sent is repeated in part only.
        assert!(self.body.len() < 1_000, "{} bytes: {shown}", self.body.len());
        self
    }

    /// One text field of a JSON body with status 200.
    fn field(self, name: &str) -> String {
        let json = self.expect_status(200).json();
        json[name].as_str().unwrap_or_else(|| panic!("no text {name:?} in {json}")).to_owned()
    }
}

impl Client {
    /// A client with connections of its own.
    pub fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { http: Http::builder(TokioExecutor::new()).build(connector), base: base.to_owned() }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// There was no whole answer: one line that says why.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| describe(&error))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| describe(&error))?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// GET, again and again while the answer is that there is none for now.
    ///
    /// # Panics
    /// There was no whole answer.
    pub async fn get(&self, path: &str) -> Answer {
        self.insist(Method::GET, path, &[]).await
    }

    /// A request that is sent again while the answer is that there is none for now, and that nothing was started (503).
    ///
    /// # Panics
    /// There was no whole answer.
    pub async fn insist(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let what = format!("an answer to {method} {}", short(path));
        until(&what, async || {
            let answer = self.send(method.clone(), path, headers).await;
            let answer = answer.unwrap_or_else(|error| panic!("{method} {}: {error}", short(path)));
            (answer.status != 503).then_some(answer)
        })
        .await
    }

    /// A POST that must come to its end, and only once: under a key of its own it is sent until its outcome is known. For what a test
    /// only needs to be there.
    ///
    /// # Panics
    /// It is refused, or there was no whole answer.
    pub async fn surely(&self, path: &str) -> Answer {
        let key = format!("{:032x}", rand::random::<u128>());
        until(&format!("the outcome of POST {}", short(path)), async || {
            let answer = self.post_once(&key, path).await;
            let is_in_use = answer.status == 409 && answer.text().contains("idempotency-key-in-use");
            let is_open = is_in_use || matches!(answer.status, 202 | 503);
            (!is_open).then(|| answer.expect_status(200))
        })
        .await
    }

    /// POST.
    ///
    /// # Panics
    /// There was no whole answer.
    pub async fn post(&self, path: &str) -> Answer {
        self.post_with(path, &[]).await
    }

    /// POST with headers.
    ///
    /// # Panics
    /// There was no whole answer.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::POST, path, headers).await.unwrap_or_else(|error| panic!("POST {}: {error}", short(path)))
    }

    /// POST with an `Idempotency-Key`.
    pub async fn post_once(&self, key: &str, path: &str) -> Answer {
        self.post_with(path, &[("idempotency-key", key)]).await
    }

    /// A new user with this credit.
    pub async fn user(&self, credit: u64) -> String {
        let user = self.surely("/payment/create_user").await.field("user_id");
        if credit > 0 {
            self.surely(&format!("/payment/add_funds/{user}/{credit}")).await;
        }
        user
    }

    /// A user's credit.
    pub async fn credit(&self, user: &str) -> u64 {
        let json = self.get(&format!("/payment/find_user/{user}")).await.expect_status(200).json();
        json["credit"].as_u64().unwrap_or_else(|| panic!("no credit in {json}"))
    }

    /// A new item at this price with so many pieces.
    pub async fn item(&self, price: u64, pieces: u64) -> String {
        let item = self.surely(&format!("/stock/item/create/{price}")).await.field("item_id");
        if pieces > 0 {
            self.surely(&format!("/stock/add/{item}/{pieces}")).await;
        }
        item
    }

    /// How many pieces there are.
    pub async fn pieces(&self, item: &str) -> u64 {
        let json = self.get(&format!("/stock/find/{item}")).await.expect_status(200).json();
        json["stock"].as_u64().unwrap_or_else(|| panic!("no stock in {json}"))
    }

    /// A new order of these items.
    pub async fn order(&self, user: &str, items: &[(&str, u64)]) -> String {
        let order = self.surely(&format!("/orders/create/{user}")).await.field("order_id");
        for (item, quantity) in items {
            self.surely(&format!("/orders/addItem/{order}/{item}/{quantity}")).await;
        }
        order
    }

    /// The order as the service shows it.
    pub async fn find_order(&self, order: &str) -> Value {
        self.get(&format!("/orders/find/{order}")).await.expect_status(200).json()
    }

    /// Whether the order is paid.
    pub async fn is_paid(&self, order: &str) -> bool {
        self.find_order(order).await["paid"] == true
    }

    /// Checks an order out.
    pub async fn checkout(&self, order: &str) -> Answer {
        self.post(&format!("/orders/checkout/{order}")).await
    }

    /// Users "0", "1", … with this credit.
    pub async fn batch_users(&self, n: u64, credit: u64) {
        self.surely(&format!("/payment/batch_init/{n}/{credit}")).await;
    }

    /// Items "0", "1", … with so many pieces at this price.
    pub async fn batch_items(&self, n: u64, pieces: u64, price: u64) {
        self.surely(&format!("/stock/batch_init/{n}/{pieces}/{price}")).await;
    }

    /// Orders "0", "1", … of two random items for a random user.
    pub async fn batch_orders(&self, n: u64, items: u64, users: u64, price: u64) {
        self.surely(&format!("/orders/batch_init/{n}/{items}/{users}/{price}")).await;
    }
}

/// An error with all its causes: hyper's own text is only the outermost.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn short(path: &str) -> String {
    path.chars().take(120).collect()
}
