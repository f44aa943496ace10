//! The shop that a seed opens: users, items and orders; and what happens to them outside of any checkout.

use common::amount::{Amount, Quantity};
use common::id::{ItemId, OrderId, UserId};
use nats::topology::Durable;

use super::World;
use super::dice::Dice;
use crate::database::{AddItem, Changed, OrderRecord};
use crate::ledger::Violation;

/// Who and what there is. The last user and the last item of the lists exist nowhere.
#[derive(Debug)]
pub struct Shop {
    users: Vec<UserId>,
    items: Vec<ItemId>,
    orders: Vec<OrderId>,
    /// Orders that were created under an id that was there before.
    incarnations: u64,
}

impl Shop {
    /// Draws how many of each there are.
    pub fn draw(dice: &mut Dice) -> Self {
        Self {
            users: (0..=dice.between(1, 3)).map(UserId::from_index).collect(),
            items: (0..=dice.between(1, 3)).map(ItemId::from_index).collect(),
            orders: (0..dice.between(1, 4)).map(OrderId::from_index).collect(),
            incarnations: 0,
        }
    }

    /// One of the orders.
    pub fn order(&self, dice: &mut Dice) -> OrderId {
        self.orders[dice.index(self.orders.len())].clone()
    }

    fn user(&self, dice: &mut Dice) -> UserId {
        // Now and then one who does not exist.
        let known = self.users.len() - usize::from(!dice.chance(50));
        self.users[dice.index(known)].clone()
    }

    fn item(&self, dice: &mut Dice) -> ItemId {
        let known = self.items.len() - usize::from(!dice.chance(50));
        // The first is the hot one.
        let index = if dice.chance(400) { 0 } else { dice.index(known) };
        self.items[index].clone()
    }
}

impl World {
    /// Fills the databases.
    pub fn open_shop(&mut self) {
        for user in &self.shop.users[..self.shop.users.len() - 1] {
            let credit = self.dice.one_of(&[0, 3, 10, 30]);
            self.databases.payment.put_user(user.clone(), credit);
            self.ledger.money += credit.cast_signed();
        }
        for item in &self.shop.items[..self.shop.items.len() - 1] {
            let pieces = self.dice.between(0, 4);
            self.databases.stock.put_item(item.clone(), pieces);
            self.ledger.pieces += pieces.cast_signed();
        }
        for order in self.shop.orders.clone() {
            self.create_order(order);
        }
    }

    /// Creates an order, or another in its place.
    fn create_order(&mut self, order: OrderId) {
        let (mut entries, mut total) = (Vec::new(), 0);
        for _ in 0..self.dice.one_of(&[0, 1, 1, 1, 2, 2, 2, 3]) {
            let (quantity, price) = (self.dice.one_of(&[0, 1, 1, 1, 1, 2, 2, 3]), self.dice.between(0, 4));
            entries.push((self.shop.item(&mut self.dice), Quantity::try_from(quantity).unwrap_or(Quantity::ZERO)));
            total += quantity * price;
        }
        self.shop.incarnations += 1;
        let user = self.shop.user(&mut self.dice);
        let total = Amount::try_from(total).unwrap_or(Amount::ZERO);
        let record = OrderRecord::new(user, entries, total, &format!("k{}", self.shop.incarnations));
        self.say(|_| format!("order {order} is created: {record:?}"));
        let now_ms = self.order_clock_ms();
        self.databases.order.put_order(now_ms, order, record);
    }

    /// Something happens outside of any checkout.
    pub fn trade(&mut self) -> Result<(), Violation> {
        let user = self.shop.user(&mut self.dice);
        let item = self.shop.item(&mut self.dice);
        let number = self.dice.below(6);
        let (payment, stock) = (&mut self.databases.payment, &mut self.databases.stock);
        let (money, pieces) = match self.dice.below(8) {
            0 | 1 => (signed(payment.add_funds(&user, number), number), 0),
            2 => (-signed(payment.pay(&user, number), number), 0),
            3 | 4 => (0, signed(stock.add(&item, number), number)),
            5 => (0, -signed(stock.subtract(&item, number), number)),
            6 => {
                self.add_item(item, number);
                (0, 0)
            }
            _ => {
                if self.scenario.replaces_orders && !self.is_database_away(Durable::Order) {
                    let order = self.shop.order(&mut self.dice);
                    self.create_order(order);
                    self.count("orders replaced");
                }
                (0, 0)
            }
        };
        self.ledger.money += money;
        self.ledger.pieces += pieces;
        Durable::ALL.iter().for_each(|durable| self.wait_for_replica(*durable));
        self.check_books()
    }

    fn add_item(&mut self, item: ItemId, cost: u64) {
        let (order, one) = (self.shop.order(&mut self.dice), Quantity::try_from(1).unwrap_or(Quantity::ZERO));
        let cost = Amount::try_from(cost).unwrap_or(Amount::ZERO);
        if let AddItem::Ok(total) = self.databases.order.add_item(&order, item, one, cost) {
            self.say(|_| format!("order {order} is changed, and costs {total}"));
            self.count("orders changed");
        }
    }
}

/// What a command moved.
fn signed(changed: Changed, by: u64) -> i64 {
    if matches!(changed, Changed::Ok(_)) { by.cast_signed() } else { 0 }
}
