//! The end of a run: everything is closed, and everything is looked at once more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use http::StatusCode;
use nats::graveyard::{Filter, Graveyard, Order};

use crate::chaos::faults::field::Field;
use crate::chaos::shopper::Shopper;
use crate::checker::history::{Command, Exchange, Line, Meaning, Said, Thing};

/// How often something is looked at again.
const POLL: Duration = Duration::from_millis(500);
/// Looks at the same time.
const AT_ONCE: usize = 32;
/// How often something is looked at again that was not answered.
const TRIES: u32 = 20;
/// Dead letters that are told one by one.
const LETTERS: usize = 10;

/// Dead letters: nothing that the load does may lead to one.
pub async fn dead_letters(field: &Field) -> Vec<String> {
    let graveyard = Graveyard::new(field.broker().clone());
    let all = Filter::default();
    let asked = graveyard.letters(&all, Order::Newest, LETTERS);
    match tokio::time::timeout(Duration::from_secs(30), asked).await {
        Ok(Ok(letters)) => letters
            .iter()
            .map(|letter| format!("dead letter {}: {letter:?}", letter.sequence).chars().take(600).collect())
            .collect(),
        Ok(Err(error)) => vec![format!("the dead letters cannot be read: {error}")],
        Err(_) => vec!["the dead letters cannot be read: nobody answers".to_owned()],
    }
}

/// Every saga of which a client was told where to look, until it has ended; how many have not within the time.
pub async fn wait_at_locations(shopper: &Shopper, exchanges: &[Exchange], limit: Duration) -> u64 {
    let deadline = Instant::now() + limit;
    let is_saga = |location: &&String| location.contains("/orders/saga/");
    let places: BTreeSet<String> =
        exchanges.iter().filter_map(|it| it.reply.location.as_ref().filter(is_saga).cloned()).collect();
    let waits = places.into_iter().map(|place| async move {
        let path = place.find("/orders/").map(|at| place[at..].to_owned()).unwrap_or(place);
        loop {
            match shopper.read(&path).await {
                // One that is forgotten was closed.
                Some((StatusCode::NOT_FOUND, _)) => return 0,
                Some((StatusCode::OK, saga)) if matches!(saga["state"].as_str(), Some("completed" | "failed")) => {
                    return 0;
                }
                // It is open, or nobody can say.
                _ => {}
            }
            if Instant::now() >= deadline {
                return 1;
            }
            tokio::time::sleep(POLL).await;
        }
    });
    stream::iter(waits).buffer_unordered(AT_ONCE).fold(0, |sum, open| async move { sum + open }).await
}

/// Looks at everything that was created, once more, and writes it down.
pub async fn look_at_all(shopper: &Shopper, exchanges: &[Exchange]) {
    let mut wanted: Vec<(String, Command)> = Vec::new();
    let mut known = BTreeSet::new();
    for exchange in exchanges {
        let Some(Said::Id(id)) = &exchange.reply.said else { continue };
        let look = match &exchange.command {
            Command::CreateUser => Command::FindUser { user: id.clone() },
            Command::CreateItem { .. } => Command::FindItem { item: id.clone() },
            Command::CreateOrder { .. } => Command::FindOrder { order: id.clone() },
            _ => continue,
        };
        if known.insert(id.clone()) {
            wanted.push((id.clone(), look));
        }
    }
    let looks = wanted.into_iter().map(|(id, look)| async move {
        for _ in 0..TRIES {
            match shopper.look(&look).await {
                Some(reply) if reply.meaning() == Meaning::Done => match reply.said {
                    Some(Said::Thing(thing)) => return thing,
                    _ => break,
                },
                Some(reply) if reply.meaning() == Meaning::Refused => break,
                _ => tokio::time::sleep(POLL).await,
            }
        }
        Thing::Gone { id }
    });
    let mut things = stream::iter(looks).buffer_unordered(AT_ONCE);
    while let Some(thing) = things.next().await {
        shopper.recorder().write(&Line::Final(thing));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::extract::Path;
    use axum::routing::get;
    use serde_json::json;

    use super::*;
    use crate::chaos::recorder::Recorder;
    use crate::checker::history::Reply;

    #[tokio::test]
    async fn a_saga_of_which_nobody_can_say_that_it_has_ended_has_not() {
        let say = |Path(saga): Path<String>| async move {
            match saga.as_str() {
                "forgotten.k.0" => (StatusCode::NOT_FOUND, json!({}).to_string()),
                "closed.k.0" => (StatusCode::OK, json!({ "state": "failed" }).to_string()),
                "open.k.0" => (StatusCode::OK, json!({ "state": "started" }).to_string()),
                "strange.k.0" => (StatusCode::OK, "closed".to_owned()),
                _ => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pages = Router::new().route("/orders/saga/{saga}", get(say));
        tokio::spawn(async move { axum::serve(listener, pages).await });
        let file = std::env::temp_dir().join(format!("checkout-closing-{}.jsonl", std::process::id()));
        let shopper = Shopper::new(&url, Arc::new(Recorder::begin(&file).unwrap()));
        for (saga, open) in [("forgotten", 0), ("closed", 0), ("open", 1), ("strange", 1), ("silent", 1)] {
            let exchange = Exchange {
                client: 1,
                command: Command::Checkout { order: saga.to_owned() },
                key: None,
                start_us: 0,
                end_us: 1,
                reply: Reply { location: Some(format!("/orders/saga/{saga}.k.0")), ..Reply::default() },
            };
            assert_eq!(wait_at_locations(&shopper, &[exchange], Duration::ZERO).await, open, "{saga}");
        }
        std::fs::remove_file(file).unwrap();
    }
}
