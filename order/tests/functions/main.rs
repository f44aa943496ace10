//! Every function of `order.lua`, and every return code of each, on a real Redis: called through the builders of
//! `effect.rs` and read with its readers, so that builder, function and reader are held together.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod begin;
mod claim;
mod close;
mod headers;
mod lost;
mod model;
mod orders;
mod redo;
mod support;
mod watermark;
