//! The headers of `stock.lua` say what its functions do.

use common::event::{Kind, Watermark};
use common::problem::Code;
use common::redis::{Call, Reply};
use stock::command::Command;
use stock::decision::Effect;
use stock::effect::{LIBRARY, apply, batch_init, read_outcome, redo, trim};
use testing::database::{TestDatabase, operation};
use testing::lua_headers;

use crate::redo::published;
use crate::support::saga;

fn commands() -> [(&'static str, Command); 3] {
    let item = || "7".parse().unwrap();
    [
        ("stock_create_item", Command::CreateItem(item(), 5.try_into().unwrap())),
        ("stock_add", Command::Add(item(), 5.try_into().unwrap())),
        ("stock_subtract", Command::Subtract(item(), 5.try_into().unwrap())),
    ]
}

/// Whether the reader of a function knows a code; `None` for those that are read in `run_batch` and in the consumer.
fn reads(function: &str, code: &str) -> Option<bool> {
    if let Some((_, command)) = commands().iter().find(|(name, _)| *name == function) {
        let answer = command.answer(&operation("key"), &Reply::of(&[code, "5"]));
        return Some(answer.map_or_else(|problem| problem.code != Code::Internal, |_| true));
    }
    let parts = ["abandoned", "17"];
    let saga = ["stock_reserve", "stock_abandon"].contains(&function);
    saga.then(|| parts.iter().any(|part| read_outcome(&Reply::of(&[code, part])).is_ok()))
}

#[tokio::test]
async fn headers_code_builders_and_readers_agree() {
    let db = TestDatabase::start(LIBRARY).await;
    let chunk = db.chunks(1).await.remove(0);
    let key = operation("key");
    let mut calls: Vec<Call> = commands().iter().map(|(_, command)| command.call(&key)).collect();
    calls.push(batch_init(&key, &chunk, 5.try_into().unwrap(), 5.try_into().unwrap()));
    for items in ["", "a:1", "a:1,b:2"] {
        calls.push(apply(&saga("5.k.0", items), &Effect::Reserve));
        calls.push(apply(&saga("5.k.0", items), &Effect::Abandon));
    }
    calls.push(redo(&published(saga("5.k.0", "a:1,b:2"), Kind::StockReserved, None)).unwrap());
    calls.push(trim(Watermark { closed_before_ms: 1 }));
    let words: Vec<_> = calls.iter().map(Call::words).collect();
    lua_headers::check(&LIBRARY.source(), &words, reads);
}
