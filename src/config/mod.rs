//! The work on the text of `gateway.toml`, below the modules that own its sections: where a key stands
//! (`document`), `${NAME}` (`variables`), a table into a struct past its first mistake (`read`, `repair`), serde's
//! errors in the words of the file (`explain`), what no message may repeat (`hidden`), the mistakes so far
//! (`report`), doubts (`warnings`), and what a reload leaves as it is (`restart`).

pub(crate) mod bounds;
pub(crate) mod document;
pub(crate) mod explain;
pub(crate) mod hidden;
pub(crate) mod list;
pub(crate) mod mistake;
pub(crate) mod mistakes;
pub(crate) mod read;
pub(crate) mod repair;
pub(crate) mod report;
pub(crate) mod restart;
pub(crate) mod secret;
pub(crate) mod sections;
pub(crate) mod size;
pub(crate) mod span;
pub(crate) mod suggest;
pub(crate) mod variables;
pub(crate) mod warnings;

pub use bounds::within;
pub use mistake::Mistake;
pub use mistakes::{Located, Mistakes};
pub use restart::StartKeys;
pub use secret::Secret;
pub use sections::Sections;
pub use size::Size;
pub use span::Span;
pub use warnings::Warnings;
