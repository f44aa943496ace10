//! Lines to the person. Unlike `println!`, these never panic when the reader has gone (`checkout up | head`): a supervisor that
//! panics because nobody listens would take the platform with it.

use std::io::Write as _;

/// One line on standard output.
pub fn out(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// One line on standard error.
pub fn err(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
