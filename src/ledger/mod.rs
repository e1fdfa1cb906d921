//! The ledger: who has how many credits, what is set aside, and every line that moved a balance.
//!
//! [`Ledger`] is the handle that the rest of the gateway uses: it puts [`Operation`]s on the
//! queue of a pipeline, which decides them in natural batches on a [`Backend`]. [`Hold`] is the
//! guard of a call's hold: however the call ends, the hold ends once.
//!
//! This is the only place that speaks SQL or Redis.

mod backend;
mod books;
mod bring_over;
mod clock;
mod config;
mod crash;
mod desk;
mod error;
mod handle;
mod hold;
mod import;
mod inbox;
mod key;
mod lock;
mod operation;
mod payment;
mod pipeline;
mod postgres;
mod private;
mod record;
mod redis;
mod report;
mod rows;
mod screens;
mod search;
mod slice;
mod sold;
mod sqlite;
mod till;

pub use backend::{AccountView, Backend, Expired, IsLive, KeyChanges, Reader};
pub use bring_over::{Import, ImportRow};
pub(crate) use clock::wall_ms;
pub use config::{BackendKind, CreditsConfig, Durability, LedgerConfig};
pub use crash::{AfterCrash, CrashOutcome, CrashedCall};
pub use error::LedgerError;
pub use handle::Ledger;
pub use hold::Hold;
pub use import::{ImportError, Imported, import};
pub use inbox::{EventState, NewEvent, StripeEvent};
pub use key::{KeyHash, KeyHashError, KeyRecord};
pub use operation::{
    Balance, CallId, Ending, Entry, EntryKind, HoldEnd, HoldId, IdError, NewHold, Operation,
    OperationId, Origin, Outcome, Posting, Refusal,
};
pub use payment::{
    Dispute, Due, Facts, Money, OnDispute, Payment, Progress, Refund, Sale, Settled, Stage,
    TakeFacts,
};
pub use pipeline::Pipeline;
pub use redis::{
    ChangedAccount, ClusterLedger, ClusterReader, RecoveryPlan, migrate_cluster, plan_recovery,
    recover_cluster, repair_cluster,
};
pub(crate) use report::in_credits;
pub use report::{Difference, FoldCursor, FoldReport, OldMonths, ReconcileReport, RepairReport};
pub use screens::{Activity, DayUsage, HoldView, Movement, Usage};
pub use search::FoundAccounts;
pub use sold::{Sold, SoldIn};
pub use sqlite::{SqliteLedger, SqliteReader, backup, repair_embedded};
