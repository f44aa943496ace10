//! `checkout bench`: closed-loop checkouts, and what each cost.
//!
//! Every measured request is a checkout of a *fresh* order, that is, a real saga with its three events and four atomic functions: a
//! checkout of an order that is paid already answers at once and would measure nothing. So orders are taken one after the other from a
//! range that was just made ([`seed`]), each once; when the range runs out, the step ends early and says so.

mod burst;
mod load;
mod report;
mod seed;
mod stats;
mod target;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::bench::load::Load;
use crate::bench::report::{Report, Step};
use crate::bench::seed::{Fresh, Seeder};
use crate::bench::target::Target;
use crate::bench::usage::Usage;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::own::OwnPlatform;
use crate::procs;
use crate::signals::StopSignals;
use crate::up::ShapeArgs;

pub use crate::bench::target::Via;

/// Put closed-loop checkout load on a platform, and measure what each checkout costs.
///
/// Seeds users, items and orders through batch_init, then lets N clients check out fresh orders (each order once, so that every
/// measured request is a real saga), each client on one connection, sending its next request when the last is answered. Prints
/// checkouts/s, latencies, answers other than 200, and the CPU time and memory of each group of processes.
///
/// The seeding REPLACES users, items and orders of the same ids: do not point it at data you need.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Folder of the running platform [default: checkout in the user's data folder]
    #[arg(long, value_name = "DIR", env = "CHECKOUT_DATA")]
    pub data: Option<PathBuf>,

    /// Load this gateway instead of a platform in a folder; then nothing is known of the processes behind it
    #[arg(long, value_name = "URL", conflicts_with_all = ["data", "own_platform", "via"])]
    pub url: Option<String>,

    /// Start a platform for this alone (in --data DIR, else in a temporary folder), and stop it at the end
    #[arg(long)]
    pub own_platform: bool,

    /// The shape of the own platform
    #[command(flatten)]
    pub shape: ShapeArgs,

    /// Send to the service instances in turn, or through the gateway
    #[arg(long, value_enum, default_value_t = Via::Services)]
    pub via: Via,

    /// Numbers of clients, one step each
    #[arg(long, value_delimiter = ',', default_value = "1,32,256,1024", value_name = "N,…")]
    pub clients: Vec<usize>,

    /// Seconds measured in each step
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub seconds: u64,

    /// Seconds of the same load before each measurement
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    pub warmup_seconds: u64,

    /// Users to seed
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub users: u64,

    /// Items to seed
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub items: u64,

    /// Orders to seed at least; more when a step will need more
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub orders: u64,

    /// Also let N clients connect at the same moment and check out one order each
    #[arg(long, value_name = "N")]
    pub connect_burst: Option<usize>,

    /// Leave the steps out (with --connect-burst)
    #[arg(long, requires = "connect_burst")]
    pub burst_only: bool,

    /// Write all figures to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs the benchmark.
///
/// # Errors
/// When there is no platform, it cannot be seeded, or the run is interrupted.
pub async fn run(args: Args) -> Result<(), Failure> {
    if args.users == 0 || args.items == 0 || args.seconds == 0 || args.clients.contains(&0) {
        return Err(Failure::usage("users, items, seconds and clients must be at least 1"));
    }
    procs::raise_open_files();
    let mut stop = StopSignals::new()?;
    let own = if args.own_platform { Some(OwnPlatform::start(args.data.clone(), &args.shape).await?) } else { None };
    let outcome = tokio::select! {
        outcome = measure(&args, own.as_ref().map(OwnPlatform::folder)) => outcome,
        () = stop.next() => Err(Failure::failed("interrupted")),
    };
    if let Some(own) = own {
        own.stop().await?;
    }
    outcome
}

async fn measure(args: &Args, own: Option<&Folder>) -> Result<(), Failure> {
    let target = match (&args.url, own) {
        (Some(url), _) => Target::url(url)?,
        (None, Some(folder)) => Target::folder(folder.clone(), args.via)?,
        (None, None) => Target::folder(Folder::at(args.data.clone())?, args.via)?,
    };
    let mut report = Report::new(&target, args);
    report.print_head();
    let mut seeder = Seeder::new(&target, args);
    seeder.world().await?;
    report.note(seeder.told());
    if !args.burst_only {
        report.print_columns();
        for clients in &args.clients {
            let fresh = seeder.orders_for_step(*clients).await?;
            // Said before the step, so that who watches knows that the load begins now.
            report.note(seeder.told());
            let (step, per_second) = one_step(args, &target, &fresh, *clients).await?;
            seeder.learn(*clients, per_second);
            report.add(step);
        }
    }
    if let Some(count) = args.connect_burst {
        let fresh = seeder.orders_for(u64::try_from(count).unwrap_or(u64::MAX)).await?;
        report.note(seeder.told());
        report.add_burst(burst::run(&target, count, &fresh).await);
    }
    match &args.json {
        Some(file) => report.write(file),
        None => Ok(()),
    }
}

async fn one_step(args: &Args, target: &Target, fresh: &Arc<Fresh>, clients: usize) -> Result<(Step, f64), Failure> {
    let load = Load::connect(target, clients).await?;
    let warm = Duration::from_secs(args.warmup_seconds);
    let load = if warm.is_zero() { load } else { load.run(fresh, warm).await.1 };
    let before = Usage::now(target);
    let (measured, _) = load.run(fresh, Duration::from_secs(args.seconds)).await;
    let after = Usage::now(target);
    Ok((Step::new(clients, &measured, &before, &after), measured.per_second()))
}
