//! Tests of the bytes that a call sends and receives on the wire, on its way through the gateway.
//!
//! - `differential`: exchanges at random pass through a bare Pingora proxy and through Farebox, and
//!   both ends must see the same.
//! - `crosstalk`: every answer is the one to its request, whatever the other connections do.
//! - `conformance`: the requirements of RFC 9110, 9112, 9113 and 7541 for a server, case by case.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod crosstalk;
mod differential;
