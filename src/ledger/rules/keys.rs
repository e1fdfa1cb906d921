//! The rules of API keys.

use std::sync::Arc;

use crate::credits::Credits;
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Outcome, Refusal};
use crate::ledger::rules::context::Rules;
use crate::ledger::rules::state::KnownKeys;

impl Rules<'_> {
    /// Stores the keys that are not stored yet, and opens their accounts.
    pub(super) fn put_keys(&mut self, keys: &[KeyRecord]) -> Result<Outcome, Refusal> {
        let (mut new, mut in_order) = (KnownKeys::default(), Vec::new());
        for key in keys {
            if !is_known(key, &self.known.keys)? && !is_known(key, &new)? {
                new.insert(key.clone());
                in_order.push(key);
            }
        }
        for key in &in_order {
            self.open(&key.account, Credits::ZERO)?;
            self.changes.keys_added.push((*key).clone());
            self.known.keys.insert((*key).clone());
        }
        Ok(Outcome::KeysStored { new: in_order.len() })
    }

    /// Revokes a key. If the key was revoked before, the time of that revocation stays.
    pub(super) fn revoke_key(&mut self, id: &Arc<str>) -> Result<Outcome, Refusal> {
        let key = self.known.keys.by_id_mut(id);
        let key = key.ok_or(Refusal::UnknownKey)?;
        if key.revoked_at_ms.is_none() {
            key.revoked_at_ms = Some(self.now.wall_ms);
            self.changes.keys_revoked.push(id.clone());
        }
        Ok(Outcome::KeyRevoked)
    }
}

/// Whether `known` has the key, for the same account. Refuses a key that differs from the known
/// one.
fn is_known(key: &KeyRecord, known: &KnownKeys) -> Result<bool, Refusal> {
    match known.by_hash(&key.hash) {
        Some(same) if same.account == key.account => Ok(true),
        Some(_) => Err(Refusal::Conflict),
        None if known.by_id(&key.id).is_some() => Err(Refusal::Conflict),
        None => Ok(false),
    }
}
