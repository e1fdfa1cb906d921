//! The releases of calls' holds that Redis may have granted although nobody hears of them.

use crate::ledger::claim::Claim;
use crate::ledger::operation::{NewHold, Operation, Origin};
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::shared::Shared;

/// The release of a call's hold that Redis may have granted although its caller gets 503.
pub(crate) fn release_of(operation: &Operation) -> Option<Operation> {
    let Operation::Hold(NewHold { id, account, origin: Origin::Call, claim, .. }) = operation
    else {
        return None;
    };
    let (hold, account) = (id.clone(), Some(account.clone()));
    let claim = match claim {
        Some(Claim::Key { id, .. }) => Some(*id),
        Some(Claim::Retry { .. }) | None => None,
    };
    Some(Operation::Release { hold, account, origin: Origin::Call, claim })
}

/// Releases of holds that Redis has granted, and that become owed when this is dropped: the work that would have
/// answered the holds has ended early.
pub(crate) struct Undo<'a> {
    shared: &'a Shared,
    releases: Vec<Operation>,
}

impl<'a> Undo<'a> {
    /// Creates the releases of those of these items that are holds of calls.
    pub fn new<'b>(shared: &'a Shared, granted: impl Iterator<Item = BatchItem<'b>>) -> Self {
        Self { shared, releases: granted.filter_map(release_of_item).collect() }
    }

    /// Replaces the releases by those of these items that are holds of calls.
    pub fn replace<'b>(&mut self, granted: impl Iterator<Item = BatchItem<'b>>) {
        self.releases.clear();
        self.releases.extend(granted.filter_map(release_of_item));
    }

    /// The holds are answered, or owed by others.
    pub fn forget(mut self) {
        self.releases.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.releases.is_empty() {
            self.shared.debts.owe(self.releases.drain(..));
        }
    }
}

/// Items that are on their way to Redis. If this is dropped, no reply is awaited any more, and the releases of the calls'
/// holds among them become owed.
pub(crate) struct Sending<'a> {
    shared: &'a Shared,
    items: &'a [BatchItem<'a>],
    places: &'a [usize],
}

impl<'a> Sending<'a> {
    /// The items at these places are about to be sent.
    pub fn new(shared: &'a Shared, items: &'a [BatchItem<'a>], places: &'a [usize]) -> Self {
        Self { shared, items, places }
    }

    /// There is a reply, or the sender takes care of the items that have none.
    pub fn end(mut self) {
        self.places = &[];
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.places.is_empty() {
            let items = self.places.iter().map(|place| self.items[*place]);
            self.shared.debts.owe(items.filter_map(release_of_item));
        }
    }
}

fn release_of_item(item: BatchItem<'_>) -> Option<Operation> {
    match item {
        BatchItem::Operation(operation) => release_of(operation),
        BatchItem::Expire { .. } => None,
    }
}
