//! Moving an embedded ledger into Redis and Postgres.

mod move_ledger;
mod tables;

pub(crate) use move_ledger::compare;
pub use move_ledger::{ImportError, Imported, import};
pub(crate) use tables::{TABLES, Table};
