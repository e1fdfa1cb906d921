//! Guards the way of a call through the gateway: what goes in and out on the wire, byte by byte.
//!
//! - `differential`: exchanges at random pass through a bare Pingora proxy and through Farebox, and
//!   both ends must see the same.
//! - `crosstalk`: every answer is the one to its request, whatever the other connections do.
//! - `conformance`: what RFC 9110, 9112, 9113 and 7541 ask of a server, case by case.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod crosstalk;
mod differential;
