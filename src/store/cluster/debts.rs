//! Ends of holds that this gateway still has to carry out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::operation::{HoldId, Operation};

/// How long operations that could not be decided are not tried again. Calls of the same accounts wait for each attempt.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A hold that has to expire, with the route of its call.
pub(crate) type Expiring = (HoldId, Arc<str>);

/// Captures, releases and expiries that this gateway must still carry out. No other gateway knows
/// of them.
#[derive(Debug, Default)]
pub(crate) struct Debts {
    owed: Mutex<Owed>,
    /// Holds of calls whose gateway is lost.
    expiring: Mutex<Vec<Expiring>>,
}

/// Releases of holds that Redis may have granted although their callers got 503. Also operations from an epoch that
/// ended before this gateway could hand them over.
#[derive(Debug, Default)]
struct Owed {
    operations: Vec<Operation>,
    /// The earliest time of the next attempt to decide them; `None` if they may be tried at once.
    retry_at: Option<Instant>,
}

impl Debts {
    /// Adds operations, to be decided with the next batch.
    pub fn owe(&self, operations: impl IntoIterator<Item = Operation>) {
        let mut owed = lock(&self.owed);
        owed.operations.extend(operations);
        owed.retry_at = None;
    }

    /// Puts back operations that were taken out and could not be decided. They are not tried again at once.
    pub fn put_back(&self, undecided: impl IntoIterator<Item = Operation>) {
        let mut owed = lock(&self.owed);
        owed.operations.extend(undecided);
        owed.retry_at = Some(Instant::now() + RETRY_AFTER);
    }

    /// Takes all operations out. The caller must put back the operations that it cannot decide.
    pub fn take_owed(&self) -> Vec<Operation> {
        std::mem::take(&mut lock(&self.owed).operations)
    }

    /// Like [`Self::take_owed`], but takes nothing shortly after an attempt that failed.
    pub fn take_due(&self) -> Vec<Operation> {
        let mut owed = lock(&self.owed);
        let is_due =
            !owed.operations.is_empty() && owed.retry_at.is_none_or(|at| at <= Instant::now());
        if is_due { std::mem::take(&mut owed.operations) } else { Vec::new() }
    }

    /// Whether the operations include a charge. No store knows of such a charge yet.
    pub fn has_charges(&self) -> bool {
        lock(&self.owed).operations.iter().any(Operation::is_charge)
    }

    /// Adds holds, to expire with the next sweep.
    pub fn expire(&self, holds: impl IntoIterator<Item = Expiring>) {
        lock(&self.expiring).extend(holds);
    }

    /// Takes all holds out. The caller must put back the holds that it cannot end.
    pub fn take_expiring(&self) -> Vec<Expiring> {
        std::mem::take(&mut *lock(&self.expiring))
    }
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
