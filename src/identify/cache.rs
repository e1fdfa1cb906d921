//! Remembers which tokens were verified, so that a signature costs its microseconds once.

use std::time::Duration;

use quick_cache::sync::Cache;

use super::jwt::Verified;
use crate::ledger::KeyHash;

/// How many tokens are remembered. At some 200 bytes each this stays near 10 MB; beyond it,
/// those used least are verified again.
const CAPACITY: usize = 50_000;

/// Verified tokens by their SHA-256. The tokens themselves are not kept: a memory dump of the
/// cache holds no credential.
pub(super) struct VerifiedTokens(Cache<KeyHash, Verified>);

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl VerifiedTokens {
    /// What was verified about this token, unless it has expired by `now` (since the epoch).
    pub(super) fn get(&self, hash: &KeyHash, now: Duration) -> Option<Verified> {
        self.0.get(hash).filter(|verified| now < verified.until)
    }

    /// Remembers it, in place of what was known before.
    pub(super) fn insert(&self, hash: KeyHash, verified: Verified) {
        self.0.insert(hash, verified);
    }

    /// Forgets it.
    pub(super) fn remove(&self, hash: &KeyHash) {
        self.0.remove(hash);
    }
}
