//! The keys in one JWKS (RFC 7517) that verify signatures.

use std::collections::HashSet;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// The most keys that are tried for a token without a `kid`: this limits the work that an unknown
/// caller can cause.
const MAX_TRIES: usize = 32;

/// The keys of one fetch. Their number is limited by the size of the fetched text.
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

/// The error for a text without usable keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKeys {
    #[error("not a JWKS: {0}")]
    NotJwks(#[from] serde_json::Error),
    #[error("has no key that verifies signatures")]
    NoUsableKey,
}

impl KeySet {
    /// Reads a JWKS, which replaces `before`. Keys of another type or for another use are skipped,
    /// as RFC 7517 (5) requires.
    ///
    /// # Errors
    /// No usable key is left. Such a document is usually a mistake, and hardly ever an issuer
    /// without keys.
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

    /// The number of keys, at least one.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// A number that changes when a key is withdrawn or replaced, but not when one is added.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The keys that may have made a signature. These are the ones with the token's `kid`. For a
    /// token without a `kid` they are the first few of all suitable keys.
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
    // A published symmetric key would let anybody sign tokens.
    let public = !matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
    signs && verifies && public
}

/// Whether the key has the algorithm's type and curve, and names no other algorithm.
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
