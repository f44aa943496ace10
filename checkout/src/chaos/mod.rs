//! `checkout chaos`: load and faults at once, and then the question whether everybody was told the truth.
//!
//! The story of a run: [`load`] makes a cast and lets visits arrive ([`workload`] draws them, [`visit`] goes through one, [`shopper`] sends
//! and [`recorder`] writes down); [`faults`] hurts the platform meanwhile; [`open`] says when all is over, [`closing`] looks at everything
//! once more; [`crate::checker`] says whether it is right; [`report`] tells a person.

mod closing;
pub mod faults;
mod load;
pub mod open;
mod recorder;
mod report;
mod shopper;
mod visit;
mod workload;

use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit;
use crate::chaos::faults::field::Field;
use crate::chaos::faults::hurt::WHOLE_WITHIN;
use crate::chaos::faults::kind::{Kind, Lane};
use crate::chaos::faults::{Happened, Shared};
use crate::chaos::load::{Arrivals, Load, VISIT_ENDS_WITHIN};
use crate::chaos::recorder::Recorder;
use crate::chaos::shopper::Shopper;
use crate::chaos::workload::Visits;
use crate::checker::history::{History, Line, Meaning};
use crate::checker::{self, Verdict};
use crate::failure::Failure;
use crate::folder::Folder;
use crate::own::OwnPlatform;
use crate::procs;
use crate::say;
use crate::signals::StopSignals;
use crate::up::ShapeArgs;

/// How often a progress line is printed.
const NEWS: Duration = Duration::from_secs(10);

/// Load a platform, hurt it, and check that nothing is lost and everybody was told the truth.
///
/// Starts a platform of its own (processes on loopback, as `checkout up` does), lets clients arrive by schedule (not by reply) who buy,
/// repeat, compete, lack credit and lack stock, and meanwhile kills, stops, restarts and wipes what the platform consists of, fills
/// disks, and cuts, delays and holds what its processes say to each other. Then it lets all recover, waits until every saga is closed, audits
/// the databases, and checks the whole history of requests and replies against what is there at the end. Faults come one at a time in the first third of the run, and up to --overlap at once after that.
///
/// The same seed is the same schedule of load and, lane by lane, of faults; a fault waits until its lane is whole again, so its moment
/// depends on the machine.
///
/// Exit codes: 0 when all is clean, 2 when a promise is broken, 64 for bad arguments, 1 when something failed.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = "\
Examples:
  checkout chaos                                          two minutes, every kind of fault that one of everything can bear
  checkout chaos --ha --scale order=2,payment=2,stock=2 --minutes 60 --seed 7
  checkout chaos --faults kill:service,primary,delete     some kinds only
  checkout chaos --ha --most-open 3                       a platform that turns many away
  checkout chaos --check DIR/history.jsonl                check a history again
  checkout chaos --url http://127.0.0.1:8000 --faults none                       a platform that runs elsewhere
  checkout chaos --url http://127.0.0.1:8000 --fault-command 'docker compose kill -s KILL payment-service && docker compose up -d'")]
pub struct Args {
    /// Minutes of load and faults
    #[arg(long, default_value_t = 2.0, value_name = "MINUTES")]
    pub minutes: f64,

    /// What faults and load are drawn from [default: drawn itself, and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Kinds of faults: all, none, an act (kill), a victim (primary, service, nats) or both (kill:order)
    #[arg(long, value_delimiter = ',', default_value = "all", value_name = "LIST")]
    pub faults: Vec<String>,

    /// Visits that arrive per second; one is some five requests
    #[arg(long, default_value_t = 25.0, value_name = "PER_SECOND")]
    pub rate: f64,

    /// Visits that may be there at once; more are turned back and counted
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub most: u64,

    /// Average pause between two faults in the same lane (each database, sentinels, NATS, the gateway; of instances, divided among all), in seconds
    #[arg(long, default_value_t = 8.0, value_name = "SECONDS")]
    pub pause: f64,

    /// Faults that may last at the same time, after the first third; 1 for one at a time
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub overlap: usize,

