//! Keys of issuers, one for each algorithm, and the tokens that they sign.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, crypto};
use serde_json::{Value, json};

pub(super) const RSA_PRIVATE: &str = include_str!("../../../tests/keys/rsa-for-tests.pem");
pub(super) const RSA_PUBLIC: &str = include_str!("../../../tests/keys/rsa-for-tests.pub.pem");

pub(super) struct Signer {
    pub(super) algorithm: Algorithm,
    pub(super) public_pem: String,
    key: EncodingKey,
}

impl Signer {
    /// A new key for an asymmetric algorithm (RSA: always the same one).
    pub(super) fn new(algorithm: Algorithm) -> Self {
        let generated = |kind| {
            let pair = rcgen::KeyPair::generate_for(kind).unwrap();
            (pair.serialize_der(), pair.public_key_pem())
        };
        let (key, public_pem) = match algorithm {
            Algorithm::ES256 => {
                let (der, pem) = generated(&rcgen::PKCS_ECDSA_P256_SHA256);
                (EncodingKey::from_ec_der(&der), pem)
            }
            Algorithm::ES384 => {
                let (der, pem) = generated(&rcgen::PKCS_ECDSA_P384_SHA384);
                (EncodingKey::from_ec_der(&der), pem)
            }
            Algorithm::EdDSA => {
                let (der, pem) = generated(&rcgen::PKCS_ED25519);
                (EncodingKey::from_ed_der(&der), pem)
            }
            _ => {
                let key = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
                (key, RSA_PUBLIC.to_owned())
            }
        };
        Self { algorithm, public_pem, key }
    }

    pub(super) fn hmac(algorithm: Algorithm, secret: &[u8]) -> Self {
        let key = EncodingKey::from_secret(secret);
        Self { algorithm, public_pem: String::new(), key }
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm, "typ": "JWT" }), claims)
    }

    pub(super) fn token_of(&self, kid: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm, "kid": kid }), claims)
    }

    /// A token with any header, even a false one.
    pub(super) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// The public key as an issuer publishes it.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let pem = self.public_pem.as_bytes();
        let key = match self.algorithm.family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
            _ => DecodingKey::from_ed_pem(pem),
        };
        let jwk = Jwk::from_decoding_key(&key.unwrap(), Some(self.algorithm)).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(kid);
        jwk
    }
}

/// A token's header and claims, without the last dot and the signature.
pub(super) fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(header), part(claims))
}
