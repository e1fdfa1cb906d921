//! The protocol of the ledger on Redis and Postgres, as a model in which every order of events is
//! tried: one account, up to four calls, two gateways, a Redis master with a lagging replica.
//!
//! `table` checks the protocol and the variants that do less; those must be found broken, so that
//! the model is known to be able to fail. `interleavings` are the single stories. `variant` has the
//! switches, `state` what there is, `action` what can happen, `properties` what must hold.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod action;
mod appends;
mod calls;
mod check;
mod faults;
mod interleavings;
mod properties;
mod recovery;
mod redis;
mod state;
mod table;
mod upkeep;
mod variant;
