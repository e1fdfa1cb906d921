//! Remembers which tokens were verified, so that a signature costs its microseconds once; and whom
//! service keys have named.

use std::time::Duration;

use quick_cache::sync::Cache;

use super::jwt::Verified;
use crate::account::AccountId;
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
    /// What was verified about this token, as long as `now` (since the epoch) is before its `exp`. A
    /// clock's leeway is granted by verifying alone: after `exp` that is done on each call.
    pub(super) fn get(&self, hash: &KeyHash, now: Duration) -> Option<Verified> {
        self.0.get(hash).filter(|verified| now < verified.exp)
    }

    /// Remembers it, in place of what was known before; whether nothing was.
    pub(super) fn insert(&self, hash: KeyHash, verified: Verified) -> bool {
        let new = self.0.peek(&hash).is_none();
        self.0.insert(hash, verified);
        new
    }

    /// Forgets it.
    pub(super) fn remove(&self, hash: &KeyHash) {
        self.0.remove(hash);
    }
}

/// Accounts that service keys have named, and that exist.
pub(super) struct NamedAccounts(Cache<AccountId, ()>);

impl Default for NamedAccounts {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl NamedAccounts {
    /// Whether the account is remembered.
    pub(super) fn has(&self, account: &AccountId) -> bool {
        self.0.get(account).is_some()
    }

    /// Remembers it.
    pub(super) fn insert(&self, account: &AccountId) {
        self.0.insert(account.clone(), ());
    }
}
