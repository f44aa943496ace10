//! `protocol`: runs the simulator and the exploration from the command line.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use protocol::explore::{CONFIGURATIONS, explore};
use protocol::planted::{Bug, Planted};
use protocol::print_line;
use protocol::simulator::{Counts, Extensions, Failure, Options, simulate, simulate_all};

/// Proves the checkout protocol without a network, a clock or a database.
///
/// Runs the services' own decisions and undo-log transition over pure models of their databases and of the stream. Ends with
/// 0 where no invariant is violated, with 1 where one is.
#[derive(Debug, Parser)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Runs the simulator: faults, times and orders of steps are drawn from seeds.
    Simulate(Simulate),
    /// Explores every order of steps of small shops, within bounds.
    Explore(Explore),
    /// Lists the bugs that can be planted.
    Bugs,
}

#[derive(Debug, Args)]
struct Simulate {
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "S", default_value_t = 0)]
    from: u64,
    /// Only this seed.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Prints each step, with its time in milliseconds.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// With this bug planted (see `protocol bugs`).
    #[arg(long, value_name = "BUG")]
    plant: Option<Bug>,
    /// The order database may forget that a saga was opened, within the ten seconds in which a repeat is recognised.
    #[arg(long)]
    undo_loss: bool,
    /// As --undo-loss, and at any time: the start is redone from the stream before anything new is done.
    #[arg(long)]
    late_undo_loss: bool,
}

#[derive(Debug, Args)]
struct Explore {
    /// The longest way, in steps.
    #[arg(long, value_name = "D", default_value_t = 100)]
    depth: usize,
    /// Stops after about so many situations of one configuration.
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    states: usize,
    /// Only this configuration.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How often clients ask, instead of what the configuration says.
    #[arg(long, value_name = "N")]
    asks: Option<u8>,
    /// How often reconcilers claim, instead of what the configuration says.
    #[arg(long, value_name = "N")]
    claims: Option<u8>,
    /// How often the stream loses something, instead of what the configuration says.
    #[arg(long, value_name = "N")]
    losses: Option<u8>,
    /// With this bug planted (see `protocol bugs`).
    #[arg(long, value_name = "BUG")]
    plant: Option<Bug>,
}

fn main() -> ExitCode {
    let holds = match Command::parse().action {
        Action::Simulate(args) => run_simulator(&args),
        Action::Explore(args) => run_exploration(&args),
        Action::Bugs => {
            Bug::ALL.iter().for_each(|bug| print_line(format_args!("{bug}")));
            true
        }
    };
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Simulate {
    fn options(&self) -> Options {
        let &Self { undo_loss, late_undo_loss, .. } = self;
        let extensions = Extensions { undo_loss, late_undo_loss };
        Options { planted: Planted(self.plant), extensions, trace: self.trace }
    }
}

fn run_simulator(args: &Simulate) -> bool {
    let begun = Instant::now();
    let (result, seeds) = match args.seed {
        Some(seed) => (
            simulate(seed, args.options()).map_err(|violation| Failure { seed, violation, options: args.options() }),
            1,
        ),
        None => (simulate_all(args.from..args.from.saturating_add(args.seeds), args.options()), args.seeds),
    };
    match result {
        Ok(counts) => {
            print_counts(&counts);
            let seconds = begun.elapsed().as_secs_f64();
            print_line(format_args!(
                "{seeds} seeds in {seconds:.1} s ({:.0}/s): no invariant is violated",
                seeds as f64 / seconds
            ));
            true
        }
        Err(failure) => {
            print_line(format_args!("{failure}"));
            false
        }
    }
}

fn print_counts(counts: &Counts) {
    for (what, count) in counts {
        print_line(format_args!("{what:>28} {count:>12}"));
    }
}

fn run_exploration(args: &Explore) -> bool {
    let mut holds = true;
    for configuration in CONFIGURATIONS {
        if args.only.as_ref().is_some_and(|only| only != configuration.name) {
            continue;
        }
        let mut configuration = *configuration;
        configuration.asks = args.asks.unwrap_or(configuration.asks);
        configuration.claims = args.claims.unwrap_or(configuration.claims);
        configuration.losses = args.losses.unwrap_or(configuration.losses);
        let begun = Instant::now();
        let report = explore(configuration, args.plant, args.depth, args.states);
        let end = if report.is_complete { "all there are" } else { "not all there are" };
        print_line(format_args!("{}: {}", configuration.name, configuration.about));
        print_line(format_args!(
            "  {} different situations ({end}), reached {} times, up to {} steps, in {:.1} s",
            report.states,
            report.reached,
            report.depth,
            begun.elapsed().as_secs_f64()
        ));
        if let Some(broken) = report.broken {
            print_line(format_args!("{broken}"));
            holds = false;
        }
    }
    holds
}
