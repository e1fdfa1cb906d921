//! The operations of a ledger: their ids, the requests, and the outcomes.

mod entry;
mod ids;
mod kinds;
mod outcome;
mod refusal;
mod request;

pub use entry::{Balance, Entry, Posting};
pub(crate) use ids::keep_ids_ahead_by;
pub use ids::{CallId, HoldId, IdError, OperationId};
pub use kinds::{Ending, EntryKind, Origin};
pub use outcome::{ClosedHold, HoldEnd, Outcome};
pub use refusal::Refusal;
pub(crate) use request::CALL_TTL_MS;
pub use request::{NewHold, Operation};
