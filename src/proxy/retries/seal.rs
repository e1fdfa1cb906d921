//! Encrypts the answers that are kept. An answer is a customer's data, so the contents of the store
//! alone must not be enough to read it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

use super::request::RequestHash;
use crate::ledger::HoldId;

/// HKDF's name for this purpose and for the version of the sealed form.
const PURPOSE: &[u8] = b"farebox kept answer 1";

/// Seals and opens one answer. HKDF-SHA-256 derives the encryption key from the ledger's secret,
/// the idempotency key and the hash of the request. The last two are not stored. For an SDK's retry
/// without a key, the idempotency key is empty.
pub(super) struct Seal(RandomizedNonceKey);

/// The reason why an answer cannot be sealed or opened: it was made under another key, or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed answer cannot be opened")]
pub(super) struct Unsealable;

impl From<Unspecified> for Unsealable {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

impl Seal {
    /// Creates the seal for the answer of `call`.
    ///
    /// # Errors
    /// The key cannot be derived. All lengths are fixed, so this does not occur.
    pub fn new(
        secret: &[u8; 32],
        key: &[u8],
        request: &RequestHash,
        call: &HoldId,
    ) -> Result<Self, Unsealable> {
        let material = [request.as_bytes(), key].concat();
        let call = call.as_str().as_bytes();
        let derived = Salt::new(HKDF_SHA256, secret).extract(&material);
        let mut bytes = [0; 32];
        derived.expand(&[PURPOSE, call], &AES_256_GCM)?.fill(&mut bytes)?;
        Ok(Self(RandomizedNonceKey::new(&AES_256_GCM, &bytes)?))
    }

    /// Encrypts an answer. The result is the nonce, the ciphertext and the tag.
    ///
    /// # Errors
    /// [`Unsealable`].
    pub fn seal(&self, mut answer: Vec<u8>) -> Result<Vec<u8>, Unsealable> {
        let nonce = self.0.seal_in_place_append_tag(Aad::empty(), &mut answer)?;
        answer.splice(..0, *nonce.as_ref());
        Ok(answer)
    }

    /// Decrypts a sealed answer.
    ///
    /// # Errors
    /// [`Unsealable`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        let mut answer = rest.to_vec();
        let length = self.0.open_in_place(nonce.into(), Aad::empty(), &mut answer)?.len();
        answer.truncate(length);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::price::CanonicalPath;
    use crate::proxy::retries::request::Hashing;
    use crate::proxy::target::Target;

    fn request(body: &[u8]) -> RequestHash {
        let path = CanonicalPath::parse(b"/a").unwrap();
        let target = Target { path, query: String::new(), nominated: Vec::new() };
        let mut hashing = Hashing::begin(&Method::POST, &target, &HeaderMap::new());
        hashing.body(body);
        hashing.end()
    }

    #[test]
    fn an_answer_is_opened_by_its_own_key_request_call_and_ledger_alone() {
        let (first, second) = (HoldId::for_call(), HoldId::for_call());
        let seal = |secret: u8, key: &str, body: &[u8], call: &HoldId| {
            Seal::new(&[secret; 32], key.as_bytes(), &request(body), call).unwrap()
        };
        let own = seal(1, "key", b"body", &first);
        for answer in [&b""[..], b"secret words", &[0; 100_000]] {
            let sealed = own.seal(answer.to_vec()).unwrap();
            assert!(answer.is_empty() || !sealed.windows(12).any(|part| answer.starts_with(part)));
            assert_eq!(seal(1, "key", b"body", &first).open(&sealed).unwrap(), answer);
            for other in [
                seal(2, "key", b"body", &first),
                seal(1, "kex", b"body", &first),
                seal(1, "", b"body", &first),
                seal(1, "key", b"bodx", &first),
                seal(1, "key", b"body", &second),
            ] {
                assert_eq!(other.open(&sealed), Err(Unsealable));
            }
            for at in [0, 11, 12, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(own.open(&changed), Err(Unsealable), "byte {at}");
            }
        }
        assert_eq!(own.open(b"short"), Err(Unsealable));
    }
}
