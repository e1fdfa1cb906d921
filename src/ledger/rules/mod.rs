//! The rules of the ledger: what an operation does to the state, and when it is refused. Pure: the time and
//! what the disk knows are passed in, and the changes to write come out.

pub(crate) mod facts;
#[cfg(test)]
mod facts_tests;
pub(crate) mod holds;
pub(crate) mod known_payments;
pub(crate) mod payments;
pub(crate) mod state;
