//! Wires the command line to the commands, and their outcome to the exit code.

use std::process::ExitCode;

use checkout::failure::{EXIT_USAGE, Failure};
use checkout::{
    audit, auditor, bench, chaos, dead, down, functions, gateway, healthcheck, procs, say, status, topology, up,
};
use clap::{Parser, Subcommand};

/// The checkout platform on this machine: run it, look into it, load it.
#[derive(Parser)]
#[command(version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Gateway(gateway::Args),
    Bench(bench::Args),
    Chaos(Box<chaos::Args>),
    Dead(dead::Args),
    Audit(audit::Args),
    Auditor(auditor::Args),
    Topology(topology::Args),
    Functions(functions::Args),
    Healthcheck(healthcheck::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` arrive here too; they are no misuse.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            say::err(&format!("checkout: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    if matches!(command, Command::Up(_)) {
        // Before there are other threads, which take this over.
        procs::survive_full_disks();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Up(args) => up::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Down(args) => down::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Status(args) => status::run(args).await,
            Command::Gateway(args) => gateway::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Bench(args) => bench::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Chaos(args) => chaos::run(*args).await,
            Command::Dead(args) => dead::run(args).await,
            Command::Audit(args) => Box::pin(audit::run(args)).await,
            Command::Auditor(args) => auditor::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Topology(args) => topology::run(&args).await.map(|()| ExitCode::SUCCESS),
            Command::Functions(args) => functions::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Healthcheck(args) => healthcheck::run(&args).map(|()| ExitCode::SUCCESS),
        }
    })
}
