//! API keys as the ledger stores them: by hash.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ahash::HashMap;
use sha2::{Digest, Sha256};

use crate::account::AccountId;

/// The SHA-256 of a credential; all that is kept of one. Unsalted and fast is enough: keys carry
/// more random bits than anyone can search. Reads and displays as 64 hex digits.
///
/// Looking one up need not take constant time: what a look-up's time may tell is about the hash
/// of the guess, and nobody can steer a SHA-256 towards a hash they half know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; 32]);

/// Why a text is not a [`KeyHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key hash is the SHA-256 of the key in 64 hexadecimal digits")]
pub struct KeyHashError;

impl KeyHash {
    /// The hash of a credential as it is sent.
    pub fn of(credential: &str) -> Self {
        Self(Sha256::digest(credential).into())
    }

    /// The hash's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl FromStr for KeyHash {
    type Err = KeyHashError;
    fn from_str(text: &str) -> Result<Self, KeyHashError> {
        let text = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let nibble = |c: u8| char::from(c).to_digit(16).map(|d| d as u8).ok_or(KeyHashError);
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(KeyHashError);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// An API key as it is stored and listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// By which it is listed and revoked; no secret.
    pub id: Arc<str>,
    /// By which it is found.
    pub hash: KeyHash,
    /// Who calls with it.
    pub account: AccountId,
    /// In the owner's words.
    pub name: Arc<str>,
    /// A service key: it may name another account.
    pub service: bool,
    /// Enough of the key to recognise it in a list (`fb_Ab3d…x9Yz`); empty for an imported one,
    /// of which only the hash is known.
    pub hint: Arc<str>,
    /// In milliseconds since 1970.
    pub created_at_ms: i64,
    /// In milliseconds since 1970; refused once it is set, even if it lies ahead.
    pub revoked_at_ms: Option<i64>,
}

/// The keys that are stored already, of those that a batch names by id or hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownKeys {
    by_hash: HashMap<KeyHash, KeyRecord>,
    hash_of: HashMap<Arc<str>, KeyHash>,
}

impl KnownKeys {
    pub fn insert(&mut self, key: KeyRecord) {
        self.hash_of.insert(key.id.clone(), key.hash);
        self.by_hash.insert(key.hash, key);
    }

    pub fn by_hash(&self, hash: &KeyHash) -> Option<&KeyRecord> {
        self.by_hash.get(hash)
    }

    pub fn by_id(&self, id: &str) -> Option<&KeyRecord> {
        self.by_hash.get(self.hash_of.get(id)?)
    }

    pub fn by_id_mut(&mut self, id: &str) -> Option<&mut KeyRecord> {
        self.by_hash.get_mut(self.hash_of.get(id)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_and_nothing_else_does() {
        let hash = KeyHash::of("sk-123");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(
            format!("sha256:{hash}").to_uppercase().replace("SHA256", "sha256").parse(),
            Ok(hash)
        );
        for bad in ["", "abc", &"g".repeat(64), &"é".repeat(32), &"0".repeat(63)] {
            assert_eq!(bad.parse::<KeyHash>(), Err(KeyHashError), "{bad}");
        }
    }
}
