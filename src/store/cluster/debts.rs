//! Ends of holds that this gateway still has to carry out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::operation::{HoldId, Operation};

/// A hold that has to expire, with the route of its call.
pub(crate) type Expiring = (HoldId, Arc<str>);

/// Captures, releases and expiries that this gateway must still carry out. No other gateway knows
/// of them.
#[derive(Debug, Default)]
pub(crate) struct Debts {
    /// Releases of holds that Redis may have granted although their callers got 503. Also
    /// operations from an epoch that ended before this gateway could hand them over.
    owed: Mutex<Vec<Operation>>,
    /// Holds of calls whose gateway is lost.
    expiring: Mutex<Vec<Expiring>>,
}

impl Debts {
    /// Adds operations, to be decided with the next batch.
    pub fn owe(&self, operations: impl IntoIterator<Item = Operation>) {
        lock(&self.owed).extend(operations);
    }

    /// Takes all operations out. The caller must put back the operations that it cannot decide, as `owed` does.
    pub fn take_owed(&self) -> Vec<Operation> {
        std::mem::take(&mut *lock(&self.owed))
    }

    /// Whether the operations include a charge. No store knows of such a charge yet.
    pub fn has_charges(&self) -> bool {
        lock(&self.owed).iter().any(Operation::is_charge)
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

fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
