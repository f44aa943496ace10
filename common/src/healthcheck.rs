//! `order healthcheck`: asks the instance in the same container whether it is ready, for images that have no shell and no `curl`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long the instance may take. Whoever runs health checks has a limit of its own; this one only ends a process that nobody waits for.
const LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer is read: it is one line.
const ANSWER_BYTES: u64 = 4096;

/// Asks for `path` where an instance with this `LISTEN` is reached from its own host. `Ok` is the answer's text.
///
/// # Errors
/// One line that says why it is not healthy: nobody answers, or what it says.
pub fn ask(listen: SocketAddr, path: &str) -> Result<String, String> {
    let address = from_here(listen);
    let told = |error: std::io::Error| format!("{address}{path}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(told)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(told)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(told)?;
    // HTTP/1.0, so that the answer comes in one piece and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).map_err(told)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(body.trim().to_owned()),
        Some(status) => Err(format!("{address}{path}: {status} {}", body.trim())),
        None => Err(format!("{address}{path}: the answer is no HTTP")),
    }
}

/// The address at which its own host reaches who listens there.
fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What is said of an instance that listens everywhere and answers this.
    fn asked(answer: &'static str) -> Result<String, String> {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 512];
                let length = stream.read(&mut piece).unwrap();
                assert!(length > 0, "the request ends in the middle");
                request.extend_from_slice(&piece[..length]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        let told = ask(listen, "/health/ready");
        assert!(server.join().unwrap().starts_with("GET /health/ready HTTP/1.0\r\n"));
        told
    }

    #[test]
    fn only_200_is_healthy_and_the_reason_is_told() {
        assert_eq!(asked("HTTP/1.0 200 OK\r\na: b\r\n\r\nready"), Ok("ready".to_owned()));
        let waiting = asked("HTTP/1.0 503 Service Unavailable\r\n\r\nwaiting for redis").unwrap_err();
        assert!(waiting.ends_with("/health/ready: 503 waiting for redis"), "{waiting}");
        assert!(asked("HTTP/1.0 204 No Content\r\n\r\n").is_err());
        assert!(asked("200 OK").is_err(), "no HTTP");
        assert!(asked("").is_err());
    }

    #[test]
    fn who_is_not_there_is_not_healthy() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(free, "/").is_err());
    }
}
