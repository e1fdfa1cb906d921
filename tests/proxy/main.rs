//! The way of a call: forwarded, metered, settled.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod aborts;
mod addresses;
mod bodies;
mod cgi;
mod closing;
mod cors;
mod first;
mod framing;
mod headers;
mod http2;
mod http2_attacks;
mod http2_streams;
mod limits;
mod memory;
mod old_clients;
mod once;
mod paths;
mod retries;
mod settlement;
mod stop;
mod streaming;
mod tls;
mod upstream_tls;
mod upstreams;
mod websocket;
