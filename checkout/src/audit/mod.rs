//! `checkout audit`: whether what the three databases and the stream hold is consistent, on a running platform, also under load.
//!
//! What is consistent is decided by the `audit` crate. This reads: [`place`] says where, [`balances`] reads the sums of one database,
//! [`sagas`] goes through all sagas and orders, [`stream`] through the events. Everything is read in pages.
//!
//! Under load nothing stands still. A sum is read again until it is proven at one instant (`common::redis::survey`). Whatever else
//! looks wrong is looked at again, saga by saga: records of ended sagas never change, so what is wrong stays, and what was only on
//! its way does not.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ::audit::Finding;
use ::audit::Rule;
use ::audit::sums::{self, at_most};
use common::redis::survey::SurveyError;
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::Folder;
use crate::say;

mod balances;
pub mod place;
mod records;
mod sagas;
mod stream;

use balances::Balances;
use place::{Looked, Place};
use sagas::Sagas;

/// Exit code where something differs.
pub const EXIT_DIFFERS: u8 = 2;

/// How often the whole is begun anew when a database changes its primary meanwhile, or does not answer.
const ATTEMPTS: u32 = 3;

/// Between two looks at what seems wrong.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// For so long something must go on looking wrong, unless told otherwise.
const SETTLE_S: u64 = 5;
/// So many events are read at most, unless told otherwise.
const EVENTS: u64 = 1_000_000;

/// Check that the three databases agree with themselves, with each other and with the stream.
///
/// Works on a running platform, also under load: what differs is read again until it agrees, or is proven to differ. Records that were
/// forgotten behind the watermark and undo entries that have expired are not missed. Where balances change all the time, all writes
/// of one database are held for a few milliseconds, at most a tenth of a second, to prove its sum; --no-hold forbids it.
///
/// Exit codes: 0 when all agrees, 2 when something differs, 1 when it could not be looked at, 64 for bad arguments.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = "\
Examples:
  checkout audit
  checkout audit --json | jq '.findings[].about'
  NATS_USER=observer NATS_PASSWORD_FILE=/run/secrets/nats REDIS_USER=admin REDIS_PASSWORD_FILE=/run/secrets/redis \\
    SENTINEL_USER=service SENTINEL_PASSWORD_FILE=/run/secrets/sentinel-service checkout audit --nats nats://nats:4222 \\
    --order redis+sentinel://s1:26379,s2:26379/redis-order --payment redis://pay:6379 --stock redis://stock:6379")]
pub struct Args {
    /// Where
    #[command(flatten)]
    place: Place,

    /// Seconds for which something must go on looking wrong before it is called so
    #[arg(long, default_value_t = SETTLE_S, value_name = "SECONDS")]
    settle: u64,

    /// Events that are read from the stream at most, newest first; 0 leaves it out
    #[arg(long, default_value_t = EVENTS, value_name = "N")]
    events: u64,

    /// Never hold writes to prove a sum
    #[arg(long)]
    no_hold: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, Serialize)]
struct Report {
    /// How many of each kind were looked at.
    looked_at: BTreeMap<&'static str, u64>,
    /// What could not be proven, and why.
    unproven: Vec<String>,
    findings: BTreeSet<Finding>,
}

/// Runs the command.
///
/// # Errors
/// When a database or NATS cannot be read, or the arguments cannot be.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let report = look(&args).await?;
    if args.json {
        say::out(&serde_json::to_string_pretty(&report).map_err(|error| Failure::failed(error.to_string()))?);
    } else {
        print(&report);
    }
    Ok(match (report.findings.is_empty(), report.unproven.is_empty()) {
        (false, _) => ExitCode::from(EXIT_DIFFERS),
        (true, false) => ExitCode::FAILURE,
        (true, true) => ExitCode::SUCCESS,
    })
}

/// Audits the platform that runs in a folder, and says what was looked at: all that differs or could not be proven, in words.
///
/// # Errors
/// When a database or NATS cannot be read.
pub async fn of_folder(folder: &Folder) -> Result<Vec<String>, Failure> {
    let place = Place::of_folder(folder.root().to_owned());
    let report = look(&Args { place, settle: SETTLE_S, events: EVENTS, no_hold: false, json: false }).await?;
    print(&report);
    let differs = report.findings.iter().map(|finding| format!("the audit says: {finding}"));
    Ok(differs.chain(report.unproven.iter().map(|what| format!("the audit cannot prove {what}"))).collect())
}

