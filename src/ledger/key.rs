//! API keys as the ledger stores them: by their hash.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::account::AccountId;

/// The SHA-256 of a credential. The ledger stores no other part of the credential. A fast hash
/// without a salt is enough, because a key has more random bits than anyone can search through. As
/// text, the hash is 64 hex digits.
///
/// A lookup need not take constant time. Its time depends on the hash of the guessed credential, and
/// a credential cannot be computed from its hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; 32]);

/// The reason why a text is not a [`KeyHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key hash is the SHA-256 of the key in 64 hexadecimal digits")]
pub struct KeyHashError;

impl KeyHash {
    /// Hashes a credential as a client sends it.
    pub fn of(credential: &str) -> Self {
        Self(Sha256::digest(credential).into())
    }

    /// The hash's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads stored bytes; `None` if there are not 32.
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
    /// The id by which the key is listed and revoked; not a secret.
    pub id: Arc<str>,
    /// The hash by which the key is found.
    pub hash: KeyHash,
    /// The account that calls with the key.
    pub account: AccountId,
    /// The name in the owner's words.
    pub name: Arc<str>,
    /// True for a service key, which may name another account.
    pub service: bool,
    /// The first and last characters of the key, which identify it in a list (`fb_Ab3d…x9Yz`). Empty
    /// for an imported key, because only its hash is known.
    pub hint: Arc<str>,
    /// The time at which the key was made, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// The time of the revocation, in milliseconds since 1970. A key with a time here is refused, even
    /// if the time is in the future.
    pub revoked_at_ms: Option<i64>,
}

/// The API keys that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChanges {
    /// The number of the last change.
    pub version: i64,
    /// The keys that are new or changed, in their present state.
    pub keys: Vec<KeyRecord>,
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
