//! Two caches: verified tokens, so that each signature is checked once, and the accounts that
//! service keys have named.

use std::time::Duration;

use quick_cache::sync::Cache;

use crate::account::AccountId;
use crate::identify::jwt::Verified;
use crate::ledger::KeyHash;

/// The most tokens in the cache. At about 200 bytes each, the cache stays near 10 MB. When it is full,
/// the tokens used least are dropped, and verified again on their next call.
const CAPACITY: usize = 50_000;

/// Verified tokens by their SHA-256. The tokens themselves are not stored, so a memory dump of the
/// cache has no credential in it.
pub(super) struct VerifiedTokens(Cache<KeyHash, Verified>);

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl VerifiedTokens {
    /// The result for this token, as long as `now` (since the epoch) is before its `exp`. The
    /// leeway for clocks is used in verification only: a token that is past its `exp` is verified
    /// on each call.
    pub(super) fn get(&self, hash: &KeyHash, now: Duration) -> Option<Verified> {
        self.0.get(hash).filter(|verified| now < verified.exp)
    }

    /// Stores a result, in place of an earlier one. Returns true if there was no earlier one.
    pub(super) fn insert(&self, hash: KeyHash, verified: Verified) -> bool {
        let new = self.0.peek(&hash).is_none();
        self.0.insert(hash, verified);
        new
    }

    /// Removes a token.
    pub(super) fn remove(&self, hash: &KeyHash) {
        self.0.remove(hash);
    }
}

/// Existing accounts that service keys have named.
pub(super) struct NamedAccounts(Cache<AccountId, ()>);

impl Default for NamedAccounts {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl NamedAccounts {
    /// True if the account is in the cache.
    pub(super) fn has(&self, account: &AccountId) -> bool {
        self.0.get(account).is_some()
    }

    /// Adds an account.
    pub(super) fn insert(&self, account: &AccountId) {
        self.0.insert(account.clone(), ());
    }
}
