//! What a metered request asks for, and what its answer used: plain data that the meters produce, the
//! price table turns into credits, and the ledger stores.

mod kind;
mod request;
mod tally;

pub use kind::Kind;
pub use request::{Limits, RequestFacts, Scalar, UsageRecord};
pub use tally::{MAX_COUNT, Usage, UsageError};
