//! The stock service: items, their prices, and the decision that every checkout turns on.
//!
//! A checkout meets it like this. `payment.debited` arrives at the [`consumer`]; the pure [`decision`] says which [`effect`]
//! it asks for: a reservation. One atomic Redis function takes all items or none and writes the saga's outcome record
//! together, or answers a repeat from the record. **That record is the commit point of the saga.** The decision turns the
//! outcome into the next event, `stock.reserved` or `stock.failed`. When `checkout.abandoned` arrives, a saga that is not
//! decided yet is decided as failed; one that is reserved stays so and says it again. REST requests come in at [`http`], become
//! a [`command`], and end in the same [`effect`]. Prices are told to whoever asks at the NATS service in [`prices`].

pub mod command;
pub mod config;
pub mod consumer;
pub mod decision;
pub mod effect;
pub mod http;
pub mod prices;
