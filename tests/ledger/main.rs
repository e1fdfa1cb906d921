//! Tests of the ledger on every backend: its promises, a comparison with a model, a failing disk,
//! kill -9, and a thousand callers for the last credit.
//!
//! `FAREBOX_SEED=<number>` repeats a run with the randomness of one that failed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/servers/mod.rs"]
mod servers;

mod answers;
mod append;
mod beside;
mod busy;
mod claim_rows;
mod claiming;
mod claims;
mod claims_cluster;
mod claims_in_postgres;
mod cluster;
mod contract;
mod crash;
mod cut_off;
mod endings;
mod ends;
mod faults;
mod imports;
mod large;
mod last_credit;
mod layouts;
mod leaving;
mod left_calls;
mod lifetimes;
mod locked;
mod mending;
mod metered;
mod metered_cluster;
mod model;
mod owed;
mod payments;
mod plain;
mod plain_claims;
mod plain_holds;
mod promptness;
mod rare;
mod rare_repairs;
mod refunds;
mod refused;
mod refusing_postgres;
mod screens;
mod stops;
mod sweep;
mod syncer;
mod test_cluster;
mod test_ledger;
mod upkeep;
mod without_postgres;
