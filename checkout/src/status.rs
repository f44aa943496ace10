//! `checkout status`: what runs in a folder, and whether it is ready.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::join_all;
use nats::Broker;
use nats::graveyard::Graveyard;
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::{Address, Folder, Platform};
use crate::http_client;
use crate::say;
use crate::secrets::Secrets;
use crate::service::Service;
use crate::up::plan::{Group, Probe};
use crate::up::ready;

/// How long NATS may take to be reached, and to say how full the dead letters are.
const NATS_PATIENCE: Duration = Duration::from_secs(2);

/// Show every process of the platform in a folder: pid, alive, address, ready.
///
/// Exit code 0 when all are ready and their `checkout up` watches over them, 1 otherwise.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Folder of the platform [default: checkout in the user's data folder]
    #[arg(long, value_name = "DIR", env = "CHECKOUT_DATA")]
    pub data: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One process, as it is now.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    pid: Option<u32>,
    alive: bool,
    /// Whether it would be started again: its `checkout up` lives.
    supervised: bool,
    address: String,
    ready: bool,
    /// Of a node of a database: whether it is the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<ready::Role>,
    /// What it says when it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Prints the table.
///
/// # Errors
/// When no platform is ready in the folder.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let folder = Folder::at(args.data)?;
    let platform = folder.platform()?;
    let rows = join_all(platform.processes.iter().map(|address| look(&folder, &platform, address))).await;
    if args.json {
        let text = serde_json::to_string_pretty(&rows).map_err(|error| Failure::failed(error.to_string()))?;
        say::out(&text);
    } else {
        print(&rows);
    }
    if !folder.is_running() {
        say::err(&format!(
            "checkout: nobody watches over these processes: their `checkout up` was killed. \
             `checkout up --data {0}` starts anew, `checkout down --data {0}` stops them",
            say::word(folder.root())
        ));
    }
    if let Some(warning) = full_graveyard(&platform).await {
        say::err(&format!("checkout: {warning} (`checkout dead`)"));
    }
    let ready = rows.iter().all(|row| row.ready && row.supervised);
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether dead letters are, or soon will be, refused; nothing where NATS cannot be asked, which the table says.
async fn full_graveyard(platform: &Platform) -> Option<String> {
    let broker = Broker::connect(&platform.nats, "status", "checkout-status", NATS_PATIENCE).await.ok()?;
    let room = tokio::time::timeout(NATS_PATIENCE, Graveyard::new(broker).room()).await.ok()?.ok()?;
    room.warning()
}

async fn look(folder: &Folder, platform: &Platform, process: &Address) -> Row {
    let birth = folder.birth(&process.name);
    let alive = birth.as_ref().is_some_and(|birth| birth.is_alive());
    let role = match (platform.ha, Group::of_process(&process.name), http_client::address_of(&process.url)) {
        (true, Some(Group::Redis), Some(address)) => match Secrets::of(folder).redis_admin() {
            Ok(login) => ready::role(address, &login).await.ok(),
            Err(_) => None,
        },
        _ => None,
    };
    let asked = match probe(folder, platform, process) {
        Some(probe) => ready::ask(&probe).await,
        None => Err("has no address to ask".to_owned()),
    };
    Row {
        name: process.name.clone(),
        pid: birth.map(|birth| birth.pid),
        alive,
        supervised: folder.is_running(),
        address: process.url.clone(),
        ready: alive && asked.is_ok(),
        role,
        why: asked.err(),
    }
}

/// How one sees that a process of a running platform does its work.
pub(crate) fn probe(folder: &Folder, platform: &Platform, process: &Address) -> Option<Probe> {
    let address = http_client::address_of(&process.url)?;
    match Group::of_process(&process.name)? {
        Group::Redis => {
            let login = Secrets::of(folder).redis_admin().ok()?;
            Some(if platform.ha { Probe::Node(address, login) } else { Probe::Redis(address, login) })
        }
        Group::Nats => {
            let pages = process.monitor.as_deref().unwrap_or(&platform.nats_monitor);
            http_client::address_of(pages).map(|pages| Probe::Http(pages, "/healthz"))
        }
        Group::Sentinel => Some(Probe::Sentinel(
            address,
            Secrets::of(folder).sentinel().ok()?,
            Service::ALL.map(|it| format!("redis-{it}")).to_vec(),
        )),
        Group::Gateway | Group::Service(_) | Group::Auditor => Some(Probe::Http(address, "/health/ready")),
    }
}

fn print(rows: &[Row]) {
    let yes_no = |it: bool| if it { "yes" } else { "no" };
    say::out(&format!("{:<16}{:>9}  {:<7}{:<28}ready", "name", "pid", "alive", "address"));
    for row in rows {
        let pid = row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let role = row.role.map(|role| format!(" ({role})")).unwrap_or_default();
        let why = row.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        say::out(&format!(
            "{:<16}{pid:>9}  {:<7}{:<28}{}{role}{why}",
            row.name,
            yes_no(row.alive),
            row.address,
            yes_no(row.ready)
        ));
    }
}
