//! The answers that are kept for retries.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::ledger::error::LedgerError;
use crate::ledger::operation::HoldId;

/// Whether an answer was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The answer is durable.
    Yes,
    /// All kept answers together would be more than `[idempotency] max_total`.
    NoRoom,
}

/// How often the answer of a call was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replays {
    /// The number of replays.
    pub times: u64,
    /// The time of the last one, in milliseconds since 1970.
    pub last_ms: i64,
}

/// Where answers are kept for retries, sealed: the store sees neither an answer nor what opens it. The
/// embedded ledger has a file of its own for them, the shared one a table in Postgres.
#[async_trait]
pub trait Answers: fmt::Debug + Send + Sync + 'static {
    /// The ledger's own secret, made when the ledger was: requests are recognised under it, and the
    /// answers to an SDK's retries are sealed under it. All gateways of a ledger have the same.
    fn secret(&self) -> &[u8; 32];

    /// Keeps the sealed answer of a call until a time, in milliseconds since 1970. It is durable when this
    /// returns. A repetition changes nothing.
    ///
    /// # Errors
    /// Where the store cannot write; the answer is then not kept.
    async fn keep(&self, call: &HoldId, sealed: Bytes, until_ms: i64) -> Result<Kept, LedgerError>;

    /// Reads the sealed answer of a call; `None` where it was not kept, or its time is up.
    ///
    /// # Errors
    /// Where the store cannot read.
    async fn read(&self, call: &HoldId) -> Result<Option<Bytes>, LedgerError>;

    /// Counts a replay of the answer of a call, for people who read its entry. Returns at once: the count is
    /// written a moment later, so a crash may lose it.
    fn count_replay(&self, call: &HoldId);
}
