//! The protocol of the ledger on Redis and Postgres, as a model in which every order of events is
//! tried: one account, up to four calls, two gateways, a Redis master with a lagging replica.
//!
//! `table` checks the protocol, and variants of it that leave something out. The checker must find
//! the variants broken, which shows that it can find faults. `interleavings` has single sequences
//! of events. `variant` has the switches, `state` the state, `action` the events that can happen,
//! and `properties` the properties that must hold.
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
