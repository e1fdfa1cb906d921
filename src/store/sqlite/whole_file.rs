//! Operations on the whole file. They run alone, between batches, and a failure changes nothing.

use crate::ledger::operation::{Outcome, Refusal};
use crate::ledger::report::FoldCursor;
use crate::ledger::rules::state::{Now, State};
use crate::store::sqlite::disk::Disk;
use crate::store::sqlite::fold::fold_slice;
use crate::store::sqlite::{compare, load};

/// Compares memory with the file.
pub(crate) async fn audit(disk: &mut Disk, state: &State, now: Now) -> Outcome {
    let stored = match disk.writer.get().await {
        Ok(connection) => load::state(connection, now).await,
        Err(error) => Err(error.into()),
    };
    match stored {
        Ok((stored, _)) => Outcome::Audited(compare::differences(state, &stored)),
        Err(error) => {
            tracing::error!(%error, "the ledger cannot be read");
            disk.writer.discard();
            Outcome::Refused(Refusal::Unavailable)
        }
    }
}

/// Folds the next slice of the entries older than `before_ms` (milliseconds since 1970).
pub(crate) async fn fold(disk: &mut Disk, before_ms: i64, from: Option<&FoldCursor>) -> Outcome {
    let folded = match disk.writer.get().await {
        Ok(connection) => fold_slice(connection, before_ms, from).await,
        Err(error) => Err(error),
    };
    match folded {
        Ok((report, next)) => Outcome::Folded { report, next },
        Err(error) => {
            tracing::error!(%error, "old entries could not be folded");
            disk.writer.discard();
            Outcome::Refused(Refusal::Unavailable)
        }
    }
}
