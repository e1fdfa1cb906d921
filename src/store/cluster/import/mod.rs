//! Moving an embedded ledger into Redis and Postgres: all of it in one transaction, or nothing.

mod error;
mod move_ledger;
mod tables;
mod write;

pub use error::{ImportError, Imported};
pub use move_ledger::import;
