//! What the end-to-end tests share: real servers, the whole platform as a user starts it, a client, and the books.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod books;
pub mod client;
pub mod database;
pub mod folder;
pub mod ha;
pub mod load;
pub mod lua_headers;
pub mod platform;
pub mod ports;
pub mod programs;
pub mod sentinels;
pub mod servers;
pub mod stream;
pub mod wait;
