//! The headers of `payment.lua` say what its functions do.

use common::event::{Kind, Watermark};
use common::problem::Code;
use common::redis::{Call, Reply};
use payment::command::Command;
use payment::decision::Effect;
use payment::effect::{LIBRARY, apply, batch_init, read_outcome, redo, trim};
use testing::database::{TestDatabase, operation};
use testing::lua_headers;

use crate::redo::published;
use crate::support::saga;

fn commands() -> [(&'static str, Command); 3] {
    let (user, amount) = (|| "7".parse().unwrap(), 5.try_into().unwrap());
    [
        ("payment_create_user", Command::CreateUser(user())),
        ("payment_add_funds", Command::AddFunds(user(), amount)),
        ("payment_pay", Command::Pay(user(), amount)),
    ]
}

/// Whether the reader of a function knows a code; `None` for those that are read in `run_batch` and in the consumer.
fn reads(function: &str, code: &str) -> Option<bool> {
    if let Some((_, command)) = commands().iter().find(|(name, _)| *name == function) {
        let answer = command.answer(&operation("key"), &Reply::of(&[code, "5"]));
        return Some(answer.map_or_else(|problem| problem.code != Code::Internal, |_| true));
    }
    let parts = ["abandoned", "17"];
    let saga = ["payment_debit", "payment_refund"].contains(&function);
    saga.then(|| parts.iter().any(|part| read_outcome(&Reply::of(&[code, part])).is_ok()))
}

#[tokio::test]
async fn headers_code_builders_and_readers_agree() {
    let db = TestDatabase::start(LIBRARY).await;
    let chunk = db.chunks(1).await.remove(0);
    let key = operation("key");
    let saga = saga("5.k.0", "7", 5);
    let mut calls: Vec<Call> = commands().iter().map(|(_, command)| command.call(&key)).collect();
    calls.push(batch_init(&key, &chunk, 5.try_into().unwrap()));
    calls.push(apply(&saga, &Effect::Debit));
    calls.push(apply(&saga, &Effect::Refund("abandoned".parse().unwrap())));
    calls.push(redo(&published(saga, Kind::PaymentDebited, None)).unwrap());
    calls.push(trim(Watermark { closed_before_ms: 1 }));
    let words: Vec<_> = calls.iter().map(Call::words).collect();
    lua_headers::check(&LIBRARY.source(), &words, reads);
}
