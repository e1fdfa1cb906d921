//! The embedded ledger, in a file of SQLite.

pub(crate) mod answers;
pub(crate) mod backup;
mod batch_log;
mod call_holds;
mod claims;
mod compare;
mod connection;
mod decided;
mod disk;
mod entry_rows;
pub(crate) mod export;
pub(crate) mod file_rights;
mod fold;
mod json_rows;
pub(crate) mod ledger;
mod left_calls;
mod load;
pub(crate) mod lock;
mod purge;
pub(crate) mod read;
mod reconcile;
pub(crate) mod repair;
mod replays;
mod rewrite;
mod whole_file;
mod write;
mod written;