    /// Sagas that may be open at once (MAX_SAGAS_OPEN), and checkouts that may wait in an instance (MAX_CHECKOUTS_IN_FLIGHT): so few that some are
    /// turned away with 429; a run in which none was is not clean
    #[arg(long, value_name = "N", conflicts_with_all = ["url", "check"])]
    pub most_open: Option<NonZeroU16>,

    /// Seconds after the last fault and the last reply in which every saga must be closed
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub closing_limit: u64,

    /// Folder for the platform and the history; kept [default: a temporary one, kept only if the run is not clean]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Load the gateway of a platform that runs elsewhere
    #[arg(long, value_name = "URL", conflicts_with_all = ["scale", "set", "ha"])]
    pub url: Option<String>,

    /// With --url: a shell command that hurts that platform and ends when it is whole again, with exit code 0; repeatable, one is drawn at a time
    #[arg(long, value_name = "COMMAND", requires = "url")]
    pub fault_command: Vec<String>,

    /// Only check the history in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "data", "scale", "set", "ha"])]
    pub check: Option<PathBuf>,

    /// The shape of the platform
    #[command(flatten)]
    pub shape: ShapeArgs,
}

/// Exit code for a broken promise.
const EXIT_BROKEN: u8 = 2;

/// Runs the command.
///
/// # Errors
/// When the arguments are wrong, the platform does not start, or the run is interrupted.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    if let Some(file) = &args.check {
        let history = read(file)?;
        report::replies(&history.exchanges);
        return Ok(told(&checker::check(&history)));
    }
    if !(args.minutes > 0.0 && args.rate > 0.0 && args.pause > 0.0 && args.overlap > 0) {
        return Err(Failure::usage("--minutes, --rate, --pause and --overlap must be more than 0"));
    }
    let kinds = match &args.url {
        None => Kind::chosen(&args.faults, args.shape.ha)?,
        Some(_) => Vec::new(),
    };
    procs::raise_open_files();
    let mut stop = StopSignals::new()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let root = args
        .data
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("checkout-chaos-{}", std::process::id())));
    let folder = Folder::create(Some(root))?;
    let shape = shape(&args, &kinds);
    let recorder = Arc::new(Recorder::begin(&folder.root().join("history.jsonl"))?);
    let flags = format!("{args:?}");
    recorder.write(&Line::Run { seed, flags });
    say::out(&format!("seed {seed}; history {}", say::word(recorder.path())));
    let own = match &args.url {
        Some(_) => None,
        None => {
            let said = folder.root().join("up.out");
            Some(OwnPlatform::start_in(folder.root().to_owned(), false, &shape, Some(&said)).await?)
        }
    };
    let outcome = tokio::select! {
        outcome = hurt_and_check(&args, seed, &kinds, own.as_ref(), &recorder) => outcome,
        () = stop.next() => Err(Failure::failed("interrupted; what is in the history has no end")),
    };
    let mut clean = matches!(outcome, Ok(true));
    if let Some(own) = own {
        // Whoever was interrupted may have left somebody standing still.
        faults::field::wake_all(own.folder());
        if let Err(failure) = own.stop().await {
            say::err(&format!("checkout: {failure}"));
            clean = false;
        }
    }
    if clean && args.data.is_none() {
        let _ = std::fs::remove_dir_all(folder.root());
    } else {
        say::out(&format!("kept: {}", say::word(folder.root())));
    }
    outcome.map(|_| if clean { ExitCode::SUCCESS } else { ExitCode::from(EXIT_BROKEN) })
}

/// The platform that is started: what was asked for, and what the faults and bounds of this run need.
fn shape(args: &Args, kinds: &[Kind]) -> ShapeArgs {
    let mut shape = args.shape.clone();
    shape.links |= kinds.iter().any(|kind| kind.needs_links());
    if let Some(most) = args.most_open {
        let bounds = ["MAX_SAGAS_OPEN", "MAX_CHECKOUTS_IN_FLIGHT"];
        shape.set.extend(bounds.map(|bound| format!("order.{bound}={most}")));
    }
    shape
}

fn told(verdict: &Verdict) -> ExitCode {
    report::verdict(verdict);
    if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_BROKEN) }
}

