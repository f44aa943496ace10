//! The only place that knows NATS: the topology as data, publishing, consuming, dead letters, inboxes and the price
//! service. Everything else speaks in [`common::event::Event`]s.
//!
//! What nobody could understand is looked at, published again or dropped through the [`graveyard`].
//!
//! The way of an event: [`Broker::publish_all`] → stream → [`consume`] → [`React`] → [`Verdict`] → `publish_all` → ack.

pub mod access;
mod batch;
mod broker;
mod consume;
mod damage;
mod dead_letter;
mod direct;
mod ensure;
mod fast_ingest;
mod follow;
pub mod graveyard;
mod letter;
mod message;
mod outage;
mod participant;
mod prices;
mod publish;
mod pull;
mod recall;
mod redo;
mod refusals;
mod scan;
pub mod topology;

pub use broker::{Broker, BrokerError, Inbox, Notification, Waits, check_urls};
pub use consume::{React, Ready, Verdict, consume, needs};
pub use follow::Listen;
pub use participant::{Participant, Reactor};
pub use recall::Past;
pub use redo::{Redo, Redoer, redo_late};
