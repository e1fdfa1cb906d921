//! The usage of metered calls: what a request asks for, and what its answer used. This is plain
//! data that the meters produce, the price table turns into credits, and the ledger stores.

mod kind;
mod meter_kind;
mod request;
mod tally;
mod totals;

pub use kind::Kind;
pub use meter_kind::{MAX_POINTER_BYTES, MeterKind, Pointer, PointerError, Pointers};
pub use request::{Limits, RequestFacts, Scalar, UsageRecord};
pub use tally::{MAX_COUNT, Usage, UsageError};
pub use totals::Totals;
