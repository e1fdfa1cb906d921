//! The members of a request that a route's config names.

use super::names::fold_plain;

/// The top-level members that the prices name in a `when`, and those that the route denies. They
/// are computed once for each route and version of the price table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    members: Box<[Named]>,
    deny: Box<[Named]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    spelled: Box<str>,
    folded: Box<[u8]>,
}

impl Watched {
    /// Creates the set. `members` are the names in the `if` tables of all `when`; `deny` is the
    /// route's key `deny`. A name may occur more than once. A name of more than 64 bytes matches no
    /// member.
    pub fn new<'a>(
        members: impl IntoIterator<Item = &'a str>,
        deny: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self { members: named(members), deny: named(deny) }
    }

    /// The number of members.
    pub(super) const fn len(&self) -> usize {
        self.members.len()
    }

    /// The watched member with this name, and its number.
    pub(super) fn member(&self, folded: &[u8]) -> Option<(usize, &str)> {
        let at = self.members.iter().position(|member| *member.folded == *folded)?;
        Some((at, &self.members.get(at)?.spelled))
    }

    /// The denied member with this name.
    pub(super) fn denied(&self, folded: &[u8]) -> Option<&str> {
        self.deny.iter().find(|member| *member.folded == *folded).map(|member| &*member.spelled)
    }
}

fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Box<[Named]> {
    let mut named: Vec<Named> = Vec::new();
    for name in names {
        let Some(folded) = fold_plain(name) else { continue };
        if named.iter().all(|known| known.folded != folded) {
            named.push(Named { spelled: name.into(), folded });
        }
    }
    named.into()
}