fn read(file: &Path) -> Result<History, Failure> {
    let bad = |why: String| Failure::failed(format!("{}: {why}", file.display()));
    let opened = File::open(file).map_err(|error| bad(error.to_string()))?;
    History::read(BufReader::new(opened)).map_err(bad)
}

/// Everything between the start of the platform and its stop; whether all is clean.
async fn hurt_and_check(
    args: &Args,
    seed: u64,
    kinds: &[Kind],
    own: Option<&OwnPlatform>,
    recorder: &Arc<Recorder>,
) -> Result<bool, Failure> {
    let field = match own {
        Some(own) => Some(Arc::new(Field::of(own.folder()).await?)),
        None => None,
    };
    let url = match (&args.url, &field) {
        (Some(url), _) => url.clone(),
        (None, Some(field)) => field.platform().gateway.clone(),
        (None, None) => return Err(Failure::failed("there is no platform")),
    };
    let shopper = Shopper::new(&url, recorder.clone());
    // Keys are remembered by the platform for a day, so another run with this seed needs others.
    let keys = format!("chaos-{}", Uuid::new_v4().simple());
    let cast = Arc::new(load::make_cast(&shopper, &keys).await?);
    say::out(&format!(
        "{} visits a second for {} minutes, kinds of faults: {}",
        args.rate,
        args.minutes,
        kinds.len() + args.fault_command.len()
    ));
    let happened = disturb(
        args,
        seed,
        kinds,
        field.clone(),
        &shopper,
        Load {
            visits: Visits::new(seed, args.rate),
            shopper: shopper.clone(),
            cast,
            keys,
            most: args.most,
            arrivals: Arc::new(Arrivals::default()),
        },
    )
    .await;
    close(args, field.as_deref(), &shopper, &happened).await
}

/// Load and faults, for the time that was asked for; then what is still under way, to its end.
async fn disturb(
    args: &Args,
    seed: u64,
    kinds: &[Kind],
    field: Option<Arc<Field>>,
    shopper: &Shopper,
    load: Load,
) -> (Vec<Happened>, Vec<String>) {
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let (stop_faults, stop_load) = (CancellationToken::new(), CancellationToken::new());
    let shared = Arc::new(Shared::new(load.shopper.recorder_arc(), stop_faults.clone()));
    let arrivals = load.arrivals.clone();
    let mut loading = tokio::spawn(load.run(stop_load.clone()));
    let pause = Duration::from_secs_f64(args.pause);
    let hurting = {
        let (shared, kinds, commands) = (shared.clone(), kinds.to_vec(), args.fault_command.clone());
        tokio::spawn(async move {
            match field {
                Some(field) => faults::run(field, shared, seed, &kinds, pause).await,
                None => faults::run_commands(shared, seed, &commands, pause).await,
            }
        })
    };
    let began = Instant::now();
    let mut overlaps = false;
    while began.elapsed() < time {
        tokio::time::sleep(NEWS.min(time.saturating_sub(began.elapsed()))).await;
        if !overlaps && began.elapsed() * 3 > time {
            overlaps = true;
            shared.allow_more(args.overlap - 1);
        }
        news(began, &arrivals, &shared, shopper.recorder());
    }
    stop_faults.cancel();
    let hurt = hurting.await;
    shopper.recorder().write(&Line::Healed { at_us: shopper.recorder().now_us() });
    stop_load.cancel();
    say::out("no more faults, no more arrivals; waiting for what is under way");
    let mut findings = shared.findings();
    if let Err(error) = hurt {
        findings.push(format!("the faults broke off: {error}"));
    }
    let loaded = tokio::time::timeout(VISIT_ENDS_WITHIN, &mut loading).await;
    if let Ok(Err(error)) = &loaded {
        findings.push(format!("the load broke off: {error}"));
    }
    if loaded.is_err() {
        findings.push(format!("{} visits have no end {VISIT_ENDS_WITHIN:?} after the last fault", arrivals.present()));
        loading.abort();
    }
    (shared.happened(), findings)
}

