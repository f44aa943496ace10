//! The protocol of the checkout, proved without a network, a clock or a database.
//!
//! [`database`] are pure models of the three databases; the property tests of the services hold the Lua functions to them.
//! [`glue`] puts the services' real decisions over them. The [`simulator`] runs the whole with faults drawn from seeds, and
//! [`explore`] all of a small configuration. [`planted`] bugs prove that both would find what they are for.

pub mod database;
pub mod explore;
pub mod glue;
pub mod ledger;
pub mod planted;
pub mod simulator;

/// Prints a line. Who has read enough may close the pipe (`… --trace | head`): that is no failure.
pub fn print_line(line: std::fmt::Arguments<'_>) {
    let _ = std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!("{line}\n"));
}
