//! What the end-to-end tests share: real servers, the whole platform as a user starts it, a client, and the books.

pub mod lua_headers;
pub mod servers;
