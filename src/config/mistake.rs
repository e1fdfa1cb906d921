//! What is wrong with a config file, and what to do about it.

use std::fmt;

/// One mistake in a config. A module that checks its section names the key; the loader, which
/// knows the file, finds its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key it concerns, as a path from the top of the file: `routes[2].upstream`, counted
    /// from 0. A path that does not exist stands for its nearest parent that does.
    pub key: String,
    /// What is wrong, in one sentence without the final stop.
    pub message: String,
    /// What to do about it, in one sentence without the final stop.
    pub hint: String,
}

impl Mistake {
    /// A mistake at `key`.
    pub fn new(
        key: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", self.hint) }
    }
}
