//! Makes `Stripe-Signature` headers, for long runs with many events. A test compares them with
//! those of Stripe's own SDK.

use sha2::{Digest as _, Sha256};

/// The header for these bytes, signed at the time `at` (seconds since 1970).
pub fn header(body: &str, secret: &str, at: i64) -> String {
    format!("t={at},v1={}", scheme_v1(body, secret, at))
}

/// Only the value of `v1=`, in hexadecimal.
pub fn scheme_v1(body: &str, secret: &str, at: i64) -> String {
    hmac_sha256(secret.as_bytes(), format!("{at}.{body}").as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let key = if key.len() > BLOCK { Sha256::digest(key).to_vec() } else { key.to_vec() };
    let padded = |byte: u8| {
        let mut block = [byte; BLOCK];
        block.iter_mut().zip(&key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}
