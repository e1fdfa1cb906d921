//! The members of a request that a route's config names.

/// The top-level members that the prices name in a `when`, and those that the route denies. Made once for each route
/// and version of the price table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched;

impl Watched {
    /// `members` are the names of all `if` tables of a `when`; `deny` is the route's key of that name.
    pub fn new<'a>(
        _members: impl IntoIterator<Item = &'a str>,
        _deny: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        todo!()
    }
}
