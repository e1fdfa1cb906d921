//! Ends of holds that this gateway still has to carry out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::operation::{HoldId, Operation};

/// How long nothing is tried again after an attempt that failed: at first, and after many. Calls of the same accounts wait
/// for each attempt.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(1);

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
    /// The earliest time of the next attempt to decide them, and how long the wait until then is; `None` if the last
    /// attempt decided all that it tried.
    retry: Option<(Instant, Duration)>,
}

impl Debts {
    /// Adds operations, to be decided with the next batch, or later if the last attempt has failed just now.
    pub fn owe(&self, operations: impl IntoIterator<Item = Operation>) {
        lock(&self.owed).operations.extend(operations);
    }

    /// Ends an attempt: puts back the operations that could not be decided. If there are any, nothing is tried again at
    /// once.
    pub fn put_back(&self, undecided: impl IntoIterator<Item = Operation>) {
        let mut owed = lock(&self.owed);
        let before = owed.operations.len();
        owed.operations.extend(undecided);
        owed.retry = (owed.operations.len() > before).then(|| {
            let wait = owed.retry.map_or(RETRY_AFTER, |(_, wait)| wait * 2);
            let wait = wait.min(RETRY_AFTER_AT_MOST);
            (Instant::now() + wait, wait)
        });
    }

    /// Takes all operations out. The caller must put back the operations that it cannot decide.
    pub fn take_owed(&self) -> Vec<Operation> {
        std::mem::take(&mut lock(&self.owed).operations)
    }

    /// Whether there are operations to be tried now.
    pub fn are_due(&self) -> bool {
        let owed = lock(&self.owed);
        !owed.operations.is_empty() && owed.retry.is_none_or(|(at, _)| at <= Instant::now())
    }

    /// The number of operations to decide.
    pub fn len(&self) -> usize {
        lock(&self.owed).operations.len()
    }

    /// Whether there are no operations to decide.
    pub fn is_empty(&self) -> bool {
        lock(&self.owed).operations.is_empty()
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
