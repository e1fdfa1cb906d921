//! The holds of the calls in this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ahash::HashSet;

use crate::ledger::operation::HoldId;

/// The holds that must not expire: the holds of running calls, and holds whose end is not durable
/// yet.
#[derive(Debug, Default)]
pub(crate) struct LiveHolds {
    ids: Mutex<HashSet<HoldId>>,
    /// Whether a stop has cut off the calls that were still running.
    cut_off: AtomicBool,
}

impl LiveHolds {
    /// Adds the hold of a call that begins.
    pub fn insert(&self, id: HoldId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Removes a hold whose end is durable.
    pub fn remove(&self, id: &HoldId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The number of holds that must not expire.
    pub fn len(&self) -> usize {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether the hold must not expire.
    pub fn contains(&self, id: &HoldId) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Marks the calls that still run as cut off.
    pub fn cut_off(&self) {
        self.cut_off.store(true, Ordering::Relaxed);
    }

    /// Whether the calls that still run are cut off.
    pub fn are_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }
}
