//! The embedded ledger, in a file of SQLite.

mod call_holds;
pub(crate) mod export;
pub(crate) mod file_rights;
mod fold;
mod json_rows;
pub(crate) mod ledger;
mod left;
mod load;
pub(crate) mod lock;
pub(crate) mod maintain;
pub(crate) mod read;
pub(crate) mod repair;
mod rewrite;
mod write;
