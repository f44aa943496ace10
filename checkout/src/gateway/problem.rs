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

/// The client's own body could not be read to its end.
pub fn unreadable() -> Response {
    answer(StatusCode::BAD_REQUEST, "unreadable-body", "Request body could not be read", "the request body ended early")
}

/// The connection broke after the request was sent.
pub fn outcome_unknown(service: Service) -> Response {
    answer(
        StatusCode::BAD_GATEWAY,
        "outcome-unknown",
        "Outcome not known",
        &format!(
            "the connection to the {service} service broke after the request was sent: it may or may not have taken effect; \
             look, or repeat it with an Idempotency-Key"
        ),
    )
}

/// The instance did not answer in time.
pub fn too_late(service: Service) -> Response {
    answer(
        StatusCode::GATEWAY_TIMEOUT,
        "outcome-unknown",
        "Outcome not known",
        &format!("the {service} service did not answer in time: the request may or may not take effect"),
    )
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
