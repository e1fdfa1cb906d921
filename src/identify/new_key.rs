//! Generates API keys.

use crate::config::Secret;
use crate::ledger::KeyHash;

const PREFIX: &str = "fb_";
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The digits of a key: 43 digits of base 62 are 256 random bits. All are letters and digits, so
/// that a double click selects the whole key.
const DIGITS: usize = 43;

/// The number of digits that a hint shows at either end. The 208 bits between them stay secret.
const SHOWN: usize = 4;

/// A new key. It is shown once, to the caller who asked for it; afterwards only its hash exists.
#[derive(Debug)]
pub struct NewKey {
    /// The key: `fb_` and 43 letters or digits.
    pub key: Secret,
    /// The hash to store.
    pub hash: KeyHash,
    /// The hint to show in lists: `fb_Ab3d…x9Yz`.
    pub hint: String,
}

impl NewKey {
    /// Generates a key from the system's randomness.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = String::from(PREFIX);
        let mut random = [0; 64];
        while key.len() < PREFIX.len() + DIGITS {
            getrandom::fill(&mut random)?;
            let missing = PREFIX.len() + DIGITS - key.len();
            // 248 is 4 × 62. Larger bytes would make the first digits of base 62 more likely.
            let fair = random.iter().filter(|byte| **byte < 248).take(missing);
            key.extend(fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
        }
        let hint = format!("{}…{}", &key[..PREFIX.len() + SHOWN], &key[key.len() - SHOWN..]);
        Ok(Self { hash: KeyHash::of(&key), hint, key: Secret::new(key) })
    }
}
