//! The name of an epoch.

/// An epoch is the time from a recovery, which fills Redis from Postgres, until Redis loses its
/// data.
///
/// The text of the scripts contains the nonce, which only Postgres and the gateways know. So a
/// Redis that was emptied, restored or replaced does not have the scripts of the open epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// The number of the epoch, greater than that of any earlier epoch that Postgres or this Redis has
    /// seen.
    pub number: i64,
    pub nonce: String,
}

impl Epoch {
    /// The epoch's name in the key `meta`: number and nonce.
    pub fn name(&self) -> String {
        format!("{}.{}", self.number, self.nonce)
    }
}
