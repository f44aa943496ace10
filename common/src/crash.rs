//! Crash points: named places between two effects at which a test ends the process, to prove that what comes after a
//! crash there is right.
//!
//! `CRASH_AT=point` or `CRASH_AT=point:n` aborts the process when it passes the point for the n-th time, without unwinding
//! and without any clean-up, as `kill -9` would. A supervisor counts starts in `GENERATION`; only the first generation
//! crashes, so that the restarted process can show that it recovers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    point: String,
    /// How often the point is still to be passed.
    passes: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// Arms one point, as `CRASH_AT` says. Later calls have no effect.
///
/// # Errors
/// The text is neither `point` nor `point:n` with n of 1 or more.
pub fn arm(setting: &str) -> Result<(), String> {
    let (point, passes) = match setting.rsplit_once(':') {
        None => (setting, 1),
        Some((point, n)) => (point, n.parse().ok().filter(|n| *n > 0).ok_or("expected point or point:n, n from 1")?),
    };
    ARMED.get_or_init(|| Armed { point: point.to_owned(), passes: AtomicU64::new(passes) });
    Ok(())
}

/// Ends the process here if this point is armed and passed for the chosen time. Costs one load when nothing is armed.
pub fn point(name: &str) {
    let Some(armed) = ARMED.get() else { return };
    if armed.point == name && armed.passes.fetch_sub(1, Ordering::Relaxed) == 1 {
        // The log line is for the reader of a test's output; the abort must not wait for a log writer.
        eprintln!("crash point {name}: ending the process");
        std::process::abort();
    }
}
