//! What is the same in the life of every service process: arguments, settings, telemetry, exit codes.

use std::error::Error;
use std::future::Future;
use std::process::ExitCode;

use crate::settings::{EXIT_USAGE, Setting, WrongSetting, handle_arguments};
use crate::telemetry;

/// How a service describes itself.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// Its name, in settings, events and consumers.
    pub name: &'static str,
    /// Where it listens by default.
    pub listen: &'static str,
    /// The first line of `--help`.
    pub about: &'static str,
    /// Settings that only this service has.
    pub own: &'static [Setting],
}

/// Reads the settings and runs a service to its end. `run` says whether everything in hand was finished.
pub fn main<S, F>(
    service: &Description,
    read: impl FnOnce() -> Result<S, WrongSetting>,
    run: impl FnOnce(S) -> F,
) -> ExitCode
where
    F: Future<Output = Result<bool, Box<dyn Error>>>,
{
    if let Some(code) = handle_arguments(service) {
        return code.into();
    }
    let settings = match telemetry::install().and_then(|()| read()) {
        Ok(settings) => settings,
        Err(wrong) => {
            eprintln!("{}: {wrong}", service.name);
            return EXIT_USAGE.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(Box::from).and_then(|runtime| runtime.block_on(run(settings)));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(%error, "the service cannot run");
            ExitCode::FAILURE
        }
    }
}
