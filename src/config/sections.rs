//! Which parts of the file a command reads.

use std::ops::BitOr;

use super::document::Document;
use super::report::Report;
use super::suggest;

/// A set of sections, joined with `|`. What is not in it is neither expanded nor checked, so
/// that `farebox prices` works with no variable set.
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
    /// `[[routes]]`; that their upstreams exist is checked with or without `UPSTREAMS`.
    pub const ROUTES: Self = Self(1 << 6);
    /// `[[packs]]`
    pub const PACKS: Self = Self(1 << 7);
    /// `[stripe]`, if the file has it.
    pub const STRIPE: Self = Self(1 << 8);
    /// `[brand]`
    pub const BRAND: Self = Self(1 << 9);
    /// The whole file.
    pub const ALL: Self = Self((1 << 10) - 1);

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

const NAMES: [&str; 10] = [
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
];

/// Reports what stands at the top of the file and is no section, whatever the command reads:
/// a section with a slip in its name would be a section left out.
pub(crate) fn refuse_unknown(document: &Document<'_>, report: &mut Report<'_>) {
    for (name, _) in document.table() {
        let offset = name.span().start;
        let name = name.get_ref().as_ref();
        if !NAMES.contains(&name) {
            let hint = suggest::hint(name, &NAMES, "the sections are");
            report.add(name, Some(offset), format!("unknown section `{name}`"), hint);
        }
    }
}
