//! Decides the operations that this gateway owes (`debts`).

use std::sync::Arc;

use crate::ledger::operation::Operation;
use crate::store::cluster::redis::reply::Verdict;
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::work::{self, MAX_BATCH};

/// Decides owed operations. The operations that cannot be decided are put back, and are tried again after a moment.
pub(crate) async fn decide_owed(shared: &Shared, mut owed: Taken) {
    while let Some(some) = owed.next(MAX_BATCH) {
        let items: Vec<_> = some.iter().map(BatchItem::Operation).collect();
        let decisions = work::decide(shared, &items).await;
        let decided = decisions.iter().map(|decision| decision.verdict != Verdict::Unavailable);
        owed.settle(decided.collect());
    }
}

/// Operations that were taken out of the debts. Operations that are not settled are put back when this value is dropped,
/// so an aborted task loses none.
#[derive(Debug)]
pub(crate) struct Taken {
    shared: Arc<Shared>,
    left: Vec<Operation>,
    undecided: Vec<Operation>,
    /// The number of leading operations in `left` that are being decided.
    asked: usize,
}

impl Taken {
    /// Takes out all operations that are owed.
    pub fn all(shared: &Arc<Shared>) -> Self {
        let left = shared.debts.take_owed();
        Self { shared: shared.clone(), left, undecided: Vec::new(), asked: 0 }
    }

    /// The operations that are not settled yet.
    pub fn operations(&self) -> &[Operation] {
        &self.left
    }

    /// The next operations to decide, at most `most`; `None` after the last ones.
    pub fn next(&mut self, most: usize) -> Option<Vec<Operation>> {
        self.asked = most.min(self.left.len());
        (self.asked > 0).then(|| self.left[..self.asked].to_vec())
    }

    /// Settles those operations of the last [`Self::next`] that were decided.
    pub fn settle(&mut self, were_decided: Vec<bool>) {
        let decided = self.left.drain(..self.asked).zip(were_decided);
        let undecided = decided.filter(|(_, decided)| !decided);
        self.undecided.extend(undecided.map(|(operation, _)| operation));
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let undecided = self.undecided.drain(..).chain(self.left.drain(..));
        self.shared.debts.put_back(undecided);
    }
}
