//! What the gateway itself answers when it has no answer to pass on: `application/problem+json` (RFC 9457).

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

use crate::service::Service;

/// A path that no service serves.
pub fn no_route(path: &str) -> Response {
    // Paths may be long and strange; the answer need not repeat all of one.
    let shown: String = path.chars().take(200).collect();
    answer(
        StatusCode::NOT_FOUND,
        "no-such-route",
        "No such route",
        &format!("'{shown}' is not served here; there are /orders, /payment and /stock"),
    )
}

/// A request body larger than anything the API takes.
pub fn too_large() -> Response {
    answer(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body-too-large",
        "Request body too large",
        "no route reads a body; send the request without one",
    )
}

/// The client's body does not come.
pub fn too_slow() -> Response {
    answer(
        StatusCode::REQUEST_TIMEOUT,
        "body-too-slow",
        "Request body too slow",
        "the request body did not come in time",
    )
}

/// The client's own body could not be read to its end.
pub fn unreadable() -> Response {
    answer(StatusCode::BAD_REQUEST, "unreadable-body", "Request body could not be read", "the request body ended early")
}

/// Instances had the request and none answered, nor did those that were asked again.
pub fn not_known_yet(service: Service, location: Option<&str>) -> Response {
    let mut response = answer(
        StatusCode::ACCEPTED,
        "not-known-yet",
        "The outcome is not known yet",
        &format!(
            "the {service} service took the request and did not answer: it may or may not take effect; look, or send it with an \
             Idempotency-Key, which may be repeated"
        ),
    );
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// No instance could be connected to: nothing was sent.
pub fn unavailable(service: Service) -> Response {
    let mut response = answer(
        StatusCode::SERVICE_UNAVAILABLE,
        "no-instance",
        "Service unavailable",
        &format!("no instance of the {service} service can be reached; nothing was started"),
    );
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn answer(status: StatusCode, kind: &str, title: &str, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": format!("urn:checkout:problem:{kind}"),
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}
