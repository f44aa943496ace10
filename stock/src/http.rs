//! The stock service's routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::{get, post};
use common::amount::{Amount, MAX, Quantity};
use common::http::{IdempotencyTtl, Params, json, parameter, trouble, with_common_routes};
use common::id::ItemId;
use common::problem::{Code, Problem};
use common::redis::{Database, Operation, run_batch};
use common::service::ServiceSettings;
use common::shutdown::Tasks;
use nats::{Broker, Ready};
use serde_json::json;

use crate::command::{Command, no_such_item};
use crate::effect::{self, Effects};

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    effects: Effects,
    settings: Arc<ServiceSettings>,
}

impl App {
    /// Serves these effects.
    pub fn new(effects: Effects, settings: &ServiceSettings) -> Self {
        Self { effects, settings: Arc::new(settings.clone()) }
    }

    async fn run(&self, operation: &Operation, command: Command) -> Result<Response, Problem> {
        let reply = self.effects.run(command.call(operation), self.settings.deadline()).await;
        command.answer(operation, &reply.map_err(|error| trouble(error, command.location()))?)
    }
}

impl FromRef<App> for IdempotencyTtl {
    fn from_ref(app: &App) -> Self {
        Self(app.settings.idempotency_ttl_s)
    }
}

/// All routes of the service.
pub fn router(app: App, database: Database, broker: Broker, consumer: Ready, tasks: Tasks) -> Router {
    let routes = Router::new()
        .route("/stock/item/create/{price}", post(create_item))
        .route("/stock/find/{item_id}", get(find_item))
        .route("/stock/add/{item_id}/{amount}", post(add))
        .route("/stock/subtract/{item_id}/{amount}", post(subtract))
        .route("/stock/batch_init/{n}/{starting_stock}/{item_price}", post(batch_init))
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

async fn create_item(
    State(app): State<App>,
    Params(price): Params<String>,
    operation: Operation,
) -> Result<Response, Problem> {
    app.run(&operation, Command::CreateItem(ItemId::random(), parameter("price", &price)?)).await
}

async fn add(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    app.run(&operation, Command::with_amount(Command::Add, &params)?).await
}

async fn subtract(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    app.run(&operation, Command::with_amount(Command::Subtract, &params)?).await
}

async fn find_item(State(app): State<App>, Params(item): Params<String>) -> Result<Response, Problem> {
    let id: ItemId = parameter("item_id", &item)?;
    let reply = app.effects.run(effect::find_item(&id), app.settings.deadline()).await;
    // A read has no effect, so an unanswered one was not started in any sense that matters.
    let reply = reply.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
    let item = effect::read_item(&reply)?.ok_or_else(|| no_such_item(&id))?;
    Ok(json(&json!({ "stock": item.stock, "price": item.price })))
}

async fn batch_init(
    State(app): State<App>,
    Params((n, stock, price)): Params<(String, String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    let n: Amount = parameter("n", &n)?;
    let stock: Quantity = parameter("starting_stock", &stock)?;
    let price: Amount = parameter("item_price", &price)?;
    if n.get().checked_mul(stock.get()).is_none_or(|sum| sum > MAX) {
        return Err(Problem::new(Code::Overflow, format!("{n} items of {stock} pieces have more than {MAX} together")));
    }
    let database = app.effects.database();
    let chunk = |chunk: &_| effect::batch_init(&operation, chunk, stock, price);
    run_batch(database, &operation, n.get(), app.settings.request_limit, chunk).await?;
    Ok(json(&json!({ "msg": "Batch init for stock successful" })))
}
