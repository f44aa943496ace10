//! Wires the payment service together.

use std::process::ExitCode;
use std::sync::Arc;

use common::redis::Database;
use common::settings::{EXIT_USAGE, handle_arguments};
use common::shutdown::{Signals, Stage, Tasks, run_until_signal};
use common::{service, telemetry};
use nats::Broker;
use nats::topology::{Durable, Limits};
use payment::{config, consumer, effect, http};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(code) = handle_arguments(config::SERVICE, config::LISTEN, config::ABOUT, config::OWN) {
        return code.into();
    }
    let settings = match telemetry::install().and_then(|()| config::read()) {
        Ok(settings) => settings,
        Err(wrong) => {
            eprintln!("{}: {wrong}", config::SERVICE);
            return EXIT_USAGE.into();
        }
    };
    match run(settings).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(%error, "the service cannot run");
            ExitCode::FAILURE
        }
    }
}

/// Runs until a signal and says whether everything in hand was finished.
async fn run(settings: service::ServiceSettings) -> Result<bool, Box<dyn std::error::Error>> {
    let signals = Signals::listen()?;
    let listener = common::http::bind(settings.listen)?;
    let tasks = Tasks::new();
    let database = Database::open(&settings.redis_url, effect::LIBRARY, settings.redis_lanes, &tasks)?;
    if !database.wait_until_connected(service::START_PATIENCE).await {
        return Err(format!("no database at {}", settings.redis_url).into());
    }
    let broker = Broker::connect(&settings.nats_url, &settings.instance, service::START_PATIENCE).await?;
    let limits = Limits::from(&settings);
    broker.ensure_topology(&limits).await?;

    let effects = effect::Effects::new(database.clone());
    let ready = nats::Ready::default();
    let reactor = Arc::new(consumer::Reactor::new(effects.clone()));
    tasks.spawn(
        Stage::Work,
        nats::consume(broker.clone(), Durable::Payment, limits, reactor, ready.clone(), tasks.stop(Stage::Work)),
    );

    let app = http::router(http::App::new(effects, &settings), database, broker.clone(), ready, tasks.clone());
    tracing::info!(listen = %settings.listen, instance = settings.instance, "serving");
    tasks.spawn(Stage::Intake, common::http::serve(listener, app, tasks.stop(Stage::Intake)));

    let clean = run_until_signal(signals, &tasks, settings.farewell, settings.drain_limit).await;
    broker.close(settings.drain_limit).await;
    Ok(clean)
}
