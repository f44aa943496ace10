//! The undo entry as it is read back: for the client who asks what became of a saga.

use common::event::Step;
use common::reason::FailureReason;
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
        // A closed saga whose entry is gone is known to have failed, but no longer why.
        "failed" if reason.is_empty() => Ok(State::Failed(FailureReason::Abandoned)),
        "failed" => Ok(State::Failed(reason.parse().map_err(|_| reply.unexpected())?)),
        _ => Err(reply.unexpected()),
    }
}

/// Steps as one field of the entry: `event@ms,event@ms`.
pub fn write_steps(steps: &[Step]) -> String {
    let written: Vec<String> = steps.iter().map(|step| format!("{}@{}", step.event, step.at_ms)).collect();
    written.join(",")
}

fn read_steps(text: &str) -> Vec<Value> {
    let steps = text.split(',').filter_map(|step| step.split_once('@'));
    steps.map(|(event, at_ms)| json!({ "event": event, "at_ms": at_ms.parse::<u64>().unwrap_or_default() })).collect()
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
    let started = json!({ "event": "checkout.started", "at_ms": number("started_ms") });
    let steps = field("steps").map_or_else(|| vec![started], read_steps);
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
        "replays": number("round"),
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
            "checkout.started@17,payment.declined@19",
            "reason",
            "insufficient_credit:7",
            "closed_ms",
            "21",
        ]);
        let entry = read_entry(&saga, &reply).unwrap().unwrap();
        assert_eq!(entry.state, State::Failed("insufficient_credit:7".parse().unwrap()));
        assert_eq!(entry.view["items"], json!([["b", 1], ["a", 1], ["b", 2]]));
        assert_eq!(entry.view["steps"][1], json!({ "event": "payment.declined", "at_ms": 19 }));
        assert_eq!(entry.view["closed_at_ms"], json!(21));
    }

    #[test]
    fn no_entry_is_none() {
        assert_eq!(read_entry(&"5.k3.0".parse().unwrap(), &Reply::of(&[])), Ok(None));
    }
}
