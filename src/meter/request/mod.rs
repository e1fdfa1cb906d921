//! The reader of requests. It reads the bytes once, and builds no tree.

mod edit;
mod facts;
mod frame;
mod images;
mod members;
mod mistake;
mod names;
mod outcome;
mod place;
mod read;
mod reader;
mod scalars;
mod watched;

pub use edit::Changes;
pub use mistake::BodyMistake;
pub use outcome::{ReadRequest, UsageChunk};
pub use read::read_request;
pub use watched::Watched;

#[cfg(test)]
mod parsers;
#[cfg(test)]
mod rewrite_tests;
#[cfg(test)]
mod tests;
