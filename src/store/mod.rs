//! The ledger's backends. No other part of Farebox uses SQL or Redis.
//!
//! `sqlite` is the embedded ledger, `cluster` the ledger that several gateways share on Redis and
//! Postgres, and `sql` has the queries that both databases use.

mod addresses;
pub(crate) mod cluster;
mod error;
mod postgres_address;
mod replays;
pub(crate) mod sql;
pub(crate) mod sqlite;
mod tls_files;

pub use addresses::{check_addresses, warn_of_addresses};
pub use cluster::answers::ClusterAnswers;
pub use cluster::import::{ImportError, Imported, import};
pub use cluster::ledger::ClusterLedger;
pub use cluster::reader::ClusterReader;
pub use cluster::recovery_plan::{ChangedAccount, RecoveryPlan, plan_recovery, recover_cluster};
pub use cluster::repair::repair_cluster;
pub use cluster::setup::migrate_cluster;
pub use sqlite::answers::SqliteAnswers;
pub use sqlite::backup::{backup, backup_answers};
pub use sqlite::export::SourceError;
pub use sqlite::ledger::SqliteLedger;
pub use sqlite::read::SqliteReader;
pub use sqlite::repair::repair_embedded;
