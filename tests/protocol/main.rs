//! The protocol of the ledger on Redis and Postgres, as models in which every order of events is tried.
//!
//! The model of holds is in this folder: one account, up to four calls, two gateways, a Redis master with a lagging
//! replica. `table` checks the protocol, and variants of it that leave something out. The checker must find
//! the variants broken, which shows that it can find faults. `interleavings` has single sequences
//! of events. `variant` has the switches, `state` the state, `action` the events that can happen,
//! and `properties` the properties that must hold.
//!
//! Three smaller models stand beside it, since one with everything would have too many states, and each has its own
//! `table`. `batches`: the appends of `strict`, statement by statement, the sync, and a standby of Postgres. `grants`:
//! deliveries and their digests, when Postgres fails over. `servers`: several Redis servers, and which of them has the
//! ledger.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod action;
mod appends;
mod batches;
mod calls;
mod check;
mod faults;
mod grants;
mod interleavings;
mod properties;
mod recovery;
mod redis;
mod servers;
mod state;
mod table;
mod upkeep;
mod variant;
