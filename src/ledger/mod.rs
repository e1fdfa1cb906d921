//! The ledger: how many credits each account has, how many are set aside, and every entry that moved a
//! balance.
//!
//! [`Ledger`] is the handle that the rest of the gateway uses. It puts [`Operation`]s on the queue of a
//! pipeline, and the pipeline passes them in batches to a [`Backend`], which decides them. [`Hold`] is
//! the guard of a call's hold: however the call ends, its hold ends once. `rules` decides the effect of
//! an operation on the state.
//!
//! Nothing here speaks SQL or Redis: `store` has the backends.

mod answers;
pub(crate) mod backend;
mod batch;
pub(crate) mod claim;
pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod crash;
pub(crate) mod error;
mod gather;
mod handle;
pub(crate) mod history;
mod hold;
pub(crate) mod imports;
pub(crate) mod inbox;
pub(crate) mod key;
mod live;
pub(crate) mod operation;
pub(crate) mod payment;
mod pipeline;
#[cfg(test)]
mod pipeline_tests;
mod queue;
pub(crate) mod reader;
pub(crate) mod report;
pub(crate) mod retention;
pub(crate) mod rules;

pub use answers::{Answers, Kept, Replays};
pub use backend::{Backend, Expired, IsLive};
pub use claim::{Claim, ClaimId, ClaimState, Claimed, RequestMark};
pub(crate) use clock::wall_ms;
pub use config::{BackendKind, CreditsConfig, Durability, LedgerConfig};
pub use crash::{AfterCrash, CrashOutcome, CrashedCall};
pub use error::{LedgerError, StoreFailure};
pub use handle::{HeldOrClaimed, Ledger};
pub use history::{
    AccountView, Activity, DayUsage, FoundAccounts, HoldView, ModelUsage, Movement, Sold, SoldIn,
    Usage,
};
pub use hold::{Extended, Hold, Overrun, Settlement};
pub use imports::{Import, ImportRow, ImportedRow};
pub use inbox::{EventState, NewEvent, StripeEvent};
pub use key::{KeyChanges, KeyHash, KeyHashError, KeyRecord};
pub use operation::{
    Balance, CallId, ClosedHold, Ending, Entry, EntryKind, HoldEnd, HoldId, IdError, NewHold,
    Operation, OperationId, Origin, Outcome, Posting, Refusal,
};
pub(crate) use operation::{CALL_TTL_MS, keep_ids_ahead_by};
pub use payment::{
    Dispute, Due, Facts, Money, OnDispute, Payment, PaymentChange, Progress, Refund, Sale, Stage,
    TakeFacts,
};
pub use pipeline::Pipeline;
pub use reader::Reader;
pub(crate) use report::in_credits;
pub use report::{Difference, FoldCursor, FoldReport, OldMonths, ReconcileReport, RepairReport};