fn news(began: Instant, arrivals: &Arrivals, shared: &Shared, recorder: &Recorder) {
    say::out(&format!(
        "{:>5.0} s  visits {} (now {}, turned back {})  done {}  refused {}  not started {}  unknown {}  wrong {}  faults {}",
        began.elapsed().as_secs_f64(),
        arrivals.arrived.load(Ordering::Relaxed),
        arrivals.present(),
        arrivals.turned_back.load(Ordering::Relaxed),
        recorder.count(Meaning::Done),
        recorder.count(Meaning::Refused),
        recorder.count(Meaning::NotStarted),
        recorder.count(Meaning::Unknown),
        recorder.count(Meaning::Wrong),
        shared.count()
    ));
}

/// The end: all is whole, all is closed, all is looked at; and the verdict.
async fn close(
    args: &Args,
    field: Option<&Field>,
    shopper: &Shopper,
    (happened, findings): &(Vec<Happened>, Vec<String>),
) -> Result<bool, Failure> {
    let (recorder, mut findings) = (shopper.recorder(), findings.clone());
    if let Some(field) = field
        && let Err(why) = field.wait_until_whole(Lane::Platform, WHOLE_WITHIN).await
    {
        findings.push(format!("all is not whole again at the end: {why}"));
    }
    let limit = Duration::from_secs(args.closing_limit);
    let began = Instant::now();
    recorder.flush()?;
    let exchanges = read(recorder.path())?.exchanges;
    let open = match field {
        Some(field) => match field.open_sagas().until_none(limit).await {
            Ok(open) => Some(open.len() as u64),
            Err(error) => {
                findings.push(format!("the order database does not say which sagas are open: {error}"));
                None
            }
        },
        None => {
            // Of a platform elsewhere one knows only what its clients were told; the others have the time that sagas have.
            let open = closing::wait_at_locations(shopper, &exchanges, limit).await;
            tokio::time::sleep(limit.saturating_sub(began.elapsed()).min(Duration::from_secs(45))).await;
            Some(open)
        }
    };
    let after_s = began.elapsed().as_secs_f64();
    say::out(&match open {
        Some(0) => format!("all closed {after_s:.1} s after that; looking at everything"),
        Some(open) => format!("{open} sagas still open {after_s:.1} s after that; looking at everything"),
        None => format!("nobody says which sagas are open {after_s:.1} s after that; looking at everything"),
    });
    if let Some(field) = field {
        findings.extend(closing::dead_letters(field).await);
        match Box::pin(audit::of_folder(field.folder())).await {
            Ok(found) => findings.extend(found),
            Err(failure) => findings.push(format!("the audit cannot look: {failure}")),
        }
    }
    if args.most_open.is_some() && !exchanges.iter().any(|it| it.reply.is_turned_away()) {
        findings.push("nobody was turned away, so this run says nothing about the bounds".to_owned());
    }
    closing::look_at_all(shopper, &exchanges).await;
    let limit_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    recorder.write(&Line::Closed { at_us: recorder.now_us(), open_sagas: open, limit_us, findings });
    recorder.flush()?;
    let history = read(recorder.path())?;
    report::faults(happened, &report::Answers::of(&history.exchanges));
    report::replies(&history.exchanges);
    let verdict = checker::check(&history);
    report::verdict(&verdict);
    Ok(verdict.is_clean())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("chaos").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.args)
    }

    #[test]
    fn a_bound_on_open_sagas_is_a_setting_of_the_platform_that_is_started() {
        let shape_of = |line: &str| shape(&parse(line).unwrap(), &[]).set;
        assert_eq!(
            shape_of("--most-open 3 --set order.LOG=debug"),
            ["order.LOG=debug", "order.MAX_SAGAS_OPEN=3", "order.MAX_CHECKOUTS_IN_FLIGHT=3"]
        );
        assert_eq!(shape_of(""), [""; 0]);
        assert!(parse("--most-open 0").is_err(), "nothing could be done at all");
        assert!(parse("--most-open 3 --url http://127.0.0.1:8000").is_err(), "that platform is not ours");
    }

    #[test]
    fn what_is_between_processes_needs_links() {
        let args = parse("").unwrap();
        let kinds = |words: &str| Kind::chosen(&[words.to_owned()], true).unwrap();
        assert!(shape(&args, &kinds("cut")).links && !shape(&args, &kinds("kill")).links);
    }
}
