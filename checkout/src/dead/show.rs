//! `checkout dead show`.

use nats::graveyard::Letter;
use serde_json::{Map, Value, json};

use super::text::{body, escape, pretty};
use super::{Place, failed, print_json};
use crate::failure::Failure;
use crate::say;

/// Show one dead letter: all its headers and its body, and where a redrive would publish it.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Number of the dead letter, as `checkout dead list` shows it
    #[arg(value_name = "SEQ")]
    pub sequence: u64,

    /// Where
    #[command(flatten)]
    pub place: Place,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the letter.
///
/// # Errors
/// When there is none of this number, or NATS does not answer.
pub async fn run(args: Args) -> Result<(), Failure> {
    let graveyard = args.place.open().await?;
    let letter = graveyard.letter(args.sequence).await.map_err(|error| failed(&error))?;
    if args.json {
        return print_json(&as_json(&letter));
    }
    say::out(&format!("dead letter {}", letter.sequence));
    print_whole(&letter);
    say::out(&match letter.destination() {
        Ok(subject) => format!("\na redrive publishes it at {subject} again"),
        Err(why) => format!("\na redrive refuses it: {}", escape(&why, false)),
    });
    Ok(())
}

/// Headers and body.
pub(super) fn print_whole(letter: &Letter) {
    for (name, value) in letter.headers() {
        say::out(&format!("{}: {}", escape(&name, false), escape(&value, false)));
    }
    say::out(&format!("\n{}", pretty(letter.payload())));
}

/// The same for programs.
pub(super) fn as_json(letter: &Letter) -> Value {
    let mut headers = Map::new();
    for (name, value) in letter.headers() {
        // A name can come more than once.
        if let Some(values) = headers.entry(name).or_insert_with(|| json!([])).as_array_mut() {
            values.push(value.into());
        }
    }
    json!({ "letter": letter, "headers": headers, "body": body(letter.payload()) })
}