async fn look(args: &Args) -> Result<Report, Failure> {
    let looked = args.place.clone().looked()?;
    let mut attempt = 1;
    loop {
        match audit(args, &looked).await {
            Ok(report) => return Ok(report),
            Err(Trouble::Failure(failure)) => return Err(failure),
            Err(Trouble::Survey(which, error)) if attempt == ATTEMPTS => {
                return Err(Failure::failed(format!("{which}: {error}")));
            }
            Err(Trouble::Survey(which, error)) => {
                say::err(&format!("checkout: {which}: {error}; looking again"));
                attempt += 1;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

fn print(report: &Report) {
    let looked: Vec<String> = report.looked_at.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    say::out(&format!("looked at {}", looked.join(", ")));
    report.findings.iter().for_each(|finding| say::out(&format!("DIFFERS {finding}")));
    report.unproven.iter().for_each(|what| say::out(&format!("NOT PROVEN {what}")));
    match (report.findings.len(), report.unproven.is_empty()) {
        (0, true) => say::out("all agrees"),
        (0, false) => say::out("nothing differs, but not everything could be proven"),
        (count, _) => say::out(&format!("{count} things differ")),
    }
}

/// Why there is no report.
enum Trouble {
    /// It would be the same again.
    Failure(Failure),
    /// A database did not answer, or changed its primary.
    Survey(&'static str, SurveyError),
}

/// Names the database in an error.
fn of(which: &'static str) -> impl Fn(SurveyError) -> Trouble {
    move |error| Trouble::Survey(which, error)
}

async fn audit(args: &Args, looked: &Looked) -> Result<Report, Trouble> {
    let mut report = Report::default();
    // The history first: what it tells has happened before the databases are read.
    let history = if args.events == 0 { None } else { Some(stream::read(looked, args.events).await?) };
    let mut sagas = Sagas::open(looked).await?;
    let order_before = sagas.order.totals().await.map_err(of("order"))?;

    let credit = Balances::of("user:", None).prove(&looked.payment, !args.no_hold).await.map_err(of("payment"))?;
    let pieces = Balances::of("item:", Some("stock")).prove(&looked.stock, !args.no_hold).await.map_err(of("stock"))?;
    report.looked_at.insert("users", credit.count);
    report.looked_at.insert("items", pieces.count);
    let proofs = [
        ("payment", "credits", sums::credit as fn(&sums::Totals) -> i128, &credit),
        ("stock", "pieces", sums::pieces, &pieces),
    ];
    for (service, what, expected, proof) in proofs {
        report.findings.extend(proof.negative.iter().cloned());
        if proof.is_proven {
            let about = format!("{service}'s sum of {what}");
            report.findings.extend(sums::equal(Rule::Sum, &about, expected(&proof.totals), proof.sum));
        } else {
            report.unproven.push(format!("{service}'s sum of {what}: balances change all the time"));
        }
    }
    // What was completed before was debited and not refunded then; so it was when payment was read.
    let completed = sums::total(&order_before.totals, "completed_amount");
    let kept = sums::total(&credit.totals, "debited") - sums::total(&credit.totals, "refunded");
    report.findings.extend(at_most(
        Rule::Totals,
        "order's amounts of completed sagas, by what payment keeps",
        kept,
        completed,
    ));
    let order_after = sagas.order.totals().await.map_err(of("order"))?;
    if order_before == order_after && order_before.open == 0 {
        // Nothing was open and nothing began: all that payment keeps is completed.
        report.findings.extend(sums::equal(Rule::Totals, "amounts of completed sagas", kept, completed));
    }
    let counted = sums::open(&order_after.totals);
    report.findings.extend(sums::equal(Rule::OpenCount, "sagas that order has open", counted, order_after.open.into()));

    let mut suspects = sagas.go_through(&mut report).await?;
    if let Some(history) = &history {
        report.looked_at.insert("events", history.events);
        report.findings.extend(history.findings.iter().cloned());
        suspects.extend(sagas.compare(history).await?);
    }
    let until = Instant::now() + Duration::from_secs(args.settle);
    report.findings.extend(sagas.settle(suspects, history.as_ref(), until).await?);
    sagas.verify().await?;
    Ok(report)
}
