//! The payment service's routes.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use common::amount::{Amount, MAX};
use common::http::{App, Params, json, parameter, with_common_routes};
use common::id::UserId;
use common::problem::{Code, Problem};
use common::redis::{Operation, run_batch};
use serde_json::json;

use crate::command::{Command, no_such_user};
use crate::effect;

/// All routes of the service.
pub fn router(app: App, needs: impl Fn() -> Vec<(&'static str, bool)> + Send + Sync + 'static) -> Router {
    let routes = Router::new()
        .route("/payment/create_user", post(create_user))
        .route("/payment/find_user/{user_id}", get(find_user))
        .route("/payment/add_funds/{user_id}/{amount}", post(add_funds))
        .route("/payment/pay/{user_id}/{amount}", post(pay))
        .route("/payment/batch_init/{n}/{starting_money}", post(batch_init))
        .with_state(app);
    with_common_routes(routes, needs)
}

/// Runs a command and answers.
async fn run(app: &App, operation: &Operation, command: Command) -> Result<Response, Problem> {
    let reply = app.run(command.call(operation), command.location()).await?;
    command.answer(operation, &reply)
}

async fn create_user(State(app): State<App>, operation: Operation) -> Result<Response, Problem> {
    run(&app, &operation, Command::CreateUser(UserId::random())).await
}

async fn add_funds(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    run(&app, &operation, Command::with_amount(Command::AddFunds, &params)?).await
}

async fn pay(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    run(&app, &operation, Command::with_amount(Command::Pay, &params)?).await
}

async fn find_user(State(app): State<App>, Params(user): Params<String>) -> Result<Response, Problem> {
    let user: UserId = parameter("user_id", &user)?;
    let reply = app.read(effect::find_user(&user)).await?;
    let credit: u64 = match reply.get(0) {
        Some(_) => reply.parse(0)?,
        None => return Err(no_such_user(&user)),
    };
    Ok(json(&json!({ "user_id": user, "credit": credit })))
}

async fn batch_init(
    State(app): State<App>,
    Params((n, credit)): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    let n: Amount = parameter("n", &n)?;
    let credit: Amount = parameter("starting_money", &credit)?;
    if n.get().checked_mul(credit.get()).is_none_or(|sum| sum > MAX) {
        return Err(Problem::new(
            Code::Overflow,
            format!("{n} users with {credit} each hold more than {MAX} together"),
        ));
    }
    let (database, patience) = (app.database.clone(), app.settings.request_limit);
    app.run_to_its_end(async move {
        let chunk = |chunk: &_| effect::batch_init(&operation, chunk, credit);
        run_batch(&database, &operation, n.get(), patience, chunk).await
    })
    .await?;
    Ok(json(&json!({ "msg": "Batch init for users successful" })))
}
