//! The state of the ledger in Redis, and the names by which it is recognised.

/// A field of the hash of live holds that is there from the beginning of an epoch to its end, and its value. No hold has
/// such an id, because ids have no spaces. The value is so long that Redis keeps the hash as a table.
pub(super) const LIVE_MARK: (&str, &str) = (
    "the mark",
    "without this field nobody could tell an empty hash from one that was deleted or evicted",
);

/// The name of the epoch in `meta` after a fence.
pub(crate) const CLOSED: &str = "closed";

/// The state of the ledger in Redis, from the key `meta`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The name of the open epoch. `closed` after a fence, and empty if Redis has no data yet.
    pub epoch: String,
    /// The number of the newest epoch that was ever open in these data.
    pub number: i64,
    /// The number of the newest batch.
    pub newest: i64,
    /// The number of the newest batch that is in Postgres.
    pub durable: i64,
    /// Whether the server has been neither a replica nor restarted since the epoch began.
    pub has_same_replication_id: bool,
    /// Whether the epoch began with [`LIVE_MARK`]; false if an early version began it.
    pub is_marked: bool,
    /// The id of the ledger whose batches are in the stream; empty if an early version wrote them.
    pub ledger: String,
}

impl Meta {
    /// Whether the data are those of another ledger than this one.
    pub fn is_of_another(&self, ledger: &str) -> bool {
        !self.ledger.is_empty() && self.ledger != ledger
    }
}
