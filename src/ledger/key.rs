//! API keys as the ledger stores them: by hash.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::account::AccountId;

/// The SHA-256 of an API key: all that is ever stored of one. The keys are 128 and more random
/// bits, so a plain hash cannot be turned back, and nothing slower is called for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; 32]);

/// Why a text is not a [`KeyHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key hash is the SHA-256 of the key in 64 hexadecimal digits")]
pub struct KeyHashError;

impl KeyHash {
    /// Hashes a key as a client sends it.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
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
    /// The key's first characters, to tell keys apart in a list; empty for imported ones.
    pub hint: Arc<str>,
    /// In milliseconds since 1970.
    pub created_at_ms: i64,
    /// In milliseconds since 1970; a revoked key identifies nobody.
    pub revoked_at_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_and_nothing_else_does() {
        let hash = KeyHash::of(b"sk-123");
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
