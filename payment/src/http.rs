//! The payment service's routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::{get, post};
use common::amount::{Amount, MAX};
use common::http::{IdempotencyTtl, Params, json, parameter, trouble, with_common_routes};
use common::id::UserId;
use common::problem::{Code, Problem};
use common::redis::{Database, Operation, run_batch};
use common::service::ServiceSettings;
use common::shutdown::Tasks;
use nats::{Broker, Ready};
use serde_json::json;

use crate::command::{Command, no_such_user};
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
        .route("/payment/create_user", post(create_user))
        .route("/payment/find_user/{user_id}", get(find_user))
        .route("/payment/add_funds/{user_id}/{amount}", post(add_funds))
        .route("/payment/pay/{user_id}/{amount}", post(pay))
        .route("/payment/batch_init/{n}/{starting_money}", post(batch_init))
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

async fn create_user(State(app): State<App>, operation: Operation) -> Result<Response, Problem> {
    app.run(&operation, Command::CreateUser(UserId::random())).await
}

async fn add_funds(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    app.run(&operation, Command::with_amount(Command::AddFunds, &params)?).await
}

async fn pay(
    State(app): State<App>,
    Params(params): Params<(String, String)>,
    operation: Operation,
) -> Result<Response, Problem> {
    app.run(&operation, Command::with_amount(Command::Pay, &params)?).await
}

async fn find_user(State(app): State<App>, Params(user): Params<String>) -> Result<Response, Problem> {
    let user: UserId = parameter("user_id", &user)?;
    let reply = app.effects.run(effect::find_user(&user), app.settings.deadline()).await;
    // A read has no effect, so an unanswered one was not started in any sense that matters.
    let reply = reply.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
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
    let database = app.effects.database();
    let chunk = |chunk: &_| effect::batch_init(&operation, chunk, credit);
    run_batch(database, &operation, n.get(), app.settings.request_limit, chunk).await?;
    Ok(json(&json!({ "msg": "Batch init for users successful" })))
}
