//! Wires the stock service together.

use std::process::ExitCode;
use std::sync::Arc;

use common::http::App;
use common::redis::Database;
use common::shutdown::{Signals, Stage, Tasks, run_until_signal};
use common::{process, service};
use nats::Broker;
use nats::topology::{Durable, Limits};
use stock::{config, consumer, effect, http, prices};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    process::main(&config::SERVICE, config::read, run)
}

/// Runs until a signal and says whether everything in hand was finished.
async fn run(settings: service::ServiceSettings) -> Result<bool, Box<dyn std::error::Error>> {
    let listener = common::http::bind(settings.listen)?;
    let tasks = Tasks::new();
    let broker =
        Broker::connect(&settings.nats_url, config::SERVICE.name, &settings.instance, service::START_PATIENCE).await?;
    let limits = Limits::from(&settings);
    broker.ensure_topology(&limits).await?;
    let redo = Arc::new(nats::Redoer::new(broker.clone(), consumer::Stock));
    let (url, options) = (&settings.redis_url, (&settings).into());
    let database = Database::open_recovered(url, effect::LIBRARY, options, &tasks, redo)?;
    if !database.wait_until_connected(service::START_PATIENCE).await {
        return Err(database.describe_outage().into());
    }
    // Until here nothing was taken in, so a signal simply ends the process.
    let signals = Signals::listen()?;

    let ready = nats::Ready::default();
    let reactor = Arc::new(nats::Reactor::<consumer::Stock>::new(database.clone()));
    tasks.spawn(
        Stage::Work,
        nats::consume(broker.clone(), Durable::Stock, limits, reactor, ready.clone(), tasks.stop(Stage::Work)),
    );

    tasks.spawn(
        Stage::Work,
        prices::serve(broker.clone(), database.clone(), settings.request_limit, tasks.stop(Stage::Work)),
    );
    let app = http::router(
        App::new(database.clone(), &settings),
        nats::needs(database, broker.clone(), ready, tasks.clone()),
    );
    tracing::info!(listen = %settings.listen, instance = settings.instance, "serving");
    tasks.spawn(Stage::Intake, common::http::serve(listener, app, settings.head_limit, tasks.stop(Stage::Intake)));

    let clean = run_until_signal(signals, &tasks, settings.farewell, settings.drain_limit).await;
    broker.close(settings.drain_limit).await;
    Ok(clean)
}
