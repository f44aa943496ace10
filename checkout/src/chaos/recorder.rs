//! Writes down what happens while it happens, and keeps the few counts that a progress line shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::checker::history::{Exchange, Line, Meaning};
use crate::failure::Failure;

/// The history file, and the clock of its times.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    path: PathBuf,
    file: Mutex<BufWriter<File>>,
    counts: Mutex<BTreeMap<(&'static str, Meaning), u64>>,
    /// When the latest checkout was asked for that has a definite answer.
    answered_us: AtomicU64,
}

impl Recorder {
    /// Begins a history.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path)
            .map_err(|error| Failure::failed(format!("cannot write the history {}: {error}", path.display())))?;
        Ok(Self {
            began: Instant::now(),
            path: path.to_owned(),
            file: Mutex::new(BufWriter::new(file)),
            counts: Mutex::default(),
            answered_us: AtomicU64::new(0),
        })
    }

    /// Microseconds since the beginning.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Where the history is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line.
    pub fn write(&self, line: &Line) {
        if let Line::Exchange(exchange) = line
            && exchange.is_checkout_with_an_end()
        {
            self.answered_us.fetch_max(exchange.start_us, Ordering::Relaxed);
        }
        if let Line::Exchange(Exchange { command, reply, .. }) = line {
            *lock(&self.counts).entry((command.name(), reply.meaning())).or_default() += 1;
        }
        let mut file = lock(&self.file);
        let written = serde_json::to_writer(&mut *file, line).map_err(std::io::Error::from);
        let written = written.and_then(|()| file.write_all(b"\n"));
        if let Err(error) = written {
            // Half a line makes the whole file unreadable, so this cannot pass for a right history.
            crate::say::err(&format!("checkout: the history cannot be written: {error}"));
        }
    }

    /// Whether a checkout that was asked for after this moment has had a definite answer.
    #[must_use]
    pub fn has_answered_since(&self, at_us: u64) -> bool {
        self.answered_us.load(Ordering::Relaxed) >= at_us
    }

    /// Everything is on its way to the disk.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&self) -> Result<(), Failure> {
        lock(&self.file).flush().map_err(|error| Failure::failed(format!("{}: {error}", self.path.display())))
    }

    /// How many requests of each kind were answered in each way.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(&'static str, Meaning), u64> {
        lock(&self.counts).clone()
    }

    /// How many requests were answered in this way.
    #[must_use]
    pub fn count(&self, wanted: Meaning) -> u64 {
        lock(&self.counts).iter().filter(|((_, meaning), _)| *meaning == wanted).map(|(_, count)| count).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
