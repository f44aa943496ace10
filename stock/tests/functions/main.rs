//! Every function of `stock.lua`, and every return code of each, on a real Redis: called through the builders of
//! `effect.rs` and read with its readers, so that builder, function and reader are held together.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commands;
mod forgetting;
mod headers;
mod model;
mod redo;
mod sagas;
mod support;
