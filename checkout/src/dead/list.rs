//! `checkout dead list`.

use super::select::FilterArgs;
use super::text::{cell, time};
use super::{Page, Place, failed, print_json};
use crate::failure::Failure;
use crate::say;

/// List dead letters: number, time, who gave up on it, subject, saga, reason.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Where
    #[command(flatten)]
    pub place: Place,

    /// Filters
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Only those whose reason contains this text, in whatever case
    #[arg(long, value_name = "TEXT", visible_alias = "dead-reason")]
    pub reason: Option<String>,

    /// How much
    #[command(flatten)]
    pub page: Page,
}

/// Prints the table.
///
/// # Errors
/// When NATS does not answer.
pub async fn run(args: Args) -> Result<(), Failure> {
    let graveyard = args.place.open().await?;
    let filter = args.filter.filter(args.reason);
    let found = graveyard.letters(&filter, args.page.order(), args.page.limit()).await;
    let letters = found.map_err(|error| failed(&error))?;
    if args.page.json {
        print_json(&letters)?;
    } else if letters.is_empty() {
        say::out("no dead letters");
    } else {
        say::out(&format!(
            "{:>8}  {:<19}  {:<8}  {:<20}  {:<32}  reason",
            "sequence", "time (UTC)", "consumer", "subject", "saga"
        ));
        for letter in &letters {
            say::out(&format!(
                "{:>8}  {:<19}  {:<8}  {:<20}  {:<32}  {}",
                letter.sequence,
                time(&letter.time),
                cell(&letter.consumer, 8),
                cell(&letter.subject, 20),
                cell(letter.saga.as_deref().unwrap_or("-"), 32),
                cell(&letter.reason, 120)
            ));
        }
    }
    args.page.hint(letters.len());
    if let Some(warning) = graveyard.room().await.map_err(|error| failed(&error))?.warning() {
        say::err(&format!("checkout: {warning}"));
    }
    Ok(())
}
