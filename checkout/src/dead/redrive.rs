//! `checkout dead redrive`.

use std::num::NonZeroU32;
use std::process::ExitCode;

use nats::graveyard::Letter;

use super::select::{Which, why};
use super::text::escape;
use super::work::{self, Pace};
use super::{Place, note};
use crate::failure::Failure;
use crate::say;

/// Publish dead letters again as they were, then delete them.
///
/// The original payload and headers go to the original subject, and only if that is one which the durable that gave up on the letter
/// reacts to; anything else is refused and stays. A letter is deleted when its event is stored and the redrive is recorded. A letter
/// that dies again becomes a new one, which this run does not touch.
///
/// Exit codes: 0 when all were redriven, 1 when any was not, 64 for bad arguments.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Which
    #[command(flatten)]
    pub which: Which,

    /// Where
    #[command(flatten)]
    pub place: Place,

    /// At most so many per second, so that checkouts go on beside it
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,

    /// Why, for the log
    #[arg(long, value_name = "TEXT", value_parser = why)]
    pub reason: Option<String>,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Redrives them.
///
/// # Errors
/// When NATS cannot be reached, or the arguments cannot be.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let graveyard = args.place.open().await?;
    let selection = args.which.find(&graveyard).await?;
    selection.missing.iter().for_each(|why| say::err(why));
    let complete = selection.missing.is_empty();
    if args.dry_run {
        return Ok(work::exit_code(tell(&selection.letters) && complete));
    }
    let note = note(args.reason);
    let sequences: Vec<_> = selection.letters.iter().map(|letter| letter.sequence).collect();
    let mut pace = Pace::new(NonZeroU32::new(args.rate).unwrap_or(NonZeroU32::MIN));
    let turn = |_| tokio::time::sleep_until(pace.next(tokio::time::Instant::now()));
    let redrive = async |sequence| graveyard.redrive(sequence, &note).await.map(drop);
    let tally = work::each(&sequences, turn, redrive, &mut work::tell("redriven")).await;
    Ok(work::exit_code(tally.summary("redriven", sequences.len()) && complete))
}

/// Whether all of them would be redriven.
fn tell(letters: &[Letter]) -> bool {
    let mut all = true;
    for letter in letters {
        let saga = letter.saga.as_deref().unwrap_or("-");
        match letter.destination() {
            Ok(subject) => {
                say::out(&format!("would redrive {} to {subject}, saga {}", letter.sequence, escape(saga, false)))
            }
            Err(why) => {
                all = false;
                say::err(&format!("would refuse {}: {}", letter.sequence, escape(&why, false)));
            }
        }
    }
    say::out(&format!("dry run: {} looked at, nothing done", letters.len()));
    all
}
