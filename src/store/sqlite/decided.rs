//! The way in which the embedded ledger decides a batch.

use crate::ledger::Durability;
use crate::ledger::operation::{Operation, Origin};
use crate::ledger::rules::state::Lookups;

/// The way in which a batch is decided and made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It is answered before it is written.
    InMemory,
    /// It counts once it is in the log of batches.
    ByLog,
    /// It counts once its rows are written.
    OnDisk,
}

impl Decided {
    /// The way of a batch. A batch is one commit, so all of it waits for the disk if one operation has to.
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

/// True for operations that are answered before they are written: those of calls, in `relaxed`. A
/// hold made through the API waits for the disk, since it outlives a crash and is captured by its
/// id alone: if it were lost, a debit would be lost much later.
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

/// True for operations that `strict` commits to the log: where their holds are in memory, they touch nothing
/// but calls' holds, entries, balances and claims.
fn is_logged(operation: &Operation) -> bool {
    match operation {
        Operation::MarkClaim { .. } | Operation::Leave { .. } | Operation::Balance { .. } => true,
        Operation::Abandon { .. } => false,
        other => other.origin() == Some(Origin::Call),
    }
}

/// True for operations on the whole file, which run between batches.
pub(crate) fn is_on_whole_file(operation: &Operation) -> bool {
    matches!(operation, Operation::Audit | Operation::Fold { .. })
}
