//! Sending a group so that its replies are safe to tell: replicas have what was written, and what was read.

use redis::{RedisError, RedisResult, Value};

use super::connection::{Connector, Open, trouble};

/// What every group writes last where replicas are required. `WAIT` asks whether the replicas have what *this connection* has written;
/// on a new connection a read, or a repeat that is answered from its record, would be told yes although nothing was replicated since
/// (so it is in Redis from 7.2 on, and in Valkey). The mark is later in the log than everything that the group has done or seen, so its
/// being replicated says it of all.
const MARK: &str = "replication:mark";

/// How long the server waits for its replicas at first, in milliseconds: far longer than healthy ones take, and short for those whose
/// group was refused, because the server waits then too.
const FIRST_WAIT_MS: u64 = 20;
/// How long it waits from then on before it says how many it has reached, in milliseconds. It is asked again each time, because how many
/// are needed may have changed: one of them is held to be dead now.
const NEXT_WAIT_MS: u64 = 200;

/// Sends `count` commands and returns their replies when replicas have everything that they have done or seen: `at_least` so many, and
/// all that could be made the primary. How long that may take is the caller's to say: what is given up half-way may have been
/// carried out. Where the server refuses the mark, its error comes last and is one more reply.
pub(super) async fn exchange(
    connector: &Connector,
    open: &mut Open,
    mut pipeline: redis::Pipeline,
    count: usize,
    at_least: usize,
) -> RedisResult<Vec<Value>> {
    if at_least == 0 {
        return open.connection.send_packed_commands(&pipeline, 0, count).await;
    }
    let wait = |open: &Open, patience_ms: u64| {
        let mut wait = redis::cmd("WAIT");
        wait.arg(connector.replicas_to_wait_for(open, at_least)).arg(patience_ms);
        wait
    };
    pipeline.cmd("SET").arg(MARK).arg(1);
    pipeline.add_command(wait(open, FIRST_WAIT_MS));
    let mut values = open.connection.send_packed_commands(&pipeline, 0, count + 2).await?;
    let mut reached = values.pop();
    if !matches!(values.last(), Some(Value::Okay)) {
        return Ok(values);
    }
    loop {
        match reached {
            Some(Value::Int(replicas)) => {
                let needed = connector.replicas_to_wait_for(open, at_least);
                if usize::try_from(replicas).is_ok_and(|replicas| replicas >= needed) {
                    values.pop();
                    return Ok(values);
                }
            }
            Some(Value::ServerError(error)) => return Err(RedisError::from(error)),
            _ => return Err(trouble(std::io::ErrorKind::InvalidData, "WAIT was not answered with a number")),
        }
        let again = wait(open, NEXT_WAIT_MS);
        reached = Some(open.connection.send_packed_command(&again).await?);
    }
}
