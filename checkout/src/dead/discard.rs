//! `checkout dead drop`. (The file is not called `drop`, which means something else in Rust.)

use std::process::ExitCode;

use super::select::{Which, why};
use super::text::cell;
use super::work;
use super::{Place, note};
use crate::failure::Failure;
use crate::say;

/// Give up on dead letters: move them whole into the log, with the reason.
///
/// They are never published again, but `checkout dead log SEQ` still shows them for as long as the log keeps them.
///
/// Exit codes: 0 when all were dropped, 1 when any was not, 64 for bad arguments.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Which
    #[command(flatten)]
    pub which: Which,

    /// Where
    #[command(flatten)]
    pub place: Place,

    /// Why, for the log
    #[arg(long, value_name = "TEXT", value_parser = why)]
    pub reason: String,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Drops them.
///
/// # Errors
/// When NATS cannot be reached, or the arguments cannot be.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let graveyard = args.place.open().await?;
    let selection = args.which.find(&graveyard).await?;
    selection.missing.iter().for_each(|why| say::err(why));
    let complete = selection.missing.is_empty();
    if args.dry_run {
        for letter in &selection.letters {
            let (subject, reason) = (cell(&letter.subject, 40), cell(&letter.reason, 120));
            say::out(&format!("would drop {}, {subject}: {reason}", letter.sequence));
        }
        say::out(&format!("dry run: {} looked at, nothing done", selection.letters.len()));
        return Ok(work::exit_code(complete));
    }
    let note = note(Some(args.reason));
    let sequences: Vec<_> = selection.letters.iter().map(|letter| letter.sequence).collect();
    let drop = async |sequence| graveyard.discard(sequence, &note).await;
    let tally = work::each(&sequences, |_| std::future::ready(()), drop, &mut work::tell("dropped")).await;
    Ok(work::exit_code(tally.summary("dropped", sequences.len()) && complete))
}
