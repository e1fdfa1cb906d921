//! The cases of HTTP/1.1, and how each is written.

use super::http1::{Case, Outcome};
use super::{http1_bodies, http1_heads};

/// A case that Farebox gets right.
pub const fn case(
    section: &'static str,
    name: &'static str,
    bytes: &'static str,
    outcome: Outcome,
) -> Case {
    Case { section, name, bytes, outcome, known: None }
}

impl Case {
    /// A case that Farebox gets wrong, and why.
    pub const fn known(self, reason: &'static str) -> Self {
        Self { known: Some(reason), ..self }
    }
}

/// All cases.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    http1_heads::CASES.iter().chain(http1_bodies::CASES)
}
