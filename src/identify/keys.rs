//! The index of all API keys, by the SHA-256 of each key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::ledger::{KeyHash, KeyRecord};

/// The error for a key whose hash or id already belongs to another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this key exists already under another id, or this id under another key")]
pub struct KeyTaken;

/// Every API key, in memory. The ledger stores the keys; this is the index of the running process. A
/// change here applies to every later call.
///
/// Each lookup takes a read lock for tens of nanoseconds. Writes come a few times a day.
#[derive(Default)]
pub struct KeyRing {
    index: RwLock<Index>,
    /// Whether other gateways may have made keys that are not in the index, because the ledger does not answer.
    is_behind: AtomicBool,
}

#[derive(Default)]
struct Index {
    by_hash: HashMap<KeyHash, Arc<KeyRecord>>,
    hash_of: HashMap<Arc<str>, KeyHash>,
}

impl KeyRing {
    /// Adds a key or updates its record: a second insert of the same hash and id replaces the
    /// record, but never undoes a revocation.
    ///
    /// # Errors
    /// [`KeyTaken`]; nothing has changed then. Otherwise an import could move a key to another
    /// account, whose credits it would spend.
    pub fn insert(&self, mut record: KeyRecord) -> Result<(), KeyTaken> {
        let hash = record.hash;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let known = index.by_hash.get(&hash);
        if known.is_some_and(|known| known.id != record.id || known.account != record.account)
            || index.hash_of.get(&record.id).is_some_and(|other| *other != hash)
        {
            return Err(KeyTaken);
        }
        record.revoked_at_ms = known.and_then(|known| known.revoked_at_ms).or(record.revoked_at_ms);
        index.hash_of.insert(Arc::clone(&record.id), hash);
        index.by_hash.insert(hash, Arc::new(record));
        Ok(())
    }

    /// Revokes a key at `at_ms` (milliseconds since the Unix epoch). Returns false if the id is
    /// unknown. If the key was revoked before, its date stays.
    pub fn revoke(&self, id: &str, at_ms: i64) -> bool {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Some(hash) = index.hash_of.get(id).copied() else { return false };
        let Some(record) = index.by_hash.get_mut(&hash) else { return false };
        let record = Arc::make_mut(record);
        record.revoked_at_ms = record.revoked_at_ms.or(Some(at_ms));
        true
    }

    /// The key of this hash, revoked or not.
    pub fn get(&self, hash: &KeyHash) -> Option<Arc<KeyRecord>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.by_hash.get(hash).map(Arc::clone)
    }

    /// Records whether the keys that other gateways make can be read at the moment.
    pub fn note_behind(&self, is_behind: bool) {
        self.is_behind.store(is_behind, Ordering::Relaxed);
    }

    /// Whether a key that is not in the index may exist all the same.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// The number of keys, revoked ones included.
    pub fn len(&self) -> usize {
        self.index.read().unwrap_or_else(PoisonError::into_inner).by_hash.len()
    }

    /// True if there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
