//! The headers of `order.lua` say what its functions do.

use common::event::Kind;
use common::problem::Code;
use common::redis::{Call, Reply};
use common::undo::State;
use order::command::{AddItem, Create};
use order::effect::{self, LIBRARY, NewOrder};
use testing::database::{TestDatabase, operation};
use testing::lua_headers;

use crate::redo::published;
use crate::support::{Orders, TRACE, failed, settings};

fn create() -> Create {
    Create::parse("7").unwrap()
}

fn add_item() -> AddItem {
    AddItem::parse(&("5".into(), "a".into(), "2".into())).unwrap()
}

/// Whether the reader of a function knows a code; `None` for the batch, which is read in `run_batch`, and for the watermark,
/// which is read where it is asked for.
fn reads(function: &str, code: &str) -> Option<bool> {
    let key = operation("key");
    let known = |code: Code| code != Code::Internal;
    let reply = Reply::of(&[code, "5"]);
    Some(match function {
        "order_create" => create().answer(&key, &reply).map_or_else(|problem| known(problem.code), |_| true),
        "order_add_item" => add_item().answer(&key, &reply).map_or_else(|problem| known(problem.code), |_| true),
        "order_begin" => {
            let order = "5".parse().unwrap();
            let started: &[&str] = &[code, "5.k.0", "17", "7", "20", "a:1", TRACE, "0"];
            let recorded = ["completed", "failed", "no_order"].map(|end| [code, end, "5.k.0", "abandoned"]);
            let read = |parts: &[&str]| effect::read_begun(&order, &Reply::of(parts)).is_ok();
            read(started) || recorded.iter().all(|parts| read(parts))
        }
        "order_close" => {
            let parts = [["completed", ""], ["failed", "abandoned"], ["17", ""]];
            parts.iter().any(|[first, second]| effect::read_closed(&Reply::of(&[code, first, second])).is_ok())
        }
        "order_claim" => effect::read_claimed(&Reply::of(&[code, "0"])).is_ok(),
        _ => return None,
    })
}

#[tokio::test]
async fn headers_code_builders_and_readers_agree() {
    let orders = Orders::with_order().await;
    let saga = orders.started("5", "inbox", None).await;
    let db: &TestDatabase = &orders.db;
    let chunk = db.chunks(1).await.remove(0);
    let key = operation("key");
    let reconcile = settings(std::time::Duration::ZERO, std::time::Duration::ZERO);
    let (order, trace) = ("5".parse().unwrap(), TRACE.parse().unwrap());
    let new = NewOrder { user: "7".parse().unwrap(), items: "a:1,b:1".into(), incarnation: "k".into() };
    let mut calls = vec![create().call(&key), add_item().call(&key, 3.try_into().ok())];
    for count in 0..3 {
        calls.push(effect::batch_init(&key, &chunk, 6.try_into().unwrap(), &vec![new.clone(); count]));
    }
    calls.push(effect::begin(None, &order, "inbox", &trace, "request", 9));
    calls.push(effect::begin(Some(&key), &order, "inbox", &trace, "request", 9));
    for state in [State::Completed, failed("abandoned")] {
        calls.push(effect::close(&saga, &state, "", 300));
    }
    calls.push(effect::redo(&published(&saga, Kind::CheckoutStarted, None), 300).unwrap());
    calls.push(effect::claim(&reconcile));
    calls.push(effect::raise_watermark(&reconcile));
    let words: Vec<_> = calls.iter().map(Call::words).collect();
    lua_headers::check(&LIBRARY.source(), &words, reads);
}
