//! Reads the text of `gateway.toml` for the modules that own its sections. `document` finds the
//! place of a key. `variables` expands `${NAME}`. `read` and `repair` turn a table into a struct
//! and find all of its mistakes, not only the first. `explain` puts serde's errors into terms of
//! the file. `hidden` keeps secrets out of messages. `report` collects the mistakes. `restart`
//! finds the settings that a reload does not apply.

pub(crate) mod document;
pub(crate) mod explain;
pub(crate) mod hidden;
pub(crate) mod list;
pub(crate) mod mistake;
pub(crate) mod read;
pub(crate) mod repair;
pub(crate) mod report;
pub(crate) mod restart;
pub(crate) mod sections;
pub(crate) mod size;
pub(crate) mod value;
pub(crate) mod variables;

pub use mistake::{Located, Mistake, Mistakes, Warnings, within};
pub use restart::StartKeys;
pub use sections::Sections;
pub use size::Size;
pub use value::{Secret, Span};
pub use variables::{Env, process_env};
