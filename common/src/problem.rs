//! Errors as the client sees them: RFC 9457 problem details with stable types.
//!
//! Each code answers three questions by exhaustive match: which HTTP status, whether the same request may succeed later,
//! and whether the request could have had an effect.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Everything that can be wrong with a request or with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A path parameter, header or body is not of the form it should have.
    Malformed,
    /// The path exists with another method.
    MethodNotAllowed,
    /// No such path.
    NoSuchRoute,
    /// No such order, user or item.
    NotFound,
    /// A sum would exceed the largest amount.
    Overflow,
    /// The user's credit is less than the amount.
    InsufficientCredit,
    /// The user whose order is to be paid does not exist.
    UnknownUser,
    /// Fewer pieces in stock than asked for.
    OutOfStock,
    /// The checkout was undone because it took longer than its time limit.
    Abandoned,
    /// The order is paid, it cannot be changed.
    OrderPaid,
    /// A checkout of the order is under way, it cannot be changed now.
    OrderInFlight,
    /// A request with the same idempotency key is still running.
    KeyInUse,
    /// The idempotency key was used with another request.
    KeyMismatch,
    /// More checkouts are under way than this instance takes.
    Overloaded,
    /// The outcome is not known yet.
    NotKnownYet,
    /// Our trouble; nothing was started.
    Unavailable,
    /// A defect of ours; nothing was started.
    Internal,
}

impl Code {
    /// The HTTP status.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::Overflow | Self::InsufficientCredit | Self::UnknownUser | Self::OutOfStock => {
                StatusCode::BAD_REQUEST
            }
            Self::NoSuchRoute | Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Abandoned | Self::OrderPaid | Self::OrderInFlight | Self::KeyInUse => StatusCode::CONFLICT,
            Self::KeyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::NotKnownYet => StatusCode::ACCEPTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the very same request may succeed later.
    pub const fn retryable(self) -> bool {
        match self {
            Self::Abandoned
            | Self::OrderInFlight
            | Self::KeyInUse
            | Self::Overloaded
            | Self::NotKnownYet
            | Self::Unavailable => true,
            Self::Malformed
            | Self::MethodNotAllowed
            | Self::NoSuchRoute
            | Self::NotFound
            | Self::Overflow
            | Self::InsufficientCredit
            | Self::UnknownUser
            | Self::OutOfStock
            | Self::OrderPaid
            | Self::KeyMismatch
            | Self::Internal => false,
        }
    }

    /// Whether the request may have changed something, or still will.
    pub const fn may_have_effects(self) -> bool {
        match self {
            Self::NotKnownYet => true,
            Self::Malformed
            | Self::MethodNotAllowed
            | Self::NoSuchRoute
            | Self::NotFound
            | Self::Overflow
            | Self::InsufficientCredit
            | Self::UnknownUser
            | Self::OutOfStock
            | Self::Abandoned
            | Self::OrderPaid
            | Self::OrderInFlight
            | Self::KeyInUse
            | Self::KeyMismatch
            | Self::Overloaded
            | Self::Unavailable
            | Self::Internal => false,
        }
    }

    /// The last part of the problem's type URI and its title.
    const fn name_and_title(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("malformed", "The request is malformed"),
            Self::MethodNotAllowed => ("method-not-allowed", "This path has no such method"),
            Self::NoSuchRoute => ("no-such-route", "There is nothing at this path"),
            Self::NotFound => ("not-found", "Not found"),
            Self::Overflow => ("overflow", "A sum would exceed the largest amount"),
            Self::InsufficientCredit => ("insufficient-credit", "Not enough credit"),
            Self::UnknownUser => ("unknown-user", "The user does not exist"),
            Self::OutOfStock => ("out-of-stock", "Not enough stock"),
            Self::Abandoned => ("abandoned", "The checkout took too long and was undone"),
            Self::OrderPaid => ("order-paid", "The order is paid"),
            Self::OrderInFlight => ("order-in-flight", "A checkout of the order is under way"),
            Self::KeyInUse => ("idempotency-key-in-use", "A request with this idempotency key is running"),
            Self::KeyMismatch => ("idempotency-key-mismatch", "The idempotency key belongs to another request"),
            Self::Overloaded => ("overloaded", "Too many checkouts are under way"),
            Self::NotKnownYet => ("not-known-yet", "The outcome is not known yet"),
            Self::Unavailable => ("unavailable", "The service cannot answer now; nothing was started"),
            Self::Internal => ("internal", "An error of the service; nothing was started"),
        }
    }
}

/// A problem to answer with: a code, and a detail that names the offending id or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub code: Code,
    /// With what.
    pub detail: String,
    /// Where the outcome will be found (`Location`), for what is not known yet.
    pub location: Option<String>,
    /// What exactly went wrong (`instance`), where that has a place of its own: the saga that was undone.
    pub instance: Option<String>,
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
}

impl Problem {
    /// A problem with its detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), location: None, instance: None }
    }

    /// A parameter that is not of the form it should have. The value is cut short: it comes from outside.
    pub fn malformed(name: &str, value: &str, why: impl std::fmt::Display) -> Self {
        let shown: String = value.chars().take(80).collect();
        let more = if shown.len() < value.len() { "…" } else { "" };
        Self::new(Code::Malformed, format!("{name} {shown:?}{more}: {why}"))
    }

    /// Not known yet; the outcome will be found at `location`, where there is such a place.
    pub fn not_known_yet(detail: impl Into<String>, location: Option<String>) -> Self {
        Self { location, ..Self::new(Code::NotKnownYet, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let (name, title) = self.code.name_and_title();
        let details = Details {
            r#type: format!("urn:checkout:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance: self.instance.as_deref(),
        };
        // Serializing strings and numbers to memory cannot fail.
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            headers.insert(header::LOCATION, location);
        }
        if self.code.retryable() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Code; 17] = [
        Code::Malformed,
        Code::MethodNotAllowed,
        Code::NoSuchRoute,
        Code::NotFound,
        Code::Overflow,
        Code::InsufficientCredit,
        Code::UnknownUser,
        Code::OutOfStock,
        Code::Abandoned,
        Code::OrderPaid,
        Code::OrderInFlight,
        Code::KeyInUse,
        Code::KeyMismatch,
        Code::Overloaded,
        Code::NotKnownYet,
        Code::Unavailable,
        Code::Internal,
    ];

    #[test]
    fn only_not_known_yet_leaves_the_outcome_open() {
        for code in ALL {
            let definite = code.status().is_client_error() || code.status().is_server_error();
            assert_eq!(code.may_have_effects(), !definite, "{code:?}");
        }
    }

    #[test]
    fn types_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|code| code.name_and_title().0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn a_value_from_outside_is_cut_short() {
        let problem = Problem::malformed("order_id", &"💥".repeat(10_000), "too long");
        assert!(problem.detail.len() < 500, "{}", problem.detail.len());
    }
}
