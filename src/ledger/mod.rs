//! The ledger: how many credits each account has, what is set aside, and every entry that moved a balance.
//!
//! [`Ledger`] is the handle that the rest of the gateway uses: it puts [`Operation`]s on the queue of a
//! pipeline, which decides them in natural batches on a [`Backend`]. [`Hold`] is the guard of a call's
//! hold: however the call ends, its hold ends once. `rules` decides what an operation does to the state.
//!
//! Nothing here speaks SQL or Redis: `store` has the backends.

pub(crate) mod backend;
pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod crash;
pub(crate) mod error;
mod handle;
pub(crate) mod history;
pub(crate) mod hold;
pub(crate) mod imports;
pub(crate) mod inbox;
pub(crate) mod key;
pub(crate) mod operation;
pub(crate) mod payment;
mod pipeline;
pub(crate) mod report;
pub(crate) mod rules;

pub use backend::{AccountView, Backend, Expired, IsLive, KeyChanges, Reader};
pub(crate) use clock::wall_ms;
pub use config::{BackendKind, CreditsConfig, Durability, LedgerConfig};
pub use crash::{AfterCrash, CrashOutcome, CrashedCall};
pub use error::LedgerError;
pub use handle::Ledger;
pub use history::{Activity, DayUsage, FoundAccounts, HoldView, Movement, Sold, SoldIn, Usage};
pub use hold::Hold;
pub use imports::{Import, ImportRow};
pub use inbox::{EventState, NewEvent, StripeEvent};
pub use key::{KeyHash, KeyHashError, KeyRecord};
pub use operation::{
    Balance, CallId, Ending, Entry, EntryKind, HoldEnd, HoldId, IdError, NewHold, Operation,
    OperationId, Origin, Outcome, Posting, Refusal,
};
pub use payment::{Payment, Settled, TakeFacts};
pub use pipeline::Pipeline;
pub(crate) use report::in_credits;
pub use report::{Difference, FoldCursor, FoldReport, OldMonths, ReconcileReport, RepairReport};
pub use rules::facts::{Dispute, Due, Facts, Money, OnDispute, Progress, Refund, Sale, Stage};
