//! The order service's REST commands apart from the checkout: from the parts of a path to a call, and from its reply to the
//! HTTP answer.

use axum::response::{IntoResponse, Response};
use common::amount::{Amount, MAX, Quantity};
use common::http::{json, parameter};
use common::id::{ItemId, OrderId, UserId};
use common::limits::MAX_ENTRIES_PER_ORDER;
use common::problem::{Code, Problem};
use common::redis::{BatchChunk, Call, Operation, Reply, key_mismatch};
use rand::RngExt as _;
use serde_json::json;
use uuid::Uuid;

use crate::effect::{self, Cost, NewOrder, Order};

/// A random token that tells an order from any earlier or later one with the same id.
fn new_incarnation() -> String {
    let mut token = Uuid::new_v4().simple().to_string();
    token.truncate(12);
    token
}

/// An order to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    order: OrderId,
    user: UserId,
    incarnation: String,
}

impl Create {
    /// A new order of this user.
    ///
    /// # Errors
    /// The user id is malformed.
    pub fn parse(user: &str) -> Result<Self, Problem> {
        let (order, incarnation) = (OrderId::random(), new_incarnation());
        Ok(Self { order, user: parameter("user_id", user)?, incarnation })
    }

    /// The call that creates it.
    pub fn call(&self, operation: &Operation) -> Call {
        effect::create(operation, &self.order, &self.user, &self.incarnation)
    }

    /// Where to look what became of it, should the database not answer.
    pub fn location(&self) -> String {
        format!("/orders/find/{}", self.order)
    }

    /// The HTTP answer. A repeat of the request answers with the order that the first one created.
    ///
    /// # Errors
    /// It was refused.
    pub fn answer(&self, operation: &Operation, reply: &Reply) -> Result<Response, Problem> {
        match reply.code() {
            "ok" => Ok(json(&json!({ "order_id": reply.text(1) }))),
            "key_mismatch" => Err(key_mismatch(operation)),
            _ => Err(reply.unexpected().into()),
        }
    }
}

/// An entry to add to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddItem {
    order: OrderId,
    /// Which item.
    pub item: ItemId,
    quantity: Quantity,
}

impl AddItem {
    /// Reads `{order_id}/{item_id}/{quantity}`.
    ///
    /// # Errors
    /// One of them is malformed.
    pub fn parse((order, item, quantity): &(String, String, String)) -> Result<Self, Problem> {
        Ok(Self {
            order: parameter("order_id", order)?,
            item: parameter("item_id", item)?,
            quantity: parameter("quantity", quantity)?,
        })
    }

    /// The call that adds it at this price; without a price there is no such item. What is refused for the item or its cost is refused
    /// by the database too, so that the request's key is bound like that of any other.
    pub fn call(&self, operation: &Operation, price: Option<Amount>) -> Call {
        let cost = match price {
            None => Cost::NoItem,
            Some(price) => price.checked_mul(self.quantity).map_or(Cost::TooMuch, Cost::Of),
        };
        effect::add_item(operation, &self.order, &self.item, self.quantity, cost)
    }

    /// The call that only asks how an earlier request with this operation ended, for when stock does not tell the price.
    pub fn recall(&self, operation: &Operation) -> Call {
        effect::add_item(operation, &self.order, &self.item, self.quantity, Cost::NotKnown)
    }

    /// Where to look what became of it, should the database not answer.
    pub fn location(&self) -> String {
        format!("/orders/find/{}", self.order)
    }

    /// The HTTP answer.
    ///
    /// # Errors
    /// It was refused.
    pub fn answer(&self, operation: &Operation, reply: &Reply) -> Result<Response, Problem> {
        let Self { order, item, .. } = self;
        match reply.code() {
            "ok" => {
                Ok(format!("Item {item} added to order {order}; the total is now {}", reply.text(1)).into_response())
            }
            "no_order" => Err(no_such_order(order)),
            "no_item" => Err(Problem::new(Code::NotFound, format!("there is no item {item}"))),
            "no_price" => Err(Problem::new(Code::Unavailable, format!("the price of item {item} is not to be had"))),
            "paid" => Err(Problem::new(Code::OrderPaid, format!("order {order} is paid"))),
            "in_flight" => Err(Problem::new(
                Code::OrderInFlight,
                format!("order {order} is in checkout as saga {}", reply.text(1)),
            )),
            "overflow" => {
                let detail = format!("the total of order {order}, or its pieces of item {item}, would exceed {MAX}");
                Err(Problem::new(Code::Overflow, detail))
            }
            "too_many" => {
                let detail =
                    format!("order {order} has {MAX_ENTRIES_PER_ORDER} entries, the most that an order can have");
                Err(Problem::new(Code::Overflow, detail))
            }
            "key_mismatch" => Err(key_mismatch(operation)),
            _ => Err(reply.unexpected().into()),
        }
    }
}

/// Orders to create or replace, each with two random items of quantity 1 and a random user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchInit {
    /// How many.
    pub orders: u64,
    items: u64,
    users: u64,
    total: Amount,
}

impl BatchInit {
    /// Reads `{n}/{n_items}/{n_users}/{item_price}`.
    ///
    /// # Errors
    /// One of them is malformed, or there is nothing to choose from.
    pub fn parse((n, items, users, price): &(String, String, String, String)) -> Result<Self, Problem> {
        let number = |name, text: &str| parameter::<Amount>(name, text).map(Amount::get);
        let price: Amount = parameter("item_price", price)?;
        let two = Quantity::try_from(2).unwrap_or(Quantity::ZERO);
        let total = price
            .checked_mul(two)
            .ok_or_else(|| Problem::new(Code::Overflow, format!("two items at {price} cost more than {MAX}")))?;
        let batch =
            Self { orders: number("n", n)?, items: number("n_items", items)?, users: number("n_users", users)?, total };
        if batch.orders > 0 && (batch.items == 0 || batch.users == 0) {
            return Err(Problem::new(Code::Malformed, "n_items and n_users must be at least 1"));
        }
        Ok(batch)
    }

    /// The call for some of the orders.
    pub fn call(&self, operation: &Operation, chunk: &BatchChunk) -> Call {
        let mut rng = rand::rng();
        let orders: Vec<NewOrder> = (0..chunk.count)
            .map(|_| NewOrder {
                user: UserId::from_index(rng.random_range(0..self.users)),
                items: format!("{}:1,{}:1", rng.random_range(0..self.items), rng.random_range(0..self.items)),
                incarnation: new_incarnation(),
            })
            .collect();
        effect::batch_init(operation, chunk, self.total, &orders)
    }
}

/// The HTTP answer to a request for an order.
pub fn show(order_id: &OrderId, order: &Order) -> Response {
    json(&json!({
        "order_id": order_id,
        "paid": order.paid,
        "items": order.items,
        "user_id": order.user_id,
        "total_cost": order.total,
    }))
}

/// There is no such order.
pub fn no_such_order(order: &OrderId) -> Problem {
    Problem::new(Code::NotFound, format!("there is no order {order}"))
}
