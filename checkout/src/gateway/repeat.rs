//! A request that an instance took and did not answer: what makes it safe to ask again, and what the client is told when nobody answers.
//!
//! Whether such a request took effect cannot be seen from here, but it can be asked again without doing it twice. A `GET` changes
//! nothing. A checkout joins the saga that is under way, or finds the order paid; but where it is refused, its first try may still come and begin
//! the order's next saga, so the refusal is not the last word. Every other `POST` gets an id here, under which
//! the service records its reply with its effect: the repeat is answered from the record. It costs the service nothing, because
//! it records each command under some id anyway.

use axum::body::Body;
use axum::response::Response;
use common::http::{IDEMPOTENCY_KEY, REQUEST_ID};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use uuid::Uuid;

use crate::gateway::problem;
use crate::limits::GATEWAY_BODY_BYTES;
use crate::service::Service;

/// Where checkouts are asked for.
const CHECKOUT: &str = "/orders/checkout/";

/// Gives a request the id under which it may be repeated; a client's own is not believed. Checkouts need none.
pub fn identify(parts: &mut Parts) {
    parts.headers.remove(REQUEST_ID);
    if parts.method != Method::POST {
        return;
    }
    // A header that `Connection` names is not passed on, and these two must be.
    parts.headers.remove(header::CONNECTION);
    if !parts.uri.path().starts_with(CHECKOUT)
        && let Ok(id) = HeaderValue::try_from(Uuid::new_v4().simple().to_string())
    {
        parts.headers.insert(REQUEST_ID, id);
    }
}

/// The answer to a repeated request, if it is one. A checkout with a client's key, whose first instance is gone, is told that the key is
/// in use: by the saga that it began, so it is asked again without the key, and joins that.
pub async fn settle(parts: &mut Parts, response: Response) -> Option<Response> {
    let may_be_in_use = response.status() == StatusCode::CONFLICT
        && parts.uri.path().starts_with(CHECKOUT)
        && parts.headers.contains_key(IDEMPOTENCY_KEY);
    if !may_be_in_use {
        return Some(response);
    }
    let (head, body) = response.into_parts();
    let body = Limited::new(body, GATEWAY_BODY_BYTES).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if problem["type"] == "urn:checkout:problem:idempotency-key-in-use" {
        parts.headers.remove(IDEMPOTENCY_KEY);
        return None;
    }
    Some(Response::from_parts(head, Body::from(body)))
}

/// Whether another instance may be asked while this one has the request and stands still. Not for a batch, which lasts: the other one would find
/// its key taken.
pub fn may_move(parts: &Parts) -> bool {
    !parts.uri.path().contains("/batch_init/")
}

/// Whether an answer to a repeated command says no more than that the repeat did nothing: the instance is overwhelmed, cannot reach its database, or
/// has a defect. The first try may have done it all the same, so the client must not be told that nothing was started.
pub fn is_of_this_try_only(parts: &Parts, status: StatusCode) -> bool {
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    !is_read && (status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error())
}

/// Whether a repeat was refused, and the first try may take effect all the same: a checkout that an instance still has in hand, or has sent to its
/// database on a connection that does not move, begins another saga when the one that the repeat was told of has failed. Under a client's key it
/// would find that recorded.
pub fn is_no_last_word(parts: &Parts, status: StatusCode) -> bool {
    status.is_client_error()
        && parts.method == Method::POST
        && parts.uri.path().starts_with(CHECKOUT)
        && !parts.headers.contains_key(IDEMPOTENCY_KEY)
}

/// What is true when nobody answered in time: a command may take effect or not; a read took none.
pub fn open(service: Service, parts: &Parts) -> Response {
    if parts.method == Method::GET || parts.method == Method::HEAD {
        return problem::unavailable(service);
    }
    problem::not_known_yet(service, place_to_look(parts.uri.path()).as_deref())
}

/// Where the client sees what became of it: at what it wanted to change.
fn place_to_look(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["orders", "checkout" | "addItem", order, ..] => Some(format!("/orders/find/{order}")),
        ["payment", "add_funds" | "pay", user, ..] => Some(format!("/payment/find_user/{user}")),
        ["stock", "add" | "subtract", item, ..] => Some(format!("/stock/find/{item}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_looks_at_what_was_to_change() {
        assert_eq!(place_to_look("/orders/checkout/5").as_deref(), Some("/orders/find/5"));
        assert_eq!(place_to_look("/orders/addItem/5/7/1").as_deref(), Some("/orders/find/5"));
        assert_eq!(place_to_look("/payment/pay/7/3").as_deref(), Some("/payment/find_user/7"));
        assert_eq!(place_to_look("/stock/add/7/3").as_deref(), Some("/stock/find/7"));
        for none in ["/orders/create/7", "/payment/create_user", "/stock/batch_init/1/1/1", "/", ""] {
            assert_eq!(place_to_look(none), None, "{none}");
        }
    }
}
