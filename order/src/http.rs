//! The order service's routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::{get, post};
use common::http::{IdempotencyTtl, Params, json, parameter, with_common_routes};
use common::id::OrderId;
use common::problem::{Code, Problem};
use common::redis::{Operation, run_batch};
use common::saga::SagaId;
use common::trace::TraceParent;
use serde_json::json;

use crate::checkout::Checkouts;
use crate::command::{AddItem, BatchInit, Create, no_such_order, show};
use crate::effect;
use crate::prices::Prices;
use crate::undo::read_entry;

/// What the handlers share. It is cloned with each request, so it is one pointer.
#[derive(Clone)]
pub struct App(Arc<Parts>);

struct Parts {
    base: common::http::App,
    checkouts: Checkouts,
    prices: Prices,
    undo_retention_s: u64,
}

impl App {
    /// Serves these parts.
    pub fn new(base: common::http::App, checkouts: Checkouts, prices: Prices, undo_retention_s: u64) -> Self {
        Self(Arc::new(Parts { base, checkouts, prices, undo_retention_s }))
    }
}

impl FromRef<App> for IdempotencyTtl {
    fn from_ref(app: &App) -> Self {
        Self::from_ref(&app.0.base)
    }
}

/// All routes of the service.
pub fn router(app: App, needs: impl Fn() -> Vec<(&'static str, bool)> + Send + Sync + 'static) -> Router {
    let routes = Router::new()
        .route("/orders/create/{user_id}", post(create))
        .route("/orders/addItem/{order_id}/{item_id}/{quantity}", post(add_item))
        .route("/orders/find/{order_id}", get(find))
        .route("/orders/checkout/{order_id}", post(checkout))
        .route("/orders/saga/{saga_id}", get(find_saga))
        .route("/orders/batch_init/{n}/{n_items}/{n_users}/{item_price}", post(batch_init))
        .with_state(app);
    with_common_routes(routes, needs)
}

async fn create(
    State(app): State<App>,
    Params(user): Params<String>,
    operation: Operation,
) -> Result<Response, Problem> {
    let create = Create::parse(&user)?;
    let reply = app.0.base.run(create.call(&operation), create.location()).await?;
    create.answer(&operation, &reply)
}

async fn add_item(
    State(app): State<App>,
    Params(params): Params<(String, String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    let add = AddItem::parse(&params)?;
    let price = app.0.prices.of(&add.item, app.0.base.settings.deadline()).await;
    let call = price.as_ref().map_or_else(|_| add.recall(&operation), |price| add.call(&operation, *price));
    let reply = app.0.base.run(call, add.location()).await?;
    match price {
        Err(not_to_be_had) if reply.code() == "no_price" => Err(not_to_be_had),
        _ => add.answer(&operation, &reply),
    }
}

async fn find(State(app): State<App>, Params(order): Params<String>) -> Result<Response, Problem> {
    let id: OrderId = parameter("order_id", &order)?;
    let reply = app.0.base.read(effect::find(&id)).await?;
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
    app.0.checkouts.run(&order, operation, trace, app.0.base.settings.deadline()).await
}

async fn find_saga(State(app): State<App>, Params(saga): Params<String>) -> Result<Response, Problem> {
    let saga: SagaId = parameter("saga_id", &saga)?;
    let reply = app.0.base.read(effect::find_undo(&saga)).await?;
    match read_entry(&saga, &reply)? {
        Some(entry) => Ok(json(&entry.view)),
        None => {
            let detail =
                format!("there is no saga {saga}, or it was closed more than {} s ago", app.0.undo_retention_s);
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
    let (database, patience) = (app.0.base.database.clone(), app.0.base.settings.request_limit);
    let work = async move {
        run_batch(&database, &operation, batch.orders, patience, |chunk| batch.call(&operation, chunk)).await
    };
    app.0.base.run_to_its_end(work).await?;
    Ok(json(&json!({ "msg": "Batch init for orders successful" })))
}
