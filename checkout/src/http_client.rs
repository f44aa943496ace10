//! The smallest HTTP client that serves here: one request on a connection of its own, with a deadline. The load generator and the
//! gateway keep connections open and have their own.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A sender of requests on one connection.
pub type Sender = http1::SendRequest<Empty<Bytes>>;

/// Opens a connection and leaves its driver running in the background until the sender is dropped or the server closes.
///
/// # Errors
/// What the operating system or the HTTP handshake says.
pub async fn connect(address: SocketAddr) -> Result<Sender, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("{address}: {error}"))?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Sends one request without a body and reads the whole answer.
///
/// # Errors
/// One line that says what went wrong, the address included.
pub async fn call(method: Method, address: SocketAddr, path: &str, deadline: Duration) -> Result<(u16, Bytes), String> {
    let exchange = async {
        let mut sender = connect(address).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, address.to_string())
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| format!("{address}: {error}"))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| format!("{address}: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    match tokio::time::timeout(deadline, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("{address} did not answer within {deadline:?}")),
    }
}

/// The socket address in a URL like `http://127.0.0.1:8000` or `nats://127.0.0.1:4222`.
#[must_use]
pub fn address_of(url: &str) -> Option<SocketAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    let authority = authority.rsplit('@').next()?;
    let text = authority.replace("localhost", "127.0.0.1");
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_taken_out_of_a_url() {
        let expected = "127.0.0.1:8000".parse().ok();
        assert_eq!(address_of("http://127.0.0.1:8000"), expected);
        assert_eq!(address_of("http://localhost:8000/"), expected);
        assert_eq!(address_of("127.0.0.1:8000"), expected);
        assert_eq!(address_of("redis://user:pass@127.0.0.1:8000/0"), expected);
        assert_eq!(address_of("http://127.0.0.1"), None);
    }
}
