//! The members of a request that a route's config names.

use super::names::fold_plain;

/// The top-level members that the prices name in a `when`, and those that the route denies. Made once for each route
/// and version of the price table.
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
    /// `members` are the names of all `if` tables of a `when`; `deny` is the route's key of that name. A name may
    /// come more than once. One with more than 64 bytes is never met.
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

    /// The member of this name, with its number.
    pub(super) fn member(&self, folded: &[u8]) -> Option<(usize, &str)> {
        let at = self.members.iter().position(|member| *member.folded == *folded)?;
        Some((at, &self.members.get(at)?.spelled))
    }

    /// The denied member of this name.
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
