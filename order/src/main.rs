//! Wires the order service together.

use std::process::ExitCode;
use std::sync::Arc;

use common::redis::Database;
use common::shutdown::{Signals, Stage, Tasks, run_until_signal};
use common::{process, service};
use nats::Broker;
use nats::topology::{Durable, Limits};
use order::{checkout, config, consumer, effect, http, prices, reconcile, waiting};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    process::main(&config::SERVICE, config::read_all, run)
}

/// Runs until a signal and says whether everything in hand was finished.
async fn run(all: config::Settings) -> Result<bool, Box<dyn std::error::Error>> {
    let settings = &all.service;
    let listener = common::http::bind(settings.listen)?;
    let tasks = Tasks::new();
    let broker =
        Broker::connect(&settings.nats_url, config::SERVICE.name, &settings.instance, service::START_PATIENCE).await?;
    let limits = Limits::from(settings);
    broker.ensure_topology(&limits).await?;
    let redo = consumer::OrderRedo { undo_retention_s: all.undo_retention_s };
    let redo = Arc::new(nats::Redoer::new(broker.clone(), redo));
    let database = Database::open_recovered(&settings.redis_url, effect::LIBRARY, settings.into(), &tasks, redo)?;
    if !database.wait_until_connected(service::START_PATIENCE).await {
        return Err(database.describe_outage().into());
    }
    // Until here nothing was taken in, so a signal simply ends the process.
    let signals = Signals::listen()?;

    let waiting = waiting::Waiting::default();
    let inbox = broker.inbox().await?;
    let subject = inbox.subject().to_owned();
    tasks.spawn(Stage::Support, consumer::listen(inbox, waiting.clone(), tasks.stop(Stage::Support)));

    let ready = nats::Ready::default();
    let retention_s = all.undo_retention_s;
    let reactor = consumer::Reactor::new(database.clone(), broker.clone(), waiting.clone(), &subject, retention_s);
    let reactor = Arc::new(reactor);
    tasks.spawn(
        Stage::Work,
        nats::consume(broker.clone(), Durable::Order, limits, reactor, ready.clone(), tasks.stop(Stage::Work)),
    );
    let reconciler = reconcile::Reconciler::new(database.clone(), broker.clone(), all.reconcile.clone());
    tasks.spawn(Stage::Work, reconciler.run(tasks.stop(Stage::Work)));

    let checkouts = checkout::Checkouts::new(database.clone(), broker.clone(), waiting, &subject, &all);
    let prices = prices::Prices::new(broker.clone(), all.price_cache_entries);
    let base = common::http::App::new(database.clone(), settings);
    let needs = nats::needs(database, broker.clone(), ready, tasks.clone());
    let app = http::router(http::App::new(base, checkouts, prices, all.undo_retention_s), needs);
    tracing::info!(listen = %settings.listen, instance = settings.instance, "serving");
    tasks.spawn(Stage::Intake, common::http::serve(listener, app, settings.head_limit, tasks.stop(Stage::Intake)));

    let clean = run_until_signal(signals, &tasks, settings.farewell, settings.drain_limit).await;
    broker.close(settings.drain_limit).await;
    Ok(clean)
}
