//! The ways in which the embedded ledger decides a batch and makes it durable.

use crate::ledger::Durability;
use crate::ledger::operation::{Operation, Origin};
use crate::ledger::rules::state::Lookups;

/// The way in which a batch is decided and made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// The batch is answered before it is written.
    InMemory,
    /// The batch counts once it is in the log of batches.
    ByLog,
    /// The batch counts once its rows are written.
    OnDisk,
}

impl Decided {
    /// Chooses the way of a batch. A batch is one commit, so the whole batch waits for the disk if one operation has
    /// to.
    pub fn of(batch: &[Operation], durability: Durability, wanted: &Lookups) -> Self {
        if batch.iter().all(|o| is_answered_from_memory(durability, o)) {
            Self::InMemory
        } else if durability == Durability::Strict
            && wanted.are_claims()
            && batch.iter().all(is_logged)
        {
            Self::ByLog
        } else {
            Self::OnDisk
        }
    }
}

/// Whether the operation is answered before it is written: operations of calls are, in `relaxed`. A hold made through
/// the API waits for the disk, because it outlives a crash and is captured by its id alone: if the hold were lost, its
/// debit would be lost much later.
fn is_answered_from_memory(durability: Durability, operation: &Operation) -> bool {
    durability == Durability::Relaxed
        && match operation {
            Operation::Renew { .. }
            | Operation::MarkClaim { .. }
            | Operation::Leave { .. }
            | Operation::Balance { .. } => true,
            other => other.origin() == Some(Origin::Call),
        }
}

/// Whether `strict` commits the operation to the log. If their holds are in memory, such operations change nothing but
/// calls' holds, entries, balances and claims.
fn is_logged(operation: &Operation) -> bool {
    match operation {
        Operation::MarkClaim { .. } | Operation::Leave { .. } | Operation::Balance { .. } => true,
        Operation::Abandon { .. } => false,
        other => other.origin() == Some(Origin::Call),
    }
}

/// Whether the operation is on the whole file. Such operations run between batches.
pub(crate) fn is_on_whole_file(operation: &Operation) -> bool {
    matches!(operation, Operation::Audit | Operation::Fold { .. })
}
