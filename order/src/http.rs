//! The order service's routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::{get, post};
use common::http::{IdempotencyTtl, Params, json, parameter, trouble, with_common_routes};
use common::id::OrderId;
use common::problem::{Code, Problem};
use common::redis::{Call, Database, Operation, Reply, run_batch};
use common::saga::SagaId;
use common::shutdown::Tasks;
use common::trace::TraceParent;
use nats::{Broker, Ready};
use serde_json::json;

use crate::checkout::Checkouts;
use crate::command::{AddItem, BatchInit, Create, no_such_order, show};
use crate::config::Settings;
use crate::effect::{self, Effects};
use crate::prices::Prices;
use crate::undo::read_entry;

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    effects: Effects,
    checkouts: Checkouts,
    prices: Prices,
    settings: Arc<Settings>,
}

impl App {
    /// Serves these parts.
    pub fn new(effects: Effects, checkouts: Checkouts, prices: Prices, settings: &Settings) -> Self {
        Self { effects, checkouts, prices, settings: Arc::new(settings.clone()) }
    }

    async fn read(&self, call: Call) -> Result<Reply, Problem> {
        let reply = self.effects.run(call, self.settings.service.deadline()).await;
        // A read has no effect, so an unanswered one was not started in any sense that matters.
        reply.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))
    }
}

impl FromRef<App> for IdempotencyTtl {
    fn from_ref(app: &App) -> Self {
        Self(app.settings.service.idempotency_ttl_s)
    }
}

/// All routes of the service.
pub fn router(app: App, database: Database, broker: Broker, consumer: Ready, tasks: Tasks) -> Router {
    let routes = Router::new()
        .route("/orders/create/{user_id}", post(create))
        .route("/orders/addItem/{order_id}/{item_id}/{quantity}", post(add_item))
        .route("/orders/find/{order_id}", get(find))
        .route("/orders/checkout/{order_id}", post(checkout))
        .route("/orders/saga/{saga_id}", get(find_saga))
        .route("/orders/batch_init/{n}/{n_items}/{n_users}/{item_price}", post(batch_init))
        .with_state(app);
    with_common_routes(routes, move || {
        vec![
            ("the database", database.is_connected()),
            ("NATS", broker.is_connected()),
            ("the consumer", consumer.is_ready()),
            ("its restart", !tasks.is_leaving()),
        ]
    })
}

async fn create(
    State(app): State<App>,
    Params(user): Params<String>,
    operation: Operation,
) -> Result<Response, Problem> {
    let create = Create::parse(&user)?;
    let reply = app.effects.run(create.call(&operation), app.settings.service.deadline()).await;
    create.answer(&operation, &reply.map_err(|error| trouble(error, create.location()))?)
}

async fn add_item(
    State(app): State<App>,
    Params(params): Params<(String, String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    let add = AddItem::parse(&params)?;
    let deadline = app.settings.service.deadline();
    let price = app.prices.of(&add.item, deadline).await?;
    let reply = app.effects.run(add.call(&operation, price)?, deadline).await;
    add.answer(&operation, &reply.map_err(|error| trouble(error, add.location()))?)
}

async fn find(State(app): State<App>, Params(order): Params<String>) -> Result<Response, Problem> {
    let id: OrderId = parameter("order_id", &order)?;
    let reply = app.read(effect::find(&id)).await?;
    let order = effect::read_order(&reply)?.ok_or_else(|| no_such_order(&id))?;
    Ok(show(&id, &order))
}

async fn checkout(
    State(app): State<App>,
    Params(order): Params<String>,
    operation: Operation,
    trace: TraceParent,
) -> Result<Response, Problem> {
    let order: OrderId = parameter("order_id", &order)?;
    app.checkouts.run(&order, operation, trace, app.settings.service.deadline()).await
}

async fn find_saga(State(app): State<App>, Params(saga): Params<String>) -> Result<Response, Problem> {
    let saga: SagaId = parameter("saga_id", &saga)?;
    let reply = app.read(effect::find_undo(&saga)).await?;
    match read_entry(&saga, &reply)? {
        Some(entry) => Ok(json(&entry.view)),
        None => {
            let detail =
                format!("there is no saga {saga}, or it was closed more than {} s ago", app.settings.undo_retention_s);
            Err(Problem::new(Code::NotFound, detail))
        }
    }
}

async fn batch_init(
    State(app): State<App>,
    Params(params): Params<(String, String, String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    let batch = BatchInit::parse(&params)?;
    let (database, patience) = (app.effects.database(), app.settings.service.request_limit);
    run_batch(database, &operation, batch.orders, patience, |chunk| batch.call(&operation, chunk)).await?;
    Ok(json(&json!({ "msg": "Batch init for orders successful" })))
}
