//! `checkout healthcheck`: asks the auditor or the gateway in the same container whether it is ready, for images without a shell.

use std::net::SocketAddr;

use crate::failure::Failure;
use crate::say;

/// Ask who listens here whether it is ready: exit code 0 if it answers 200, else 1.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Where `checkout auditor` or `checkout gateway` listens
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:9100", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// What to ask for
    #[arg(default_value = "/health/ready", value_name = "PATH")]
    path: String,
}

/// Asks once.
///
/// # Errors
/// Nobody answers, or not with 200.
pub fn run(args: &Args) -> Result<(), Failure> {
    common::healthcheck::ask(args.listen, &args.path).map(|answer| say::out(&answer)).map_err(Failure::failed)
}
