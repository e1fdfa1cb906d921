//! The cluster ledger: Redis decides, Postgres remembers. Any number of gateways share it.

mod adaptive;
mod api_ends;
mod batch_log;
mod compare;
mod debts;
pub(crate) mod epoch;
mod hand_over;
mod heartbeat;
pub(crate) mod import;
mod intake;
mod janitor;
mod lease;
pub(crate) mod ledger;
mod open_epoch;
pub(crate) mod postgres;
pub(crate) mod reader;
mod recovery;
pub(crate) mod recovery_plan;
pub(crate) mod redis;
mod redo;
pub(crate) mod repair;
pub(crate) mod setup;
mod shared;
mod sweep;
mod sync;
mod warm;
mod work;
