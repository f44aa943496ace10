//! The checker is checked: histories with one planted error of each kind must be caught, and right ones never found wrong.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod planted;
mod right;
mod undone;
mod world;
