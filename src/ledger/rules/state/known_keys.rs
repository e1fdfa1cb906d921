//! The API keys that a batch names, as they are stored.

use std::sync::Arc;

use ahash::HashMap;

use crate::ledger::key::{KeyHash, KeyRecord};

/// API keys by hash and by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownKeys {
    by_hash: HashMap<KeyHash, KeyRecord>,
    hash_of: HashMap<Arc<str>, KeyHash>,
}

impl KnownKeys {
    /// Adds a key.
    pub fn insert(&mut self, key: KeyRecord) {
        self.hash_of.insert(key.id.clone(), key.hash);
        self.by_hash.insert(key.hash, key);
    }

    /// The key with this hash.
    pub fn by_hash(&self, hash: &KeyHash) -> Option<&KeyRecord> {
        self.by_hash.get(hash)
    }

    /// The key with this id.
    pub fn by_id(&self, id: &str) -> Option<&KeyRecord> {
        self.by_hash.get(self.hash_of.get(id)?)
    }

    /// The key with this id, to be changed.
    pub fn by_id_mut(&mut self, id: &str) -> Option<&mut KeyRecord> {
        self.by_hash.get_mut(self.hash_of.get(id)?)
    }
}
