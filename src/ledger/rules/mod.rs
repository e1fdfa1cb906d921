//! The rules of the ledger: the effect of each operation on the state, and the reasons to refuse it.
//!
//! The rules are pure: the time and the stored rows are passed in, and the rows to write come out.

mod claims;
mod context;
mod cut_off;
mod decide;
mod holds;
mod imports;
mod keys;
mod payments;
#[cfg(test)]
mod payments_tests;
mod postings;
pub(crate) mod state;

pub(crate) use decide::{abandon_calls, decide, expire, renew};
