//! The answers that are kept for retries.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::ledger::error::LedgerError;
use crate::ledger::operation::HoldId;

/// The result of keeping an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The answer is durable.
    Yes,
    /// The answer was not kept, because all kept answers together would exceed `[idempotency] max_total`.
    NoRoom,
}

/// How often the answer of a call was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replays {
    /// The number of replays.
    pub times: u64,
    /// The time of the last replay, in milliseconds since 1970.
    pub last_ms: i64,
}

/// A store that keeps answers for retries. Answers are sealed (encrypted): the store sees neither an answer nor its
/// key. The embedded ledger keeps them in a separate file, the cluster ledger in a table in Postgres.
#[async_trait]
pub trait Answers: fmt::Debug + Send + Sync + 'static {
    /// The ledger's own secret, generated together with the ledger. It recognises repeated requests, and seals the
    /// answers to an SDK's retries. All gateways of a ledger have the same secret.
    fn secret(&self) -> &[u8; 32];

    /// Keeps the sealed answer of a call until `until_ms`, in milliseconds since 1970. The answer is durable when this
    /// function returns. Keeping the answer of the same call again changes nothing.
    ///
    /// # Errors
    /// Fails if the store cannot write; the answer is then not kept.
    async fn keep(&self, call: &HoldId, sealed: Bytes, until_ms: i64) -> Result<Kept, LedgerError>;

    /// Reads the sealed answer of a call; `None` if the answer was not kept or its time is up.
    ///
    /// # Errors
    /// Fails if the store cannot read.
    async fn read(&self, call: &HoldId) -> Result<Option<Bytes>, LedgerError>;

    /// Counts a replay of the answer of a call, for people who read the call's entry. Returns at once: the count is
    /// written a moment later, so a crash may lose it.
    fn count_replay(&self, call: &HoldId);
}
