//! What *consistent* means, as rules without I/O: who reads the databases or the stream hands over what was read, and gets [`Finding`]s back.
//!
//! - [`books`]: everything that the three databases hold at one moment, and what must be true of it once nothing is open;
//! - [`saga`]: what must be true of one saga, also while others go on; and of one order;
//! - [`sums`]: what the totals of a database say about its balances;
//! - [`history`]: what must be true of the events of all sagas, read one after the other.
//!
//! The end-to-end tests, `checkout audit` and `checkout auditor` decide by these same rules.

pub mod books;
pub mod finding;
pub mod history;
mod moved;
pub mod saga;
pub mod sums;

pub use books::Books;
pub use finding::{Finding, Rule};
