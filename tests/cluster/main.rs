//! Many gateways on one ledger: real `farebox serve` processes, a private Redis, a private
//! Postgres, a real upstream that logs what it is sent, and faults in all of them.
//!
//! `FAREBOX_SEED=<number>` repeats a run with the randomness of one that failed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod servers;
