//! Ends of holds that this gateway still has to carry out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::operation::{HoldId, Operation};
use crate::store::cluster::shared::Shared;

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

    /// Takes all operations out. The caller must add those again that cannot be decided; [`Taken`] does that by itself.
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

    /// Takes all holds out. The caller must add those again that cannot be ended.
    pub fn take_expiring(&self) -> Vec<Expiring> {
        std::mem::take(&mut *lock(&self.expiring))
    }
}

/// Operations that were taken out of the debts. Those that are not settled go back when this is dropped, so a task that is
/// aborted loses none.
#[derive(Debug)]
pub(crate) struct Taken {
    shared: Arc<Shared>,
    left: Vec<Operation>,
    undecided: Vec<Operation>,
    /// How many of `left` are being decided.
    asked: usize,
}

impl Taken {
    /// Takes the operations out that are owed; `None` if there are none.
    pub fn from(shared: &Arc<Shared>) -> Option<Self> {
        let left = shared.debts.take_owed();
        let (shared, undecided) = (shared.clone(), Vec::new());
        (!left.is_empty()).then_some(Self { shared, left, undecided, asked: 0 })
    }

    /// The operations that are not settled.
    pub fn operations(&self) -> &[Operation] {
        &self.left
    }

    /// The next operations to decide, at most `most`; `None` after the last ones.
    pub fn next(&mut self, most: usize) -> Option<Vec<Operation>> {
        self.asked = most.min(self.left.len());
        (self.asked > 0).then(|| self.left[..self.asked].to_vec())
    }

    /// Settles those of [`Self::next`] that were decided.
    pub fn settle(&mut self, were_decided: Vec<bool>) {
        let decided = self.left.drain(..self.asked).zip(were_decided);
        let undecided = decided.filter(|(_, decided)| !decided);
        self.undecided.extend(undecided.map(|(operation, _)| operation));
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let undecided = self.undecided.drain(..).chain(self.left.drain(..));
        self.shared.debts.owe(undecided);
    }
}

fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
