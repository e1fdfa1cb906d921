//! The product as an outsider sees it: DESIGN.md's routes, JSON, headers, commands and metrics,
//! over HTTP and through the real binary.
//!
//! The failures that users of other gateways report, and the tests that show that they do not
//! happen here. `proxy`, `ledger` and `buying` are the test binaries beside this one.
//!
//! | failure | shown by |
//! |---|---|
//! | fifty parallel requests pass on a balance for ten | `faults::the_last_credit_is_spent_once_by_a_thousand_clients`; `proxy`, `ledger` |
//! | reservations leak and then refuse paying users | `crash::what_the_upstream_answered_and_the_ledger_agree_after_kill_9` (no hold is left); `metrics::what_happened_is_counted` (`released`); `proxy` for aborts and failing upstreams |
//! | a path that nobody priced is free | `own::a_check_of_what_nobody_priced_is_refused`, `problems::every_code_has_its_status_and_shape`; `proxy` for odd paths |
//! | each replica counts for itself | one process has the embedded ledger: `offline::a_ledger_in_use_is_not_touched`, `offline::a_ledger_has_one_writer_by_whatever_name` |
//! | an aborted stream is free, or charged in full | `proxy` |
//! | a client's retry is charged twice | a later issue; the README says that a retry is a new call. Grants: `admin::a_grant_takes_effect_once`; holds: `holds::the_same_hold_again_is_one_hold` |
//! | a duplicate webhook mints credits; refunds and disputes | `buying` |
//! | a negative price or usage mints credits | `admin::amounts_that_make_no_sense_change_nothing`, `holds::a_capture_above_its_hold_is_refused`, `cli::five_mistakes_are_five_lines` (a negative price) |
//! | Redis and Postgres drift apart | the Redis issue; memory and file: every `assert_reconciled` |
//! | spend updates deadlock or exhaust connections | one writer: `faults::the_last_credit_is_spent_once_by_a_thousand_clients`; `ledger` |
//! | memory grows until the process dies | `memory::memory_is_flat_over_many_requests` |
//! | a charge lands before an upstream that then fails | `metrics::what_happened_is_counted`; `proxy` |
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod http;
mod process;

mod admin;
mod auth;
mod cli;
mod crash;
mod demo;
mod faults;
mod holds;
mod memory;
mod metrics;
mod offline;
mod own;
mod problems;
mod upstream_tls;
