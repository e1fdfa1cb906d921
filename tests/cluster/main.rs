//! Many gateways on one ledger: real `farebox serve` processes, a private Redis, a private
//! Postgres, a real upstream that logs what it is sent, and faults in all of them. After each
//! fault `check.rs` joins the upstream's log with the ledger, line by line.
//!
//! Failures with drift, leaks and replicas that users of other gateways report, and the tests that show they do
//! not happen here (each in both modes of durability):
//!
//! | failure | shown by |
//! |---|---|
//! | each replica counts for itself | `last_credit::the_last_credit_is_spent_once_by_a_thousand_clients_of_three_gateways` |
//! | fifty parallel requests pass on a balance for ten | `last_credit::fifty_parallel_calls_on_a_balance_for_ten_are_ten` |
//! | Redis and Postgres drift apart | `field::redis_and_postgres_do_not_drift_apart`, and the end of every test here |
//! | a cache wipe erases debits | `redis_loss::a_flush_of_everything_erases_no_debit` and the others there |
//! | reservations leak and then refuse paying users | `field::reservations_of_clients_that_leave_do_not_leak`, `interleavings::a_hold_is_renewed_under_a_live_call_and_expires_under_a_dead_one` |
//! | spend updates deadlock, or exhaust the database's connections | `field::spending_neither_deadlocks_nor_exhausts_the_database` |
//! | memory grows until the process dies | `field::what_redis_keeps_does_not_grow_with_the_calls` |
//!
//! `FAREBOX_SEED=<number>` repeats a run with the randomness of one that failed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod bouncer;
mod check;
mod cluster;
mod load;
mod upstream;

mod away;
mod clock;
mod failover;
mod field;
mod growth;
mod history;
mod hosts;
mod import;
mod interleavings;
mod keys;
mod kills;
mod last_credit;
mod lines;
mod locked_row;
mod metered;
mod outage_times;
mod outages;
mod partitions;
mod plans;
mod redis_loss;
mod redis_ways;
mod repair;
mod replica;
mod restore;
mod retries;
mod rolling;
mod run_cluster;
mod servers;
mod stops;
mod torture;
mod two_ledgers;
mod two_redis;
