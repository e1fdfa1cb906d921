//! The cluster ledger: Redis decides, Postgres remembers. Any number of gateways share it.

mod adaptive;
mod batch_log;
mod compare;
pub(crate) mod import;
mod janitor;
mod late;
mod lease;
pub(crate) mod ledger;
pub(crate) mod postgres;
pub(crate) mod reader;
pub(crate) mod recovery_plan;
pub(crate) mod redis;
mod redo;
mod shared;
mod sync;
mod warm;
mod work;
