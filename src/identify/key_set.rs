//! The keys in one JWKS (RFC 7517) that verify signatures.

use std::collections::HashSet;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// With how many of the keys that suit it a token without `kid` is tried: this bounds the work that a
/// stranger can cause.
const MAX_TRIES: usize = 32;

/// The keys of one fetch. How many there are is bounded by the size of what is fetched.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<PublishedKey>,
    generation: u64,
}

#[derive(Debug)]
struct PublishedKey {
    jwk: Jwk,
    key: DecodingKey,
}

/// Why a text holds no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKeys {
    #[error("not a JWKS: {0}")]
    NotJwks(#[from] serde_json::Error),
    #[error("holds no key that verifies signatures")]
    NoUsableKey,
}

impl KeySet {
    /// Reads a JWKS that comes after `before`. Keys of a type or for a use that is not ours are
    /// passed over, as RFC 7517 (5) asks.
    ///
    /// # Errors
    /// When none is left: an issuer with no key is far more often one that is broken.
    pub(super) fn parse(jwks: &[u8], before: Option<&Self>) -> Result<Self, NotKeys> {
        #[derive(Deserialize)]
        struct Published {
            keys: Vec<serde_json::Value>,
        }
        let published: Published = serde_json::from_slice(jwks)?;
        let jwks = published.keys.into_iter().filter_map(|key| Jwk::deserialize(key).ok());
        let keys: Vec<_> = jwks
            .filter(is_for_signatures)
            .filter_map(|jwk| Some(PublishedKey { key: DecodingKey::from_jwk(&jwk).ok()?, jwk }))
            .collect();
        if keys.is_empty() {
            return Err(NotKeys::NoUsableKey);
        }
        let published: HashSet<&Jwk> = keys.iter().map(|key| &key.jwk).collect();
        let still_there = |old: &PublishedKey| published.contains(&old.jwk);
        let generation = match before {
            None => 1,
            Some(before) if before.keys.iter().all(still_there) => before.generation,
            Some(before) => before.generation + 1,
        };
        Ok(Self { keys, generation })
    }

    /// How many keys there are; at least one.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Changes when a key is withdrawn or replaced, not when one is added.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The keys that may have made a signature: of the token's `kid`, or the first ones of all that
    /// suit it if it has none.
    pub(super) fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        self.keys
            .iter()
            .filter(move |key| kid.is_none() || kid == key.jwk.common.key_id.as_deref())
            .filter(move |key| suits(&key.jwk, algorithm))
            .take(MAX_TRIES)
            .map(|key| &key.key)
    }
}

fn is_for_signatures(jwk: &Jwk) -> bool {
    let asked = &jwk.common;
    let signs = asked.public_key_use.as_ref().is_none_or(|r#use| *r#use == PublicKeyUse::Signature);
    let verifies =
        asked.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    // A symmetric key in public would let everyone sign.
    let public = !matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
    signs && verifies && public
}

/// Whether the key is of the algorithm's type and curve, and of this algorithm where it says so.
fn suits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512)
        }
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => algorithm == ES256,
            EllipticCurve::P384 => algorithm == ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(key) => {
            key.curve == EllipticCurve::Ed25519 && algorithm == EdDSA
        }
        _ => false,
    };
    kind && jwk.common.key_algorithm.is_none_or(|named| named == algorithm.into())
}
