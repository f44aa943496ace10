//! `checkout dead advisories`.

use super::text::{cell, time};
use super::{Page, Place, failed, print_json};
use crate::failure::Failure;
use crate::say;

/// List what the server says about events that a durable gave up on.
///
/// Each dead letter has one of kind "terminated". One without a dead letter means that something else gave up: a durable with a
/// limit of deliveries, or a foreign client. The event is then still in the stream CHECKOUT, under the number shown.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Where
    #[command(flatten)]
    pub place: Place,

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
    let found = graveyard.advisories(args.page.order(), args.page.limit()).await;
    let advisories = found.map_err(|error| failed(&error))?;
    if args.page.json {
        print_json(&advisories)?;
    } else if advisories.is_empty() {
        say::out("no advisories");
    } else {
        say::out(&format!(
            "{:>8}  {:<19}  {:<14}  {:<8}  {:>10}  {:>10}  reason",
            "sequence", "time (UTC)", "kind", "consumer", "event", "deliveries"
        ));
        for advisory in &advisories {
            say::out(&format!(
                "{:>8}  {:<19}  {:<14}  {:<8}  {:>10}  {:>10}  {}",
                advisory.sequence,
                time(&advisory.time),
                cell(&advisory.kind, 14),
                cell(&advisory.consumer, 8),
                advisory.stream_sequence,
                advisory.deliveries,
                cell(advisory.reason.as_deref().unwrap_or("-"), 120)
            ));
        }
    }
    args.page.hint(advisories.len());
    Ok(())
}
