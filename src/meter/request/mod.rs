//! The reader of requests: one pass over the bytes, without a tree of them.

mod edit;
mod mistake;
mod read;
mod watched;

pub use edit::Changes;
pub use mistake::BodyMistake;
pub use read::{ReadRequest, UsageChunk, read_request};
pub use watched::Watched;
