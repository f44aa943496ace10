//! What is printed, and written as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::Serialize;

use crate::bench::Args;
use crate::bench::burst::Burst;
use crate::bench::load::Measured;
use crate::bench::stats::NO_ANSWER;
use crate::bench::target::Target;
use crate::bench::usage::{GROUPS, LOAD, Usage};
use crate::failure::Failure;
use crate::say;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What ran, in words.
    setup: Vec<String>,
    /// What else is worth knowing.
    notes: Vec<String>,
    steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_burst: Option<Burst>,
}

/// One number of clients.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    clients: usize,
    seconds: f64,
    checkouts: u64,
    checkouts_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    not_ok: BTreeMap<String, u64>,
    cpu_us_per_checkout: BTreeMap<String, f64>,
    rss_mb: BTreeMap<String, f64>,
    restarted: Vec<String>,
    ran_out_of_orders: bool,
}

/// A status as a person reads it.
#[must_use]
pub fn status_name(status: u16) -> String {
    if status == NO_ANSWER { "no answer".to_owned() } else { status.to_string() }
}

impl Step {
    /// The figures of one measurement.
    #[must_use]
    pub fn new(clients: usize, measured: &Measured, before: &Usage, after: &Usage) -> Self {
        let observed = &measured.observed;
        let [p50_ms, p99_ms, p999_ms, max_ms] = observed.percentiles_ms([0.5, 0.99, 0.999, 1.0]);
        let count = observed.count().max(1) as f64;
        let owned = |(group, value): (&str, f64)| (group.to_owned(), value);
        Self {
            clients,
            seconds: measured.window.as_secs_f64(),
            checkouts: observed.count(),
            checkouts_per_second: measured.per_second(),
            p50_ms,
            p99_ms,
            p999_ms,
            max_ms,
            not_ok: observed.not_ok().into_iter().map(|(status, count)| (status_name(status), count)).collect(),
            cpu_us_per_checkout: after
                .cpu_us_since(before)
                .into_iter()
                .map(|(group, used)| owned((group, used as f64 / count)))
                .collect(),
            rss_mb: after
                .rss_bytes()
                .into_iter()
                .map(|(group, bytes)| owned((group, bytes as f64 / f64::from(1 << 20))))
                .collect(),
            restarted: after.restarted_since(before),
            ran_out_of_orders: measured.ran_out,
        }
    }

    fn lines(&self) -> Vec<String> {
        let not_ok = if self.not_ok.is_empty() { "0".to_owned() } else { counts(self.not_ok.iter()) };
        let mut lines = vec![format!(
            "{:>7} {:>12.0} {:>9.2} {:>9.2} {:>9.2} {:>9.2}  {not_ok}",
            self.clients, self.checkouts_per_second, self.p50_ms, self.p99_ms, self.p999_ms, self.max_ms
        )];
        let platform: f64 =
            self.cpu_us_per_checkout.iter().filter(|(group, _)| *group != LOAD).map(|(_, used)| used).sum();
        lines.push(format!(
            "{:8}CPU µs each:{}   all but load {platform:.1}",
            "",
            columns(&self.cpu_us_per_checkout, 1)
        ));
        lines.push(format!("{:8}memory MB:  {}", "", columns(&self.rss_mb, 0)));
        if self.ran_out_of_orders {
            lines.push(format!("{:8}ended early after {:.1} s: no fresh order was left", "", self.seconds));
        }
        if !self.restarted.is_empty() {
            lines.push(format!("{:8}restarted meanwhile: {}", "", self.restarted.join(", ")));
        }
        lines
    }
}

fn columns(figures: &BTreeMap<String, f64>, digits: usize) -> String {
    GROUPS.iter().filter_map(|group| figures.get(*group).map(|value| format!("  {group} {value:.digits$}"))).collect()
}

fn counts<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    let all: Vec<String> = counts.map(|(name, count)| format!("{name}: {count}")).collect();
    all.join(", ")
}

impl Report {
    /// Describes what is going to run.
    #[must_use]
    pub fn new(target: &Target, args: &Args) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let mut setup = vec![
            format!("load {}; {cores} cores, the load generator on the same ones", target.way),
            format!(
                "every measured request is the checkout of a fresh order of two items, a real saga; {} s each after {} s warm-up",
                args.seconds, args.warmup_seconds
            ),
        ];
        if let Some((folder, platform)) = &target.platform {
            let versions: Vec<String> =
                platform.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
            let scale: Vec<String> =
                platform.services.iter().map(|(service, urls)| format!("{} × {service}", urls.len())).collect();
            setup.push(format!(
                "{}; {}; appendfsync {}; data in {}",
                scale.join(", "),
                versions.join(", "),
                platform.appendfsync,
                folder.root().display()
            ));
            if statfs(folder.root()).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC) {
                setup.push("the data folder is in memory (tmpfs): flushing to disk costs nothing here".to_owned());
            }
        }
        if cfg!(debug_assertions) {
            setup.push("this is a debug build: the figures say little".to_owned());
        }
        Self { setup, notes: Vec::new(), steps: Vec::new(), connect_burst: None }
    }

    /// Prints what is going to run.
    pub fn print_head(&self) {
        say::out("checkout bench");
        for line in &self.setup {
            say::out(&format!("  {line}"));
        }
    }

    /// Prints the heads of the columns.
    pub fn print_columns(&self) {
        say::out(&format!(
            "\n{:>7} {:>12} {:>9} {:>9} {:>9} {:>9}  {}",
            "clients", "checkouts/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "answers other than 200"
        ));
    }

    /// Prints and keeps remarks.
    pub fn note(&mut self, lines: Vec<String>) {
        for line in &lines {
            say::out(&format!("        ({line})"));
        }
        self.notes.extend(lines);
    }

    /// Prints and keeps a step.
    pub fn add(&mut self, step: Step) {
        for line in step.lines() {
            say::out(&line);
        }
        self.steps.push(step);
    }

    /// Prints and keeps a burst.
    pub fn add_burst(&mut self, burst: Burst) {
        let others = counts(burst.not_ok.iter().map(|(name, count)| (name, count)));
        say::out(&format!(
            "\nconnect burst: {} of {} clients answered in {:.0} ms; p50 {:.0} ms, slowest {:.0} ms; other than 200: {}",
            burst.answered,
            burst.clients,
            burst.took_ms,
            burst.p50_ms,
            burst.slowest_ms,
            if others.is_empty() { "0" } else { &others }
        ));
        self.connect_burst = Some(burst);
    }

    /// Writes all as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        serde_json::to_string_pretty(self)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(file, text + "\n"))
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))
    }
}
