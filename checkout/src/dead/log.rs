//! `checkout dead log`.

use serde_json::json;

use super::show::{as_json, print_whole};
use super::text::{cell, escape, time};
use super::{Page, Place, failed, print_json};
use crate::failure::Failure;
use crate::say;

/// Show what was done with dead letters: when, by whom, why.
///
/// With a number, show that entry; of a letter that was dropped, the whole letter.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Number of one entry
    #[arg(value_name = "SEQ")]
    pub sequence: Option<u64>,

    /// Where
    #[command(flatten)]
    pub place: Place,

    /// How much
    #[command(flatten)]
    pub page: Page,
}

/// Prints the log, or one entry.
///
/// # Errors
/// When there is no such entry, or NATS does not answer.
pub async fn run(args: Args) -> Result<(), Failure> {
    let graveyard = args.place.open().await?;
    if let Some(sequence) = args.sequence {
        let entry = graveyard.log_entry(sequence).await.map_err(|error| failed(&error))?;
        let entry = entry.ok_or_else(|| Failure::failed(format!("the log has no entry {sequence}")))?;
        if args.page.json {
            return print_json(&json!({ "entry": &entry, "whole": as_json(&entry.letter) }));
        }
        let why = if entry.why.is_empty() { String::new() } else { format!(": {}", escape(&entry.why, false)) };
        let (who, action) = (escape(&entry.who, false), escape(&entry.action, false));
        say::out(&format!("dead letter {} {action} by {who}{why}", entry.letter.sequence));
        print_whole(&entry.letter);
        return Ok(());
    }
    let entries = graveyard.log(args.page.order(), args.page.limit()).await.map_err(|error| failed(&error))?;
    if args.page.json {
        print_json(&entries)?;
    } else if entries.is_empty() {
        say::out("nothing was ever done with a dead letter, or it is forgotten");
    } else {
        let head = ("entry", "time (UTC)", "action", "letter", "subject", "who");
        say::out(&format!(
            "{:>6}  {:<19}  {:<8}  {:>8}  {:<20}  {:<24}  why | reason of death",
            head.0, head.1, head.2, head.3, head.4, head.5
        ));
        for entry in &entries {
            say::out(&format!(
                "{:>6}  {:<19}  {:<8}  {:>8}  {:<20}  {:<24}  {} | {}",
                entry.sequence,
                time(&entry.time),
                cell(&entry.action, 8),
                entry.letter.sequence,
                cell(&entry.letter.subject, 20),
                cell(&entry.who, 24),
                cell(if entry.why.is_empty() { "-" } else { &entry.why }, 60),
                cell(&entry.letter.reason, 60)
            ));
        }
    }
    args.page.hint(entries.len());
    Ok(())
}
