//! The order service: orders, the undo log, and the clients that wait.
//!
//! A checkout begins and ends here. The request arrives at [`http`] and becomes a [`checkout`]: one atomic Redis function
//! writes the [`undo`] entry under the saga's derived id, then `checkout.started` is published, and the request waits in
//! [`waiting`]. What payment and stock make of it between themselves is not this service's business. When
//! `stock.reserved`, `payment.declined` or `payment.refunded` arrives at the [`consumer`], the pure [`decision`] says how the
//! undo entry is closed; the function that closes it tells who waits, and they are told. Whatever crashed on the way,
//! [`reconcile`] finds the entry still open when it is due, and replays or abandons the saga. Other REST requests become a
//! [`command`]; every access to the database is in [`effect`].

pub mod checkout;
pub mod command;
pub mod config;
pub mod consumer;
pub mod decision;
pub mod effect;
pub mod http;
pub mod prices;
pub mod reconcile;
pub mod undo;
pub mod waiting;
