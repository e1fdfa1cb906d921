//! Settings of a file that are possible, and probably not meant.

use std::path::{Path, PathBuf};

use super::Located;

/// The warnings about one file, in its order. A file with warnings is a good one: a gateway starts with
/// it, and says them in its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    file: PathBuf,
    found: Vec<Located>,
}

impl Warnings {
    pub(crate) fn new(file: &Path, found: Vec<Located>) -> Self {
        Self { file: file.to_owned(), found }
    }

    /// Each as `gateway.toml:41: warning: …` and a line with its hint.
    pub fn shown(&self) -> impl Iterator<Item = String> + '_ {
        self.found.iter().map(|located| located.shown(&self.file, "warning: "))
    }

    /// Writes each into the log.
    pub fn log(&self) {
        for located in &self.found {
            let at = located.place(&self.file);
            let (message, hint) = (&located.mistake.message, &located.mistake.hint);
            tracing::warn!(at, hint, "{message}");
        }
    }
}
