//! The stock service's REST commands: from the parts of a path to a call, and from its reply to the HTTP answer.

use axum::response::{IntoResponse, Response};
use common::amount::{Amount, MAX, Quantity};
use common::http::{json, parameter};
use common::id::ItemId;
use common::problem::{Code, Problem};
use common::redis::{Call, Operation, Reply, key_mismatch};
use serde_json::json;

use crate::effect;

/// A command about one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Create an item with a price and no pieces.
    CreateItem(ItemId, Amount),
    /// Add pieces.
    Add(ItemId, Quantity),
    /// Take pieces.
    Subtract(ItemId, Quantity),
}

impl Command {
    /// Reads `{item_id}/{amount}` for one of the two commands that have both.
    ///
    /// # Errors
    /// Either is malformed.
    pub fn with_amount(make: fn(ItemId, Quantity) -> Self, (item, amount): &(String, String)) -> Result<Self, Problem> {
        Ok(make(parameter("item_id", item)?, parameter("amount", amount)?))
    }

    /// The call that carries the command out.
    pub fn call(&self, operation: &Operation) -> Call {
        match self {
            Self::CreateItem(item, price) => effect::create_item(operation, item, *price),
            Self::Add(item, amount) => effect::add(operation, item, *amount),
            Self::Subtract(item, amount) => effect::subtract(operation, item, *amount),
        }
    }

    /// The item that the command is about.
    fn item(&self) -> &ItemId {
        match self {
            Self::CreateItem(item, _) | Self::Add(item, _) | Self::Subtract(item, _) => item,
        }
    }

    /// Where to look what became of the command, should the database not answer.
    pub fn location(&self) -> String {
        format!("/stock/find/{}", self.item())
    }

    /// The HTTP answer.
    ///
    /// # Errors
    /// The command was refused.
    pub fn answer(&self, operation: &Operation, reply: &Reply) -> Result<Response, Problem> {
        let item = self.item();
        match (self, reply.code()) {
            // A repeat of the request answers with the item that the first one created.
            (Self::CreateItem(..), "ok") => Ok(json(&json!({ "item_id": reply.text(1) }))),
            (_, "ok") => Ok(format!("Stock of item {item} is now {}", reply.text(1)).into_response()),
            (_, "no_item") => Err(no_such_item(item)),
            (_, "overflow") => {
                let detail = format!("there are {} pieces of item {item}, and the most is {MAX}", reply.text(1));
                Err(Problem::new(Code::Overflow, detail))
            }
            (_, "short") => {
                Err(Problem::new(Code::OutOfStock, format!("there are only {} pieces of item {item}", reply.text(1))))
            }
            (_, "key_mismatch") => Err(key_mismatch(operation)),
            _ => Err(reply.unexpected().into()),
        }
    }
}

/// There is no such item.
pub fn no_such_item(item: &ItemId) -> Problem {
    Problem::new(Code::NotFound, format!("there is no item {item}"))
}
