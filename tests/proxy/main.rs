//! What happens to a call: forwarded, metered, settled.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod aborts;
mod first;
mod framing;
mod headers;
mod paths;
mod settlement;
mod websocket;
