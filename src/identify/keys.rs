//! API keys: which ones there are, by the SHA-256 of each.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::account::AccountId;

/// The SHA-256 of a credential; all that is kept of one. Unsalted and fast is enough: keys carry
/// more random bits than anyone can search. Reads and displays as 64 hex digits.
///
/// Looking one up need not take constant time: what a look-up's time may tell is about the hash
/// of the guess, and nobody can steer a SHA-256 towards a hash they half know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

/// A text is no SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key's hash is its SHA-256 as 64 hex digits")]
pub struct KeyHashError;

/// What is known of a key, in memory and in lists. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Names the key where it is revoked.
    pub id: Arc<str>,
    /// Whose credits it spends.
    pub account: AccountId,
    /// What its owner calls it.
    pub name: String,
    /// A service key may act for other accounts.
    pub service: bool,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// Milliseconds since the Unix epoch; refused once it is set, even if it lies ahead.
    pub revoked_at_ms: Option<i64>,
    /// Enough of the key to recognise it in a list (`fb_Ab3d…x9Yz`); empty for an imported one,
    /// of which only the hash is known.
    pub hint: String,
}

/// The hash or the id belongs to another key already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this key exists already under another id, or this id under another key")]
pub struct KeyTaken;

/// Every key, in memory. The ledger keeps them; this is its index for the running process, and
/// what changes here holds for every call that follows.
///
/// Each look-up takes a read lock for tens of nanoseconds; writers come a few times a day.
#[derive(Default)]
pub struct KeyRing(RwLock<Index>);

#[derive(Default)]
struct Index {
    by_hash: HashMap<KeyHash, Arc<KeyRecord>>,
    hash_of: HashMap<Arc<str>, KeyHash>,
}

impl KeyRing {
    /// Adds a key, or brings what is known of it up to date: a second insert of the same hash
    /// and id replaces the record, but never undoes a revocation.
    ///
    /// # Errors
    /// [`KeyTaken`], and nothing changes: a key that moved to another owner by an import would
    /// spend that one's credits.
    pub fn insert(&self, hash: KeyHash, mut record: KeyRecord) -> Result<(), KeyTaken> {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
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

    /// Revokes a key at `at_ms` (milliseconds since the Unix epoch). False when there is none of
    /// this id; a key that was revoked before keeps its date.
    pub fn revoke(&self, id: &str, at_ms: i64) -> bool {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(hash) = index.hash_of.get(id).copied() else { return false };
        let Some(record) = index.by_hash.get_mut(&hash) else { return false };
        let record = Arc::make_mut(record);
        record.revoked_at_ms = record.revoked_at_ms.or(Some(at_ms));
        true
    }

    /// The key of this hash, revoked or not.
    pub fn get(&self, hash: &KeyHash) -> Option<Arc<KeyRecord>> {
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        index.by_hash.get(hash).map(Arc::clone)
    }

    /// How many keys there are, revoked ones included.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_hash.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl KeyHash {
    /// The hash of a credential as it is sent.
    pub fn of(credential: &str) -> Self {
        Self(Sha256::digest(credential).into())
    }

    /// A hash as the ledger stores it.
    pub const fn from_bytes(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// For the ledger to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for KeyHash {
    type Err = KeyHashError;
    fn from_str(text: &str) -> Result<Self, KeyHashError> {
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(KeyHashError);
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(KeyHashError) };
        let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| KeyHashError)?;
        let mut hash = [0; 32];
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            // Two digits of 0 to 15, so the cast keeps the value.
            *byte = (digit(*high)? * 16 + digit(*low)?) as u8;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}
