//! The undo entry as it is read back: for the client who asks what became of a saga.

use common::event::{Kind, Step};
use common::redis::{Reply, UnexpectedReply};
use common::saga::{SagaId, parse_entries};
use common::undo::State;
use serde_json::{Value, json};

/// An undo entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoEntry {
    /// Where the saga stands.
    pub state: State,
    /// The whole entry, for the client.
    pub view: Value,
}

/// Reads the state from its name and reason.
///
/// # Errors
/// Neither is one that this build writes.
pub fn read_state(name: &str, reason: &str, reply: &Reply) -> Result<State, UnexpectedReply> {
    match name {
        "started" => Ok(State::Started),
        "completed" => Ok(State::Completed),
        "failed" => Ok(State::Failed(reason.parse().map_err(|_| reply.unexpected())?)),
        _ => Err(reply.unexpected()),
    }
}

/// Steps as one field of the entry: `event@ms,event@ms`, in milliseconds since the saga's start, which is left out itself. So short because
/// Redis keeps a hash in compact form only while each of its values has at most 64 bytes (`hash-max-listpack-value`); to take it out of
/// that form costs more than all else that closes an entry.
pub fn write_steps(steps: &[Step], started_at_ms: u64) -> String {
    let after = steps.iter().filter(|step| (step.event, step.at_ms) != (Kind::CheckoutStarted, started_at_ms));
    // Each service tells the time by its own clock, so a step can seem to come before the start.
    let offset = |step: &Step| step.at_ms.cast_signed().wrapping_sub(started_at_ms.cast_signed());
    let written: Vec<String> = after.map(|step| format!("{}@{}", step.event, offset(step))).collect();
    written.join(",")
}

/// The steps of an entry. A way that began with a replay has that as its start.
fn read_steps(text: &str, started_at_ms: u64) -> Vec<Value> {
    let step =
        |event: &str, offset: i64| json!({ "event": event, "at_ms": started_at_ms.saturating_add_signed(offset) });
    let started = Kind::CheckoutStarted.subject();
    let first = (!text.starts_with(started)).then(|| step(started, 0));
    let after = text.split(',').filter_map(|step| step.split_once('@'));
    first.into_iter().chain(after.map(|(event, offset)| step(event, offset.parse().unwrap_or_default()))).collect()
}

/// Reads what `HGETALL` found at an undo entry; `None` where there is none.
///
/// # Errors
/// The fields are not those that this build writes.
pub fn read_entry(saga: &SagaId, reply: &Reply) -> Result<Option<UndoEntry>, UnexpectedReply> {
    let fields: Vec<&str> = reply.texts_from(0).collect();
    let field = |name: &str| fields.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1)).copied();
    let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
    let Some(name) = field("state") else { return Ok(None) };
    let state = read_state(name, field("reason").unwrap_or_default(), reply)?;
    let items = parse_entries(field("items").unwrap_or_default()).map_err(|_| reply.unexpected())?;
    let steps = read_steps(field("steps").unwrap_or_default(), number("started_ms").unwrap_or_default());
    let view = json!({
        "saga_id": saga,
        "order_id": field("order"),
        "state": name,
        "reason": field("reason").filter(|reason| !reason.is_empty()),
        "user_id": field("user"),
        "amount": number("amount"),
        "items": items,
        "started_at_ms": number("started_ms"),
        "closed_at_ms": number("closed_ms"),
        "replays": number("round").unwrap_or_default(),
        "steps": steps,
        "traceparent": field("traceparent"),
    });
    Ok(Some(UndoEntry { state, view }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_shows_state_steps_and_reason() {
        let saga: SagaId = "5.k3.0".parse().unwrap();
        let reply = Reply::of(&[
            "state",
            "failed",
            "order",
            "5",
            "user",
            "7",
            "amount",
            "20",
            "items",
            "b:1,a:1,b:2",
            "started_ms",
            "17",
            "round",
            "1",
            "steps",
            "payment.declined@2",
            "reason",
            "insufficient_credit:7",
            "closed_ms",
            "21",
        ]);
        let entry = read_entry(&saga, &reply).unwrap().unwrap();
        assert_eq!(entry.state, State::Failed("insufficient_credit:7".parse().unwrap()));
        assert_eq!(entry.view["items"], json!([["b", 1], ["a", 1], ["b", 2]]));
        let steps = json!([{ "event": "checkout.started", "at_ms": 17 }, { "event": "payment.declined", "at_ms": 19 }]);
        assert_eq!(entry.view["steps"], steps);
        assert_eq!(entry.view["closed_at_ms"], json!(21));
    }

    #[test]
    fn steps_are_read_back_as_they_were_and_fit_into_a_compact_hash() {
        let started_at_ms: u64 = 1_790_000_000_000;
        let step = |event, offset: i64| Step { event, at_ms: started_at_ms.saturating_add_signed(offset) };
        let way = [
            step(Kind::CheckoutStarted, 0),
            step(Kind::PaymentDebited, -4),
            step(Kind::StockFailed, 1_250),
            step(Kind::PaymentRefunded, 1_257),
        ];
        let written = write_steps(&way, started_at_ms);
        assert_eq!(written, "payment.debited@-4,stock.failed@1250,payment.refunded@1257");
        assert!(written.len() <= 64, "{}", written.len());
        let steps_of = |written: &str| -> Vec<Step> {
            read_steps(written, started_at_ms).into_iter().map(|step| serde_json::from_value(step).unwrap()).collect()
        };
        assert_eq!(steps_of(&written), way);
        let replayed = [step(Kind::CheckoutStarted, 5_000), step(Kind::PaymentDeclined, 5_003)];
        let written = write_steps(&replayed, started_at_ms);
        assert_eq!(written, "checkout.started@5000,payment.declined@5003");
        assert_eq!(steps_of(&written), replayed);
        assert_eq!(read_steps("", 17), [json!({ "event": "checkout.started", "at_ms": 17 })]);
    }

    #[test]
    fn no_entry_is_none() {
        assert_eq!(read_entry(&"5.k3.0".parse().unwrap(), &Reply::of(&[])), Ok(None));
    }
}
