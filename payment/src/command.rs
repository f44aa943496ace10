//! The payment service's REST commands: from the parts of a path to a call, and from its reply to the HTTP answer.

use axum::response::{IntoResponse, Response};
use common::amount::Amount;
use common::http::{json, parameter};
use common::id::UserId;
use common::problem::{Code, Problem};
use common::redis::{Call, Operation, Reply, key_mismatch};
use serde_json::json;

use crate::effect;

/// A command about one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Create a user with no credit.
    CreateUser(UserId),
    /// Add credit.
    AddFunds(UserId, Amount),
    /// Take credit.
    Pay(UserId, Amount),
}

impl Command {
    /// Reads `{user_id}/{amount}` for one of the two commands that have both.
    ///
    /// # Errors
    /// Either is malformed.
    pub fn with_amount(make: fn(UserId, Amount) -> Self, (user, amount): &(String, String)) -> Result<Self, Problem> {
        Ok(make(parameter("user_id", user)?, parameter("amount", amount)?))
    }

    /// The call that carries the command out.
    pub fn call(&self, operation: &Operation) -> Call {
        match self {
            Self::CreateUser(user) => effect::create_user(operation, user),
            Self::AddFunds(user, amount) => effect::add_funds(operation, user, *amount),
            Self::Pay(user, amount) => effect::pay(operation, user, *amount),
        }
    }

    /// The user that the command is about.
    fn user(&self) -> &UserId {
        match self {
            Self::CreateUser(user) | Self::AddFunds(user, _) | Self::Pay(user, _) => user,
        }
    }

    /// Where to look what became of the command, should the database not answer.
    pub fn location(&self) -> String {
        format!("/payment/find_user/{}", self.user())
    }

    /// The HTTP answer.
    ///
    /// # Errors
    /// The command was refused.
    pub fn answer(&self, operation: &Operation, reply: &Reply) -> Result<Response, Problem> {
        let user = self.user();
        match (self, reply.code()) {
            // A repeat of the request answers with the user that the first one created.
            (Self::CreateUser(_), "ok") => Ok(json(&json!({ "user_id": reply.text(1) }))),
            (Self::AddFunds(..), "ok") => Ok(format!("Credit of user {user} is now {}", reply.text(1)).into_response()),
            (Self::Pay(..), "ok") => {
                Ok(format!("Paid; credit of user {user} is now {}", reply.text(1)).into_response())
            }
            (_, "no_user") => Err(no_such_user(user)),
            (_, "overflow") => {
                let detail =
                    format!("user {user} has credit {}, and the largest is {}", reply.text(1), common::amount::MAX);
                Err(Problem::new(Code::Overflow, detail))
            }
            (_, "no_credit") => {
                Err(Problem::new(Code::InsufficientCredit, format!("user {user} has only {}", reply.text(1))))
            }
            (_, "key_mismatch") => Err(key_mismatch(operation)),
            _ => Err(reply.unexpected().into()),
        }
    }
}

/// There is no such user.
pub fn no_such_user(user: &UserId) -> Problem {
    Problem::new(Code::NotFound, format!("there is no user {user}"))
}
