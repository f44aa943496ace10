//! The end of a run: everything is closed, and everything is looked at once more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use nats::graveyard::{Filter, Graveyard, Order};

use crate::chaos::faults::field::Field;
use crate::chaos::shopper::Shopper;
use crate::checker::history::{Command, Exchange, Line, Meaning, Said, Thing};
use crate::http_client;
use crate::service::Service;

/// How often open sagas are counted.
const POLL: Duration = Duration::from_millis(500);
/// So many times in a row there must be none: each instance counts twice a second, and tells what it counted last.
const STILL: u32 = 4;
/// Looks at the same time.
const AT_ONCE: usize = 32;
/// How often something is looked at again that was not answered.
const TRIES: u32 = 20;
/// Dead letters that are told one by one.
const LETTERS: usize = 10;

/// Waits until no saga is open, at most so long: how many still are, or nothing where nobody can be asked.
pub async fn open_sagas(field: Option<&Field>, limit: Duration) -> Option<u64> {
    let field = field?;
    let deadline = Instant::now() + limit;
    let (mut still, mut last) = (0, None);
    while still < STILL {
        last = count_open(field).await.or(last);
        still = if last == Some(0) { still + 1 } else { 0 };
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    // Where nobody has ever answered, it is not known that nothing is open.
    Some(last.unwrap_or(u64::MAX))
}

/// The most that any instance of the order service counts; nothing while one of them does not answer.
async fn count_open(field: &Field) -> Option<u64> {
    let urls = field.platform().services.get(&Service::Order)?;
    let mut most = 0;
    for url in urls {
        let address = http_client::address_of(url)?;
        let asked = http_client::call(http::Method::GET, address, "/metrics", Duration::from_secs(5)).await;
        let (status, body) = asked.ok()?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let line = text.lines().find(|line| line.starts_with("sagas_open ")).filter(|_| status == 200)?;
        most = most.max(line.rsplit(' ').next()?.parse::<f64>().ok()? as u64);
    }
    Some(most)
}

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
            // One that is forgotten was closed.
            let state = shopper.json(&path).await.and_then(|it| it.get("state")?.as_str().map(str::to_owned));
            if state.as_deref() != Some("started") {
                return 0;
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
