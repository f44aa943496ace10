//! The payment service: credit of users, and the first step of every checkout.
//!
//! A checkout meets it like this. `checkout.started` arrives at the [`consumer`]; the pure [`decision`] says which
//! [`effect`] it asks for: a debit. One atomic Redis function takes the amount and writes the saga's outcome record together,
//! or answers a repeat from the record. The decision turns the outcome into the next event, `payment.debited` or
//! `payment.declined`. When `stock.failed` arrives, the same way leads to a refund, or to a tombstone that keeps a debit which
//! has not happened yet from ever happening. REST requests come in at [`http`], become a [`command`], and end in the same
//! [`effect`].

pub mod command;
pub mod config;
pub mod consumer;
pub mod decision;
pub mod effect;
pub mod http;
