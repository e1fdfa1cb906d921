//! The parts of the file that a command reads.

use std::ops::BitOr;

use crate::config::document::Document;
use crate::config::explain::suggest;
use crate::config::report::Report;

/// A set of sections, joined with `|`. Sections outside the set are neither expanded nor checked.
/// So `farebox prices` works without any variable, for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections(u16);

impl Sections {
    /// `[server]`
    pub const SERVER: Self = Self(1);
    /// `[ledger]`
    pub const LEDGER: Self = Self(1 << 1);
    /// `[auth]`
    pub const AUTH: Self = Self(1 << 2);
    /// `[credits]`
    pub const CREDITS: Self = Self(1 << 3);
    /// `[api]`
    pub const API: Self = Self(1 << 4);
    /// `[[upstreams]]`
    pub const UPSTREAMS: Self = Self(1 << 5);
    /// `[[routes]]`. Their upstreams must exist, even if `UPSTREAMS` is not in the set.
    pub const ROUTES: Self = Self(1 << 6);
    /// `[[packs]]`
    pub const PACKS: Self = Self(1 << 7);
    /// `[stripe]`, which a file need not have.
    pub const STRIPE: Self = Self(1 << 8);
    /// `[brand]`
    pub const BRAND: Self = Self(1 << 9);
    /// `[[models]]`, with those of the `models_file`, and `[rates]`.
    pub const MODELS: Self = Self(1 << 10);
    /// `[idempotency]`
    pub const IDEMPOTENCY: Self = Self(1 << 11);
    /// The whole file.
    pub const ALL: Self = Self((1 << 12) - 1);

    /// True when every section of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Sections {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

const NAMES: [&str; 14] = [
    "server",
    "ledger",
    "auth",
    "credits",
    "api",
    "upstreams",
    "routes",
    "packs",
    "stripe",
    "brand",
    "models",
    "models_file",
    "rates",
    "idempotency",
];

/// Reports every unknown name at the top of the file, whichever sections the command reads.
/// Otherwise a typing error in a section's name would silently leave the section's defaults.
pub(crate) fn refuse_unknown(document: &Document<'_>, report: &mut Report<'_>) {
    for (name, _) in document.table() {
        let offset = name.span().start;
        let name = name.get_ref().as_ref();
        if !NAMES.contains(&name) {
            let hint = suggest(name, &NAMES, "the sections are");
            report.add(name, Some(offset), format!("unknown section `{name}`"), hint);
        }
    }
}
