//! The stock service's routes.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use common::amount::{Amount, MAX, Quantity};
use common::http::{App, Params, json, parameter, with_common_routes};
use common::id::ItemId;
use common::problem::{Code, Problem};
use common::redis::{Operation, run_batch};
use serde_json::json;

use crate::command::{Command, no_such_item};
use crate::effect;

/// All routes of the service.
pub fn router(app: App, needs: impl Fn() -> Vec<(&'static str, bool)> + Send + Sync + 'static) -> Router {
    let routes = Router::new()
        .route("/stock/item/create/{price}", post(create_item))
        .route("/stock/find/{item_id}", get(find_item))
        .route("/stock/add/{item_id}/{amount}", post(add))
        .route("/stock/subtract/{item_id}/{amount}", post(subtract))
        .route("/stock/batch_init/{n}/{starting_stock}/{item_price}", post(batch_init))
        .with_state(app);
    with_common_routes(routes, needs)
}

/// Runs a command and answers.
async fn run(app: &App, operation: &Operation, command: Command) -> Result<Response, Problem> {
    let reply = app.run(command.call(operation), command.location()).await?;
    command.answer(operation, &reply)
}

async fn create_item(
    State(app): State<App>,
    Params(price): Params<String>,
    operation: Operation,
) -> Result<Response, Problem> {
    run(&app, &operation, Command::CreateItem(ItemId::random(), parameter("price", &price)?)).await
}

async fn add(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    run(&app, &operation, Command::with_amount(Command::Add, &params)?).await
}

async fn subtract(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    run(&app, &operation, Command::with_amount(Command::Subtract, &params)?).await
}

async fn find_item(State(app): State<App>, Params(item): Params<String>) -> Result<Response, Problem> {
    let id: ItemId = parameter("item_id", &item)?;
    let reply = app.read(effect::find_item(&id)).await?;
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
    let (database, patience) = (app.database.clone(), app.settings.request_limit);
    app.run_to_its_end(async move {
        let chunk = |chunk: &_| effect::batch_init(&operation, chunk, stock, price);
        run_batch(&database, &operation, n.get(), patience, chunk).await
    })
    .await?;
    Ok(json(&json!({ "msg": "Batch init for stock successful" })))
}
