//! The `[auth]` section: the accepted tokens and keys.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use crate::config::{Secret, Span};

/// `[auth]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// `[[auth.jwt]]`: one entry for each issuer, or two while an issuer changes its key. If two
    /// entries name the same account id, it is the same account; `account_prefix` keeps ids apart
    /// that could collide.
    #[serde(default)]
    pub jwt: Vec<JwtConfig>,
    /// `[auth.api_keys]`.
    #[serde(default)]
    pub api_keys: ApiKeysConfig,
}

/// `[auth.api_keys]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeysConfig {
    /// Whether API keys are accepted at all. Default: true.
    pub enabled: bool,
}

/// `[[auth.jwt]]`: the tokens of one issuer and the keys that verify them. Exactly one of `secret`,
/// `public_key_file` and `jwks_url` is set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// The accepted algorithms, all of one family: HS256, HS384 and HS512; RS256, RS384, RS512,
    /// PS256, PS384 and PS512; ES256 and ES384; or EdDSA (Ed25519). The token cannot choose another
    /// one. Entries with a `jwks_url` may mix the asymmetric families.
    #[serde(default)]
    pub algorithms: Vec<String>,
    /// The shared secret of the HS family: at least 32 bytes.
    pub secret: Option<Secret>,
    /// A PEM file with the public key.
    pub public_key_file: Option<PathBuf>,
    /// The address of the issuer's published keys: https, or http on this machine. Redirects are
    /// not followed.
    pub jwks_url: Option<String>,
    /// The claim with the account's id; dots lead into nested objects. Default: `sub`.
    #[serde(default = "default_account_claim")]
    pub account_claim: String,
    /// A prefix that is put before the claim to make the account's id: `acme:` turns `bob` into
    /// `acme:bob`. Other issuers' tokens cannot name accounts that begin with it.
    pub account_prefix: Option<String>,
    /// The required value of `iss`. Without this key `iss` is not checked.
    pub issuer: Option<String>,
    /// The accepted values of `aud`, as a text or a list. Without this key `aud` is not checked.
    #[serde(default, deserialize_with = "one_or_many")]
    pub audience: Option<Vec<String>>,
    /// The tolerated difference between clocks, for `exp` and `nbf`. Default: 30 s; at most 10 min.
    pub leeway: Option<Span>,
    /// The interval between fetches of the JWKS. Default: 10 min; at least 30 s.
    pub jwks_refresh: Option<Span>,
}

impl Default for ApiKeysConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

fn default_account_claim() -> String {
    "sub".to_owned()
}

fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Texts;
    impl<'de> de::Visitor<'de> for Texts {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or a list of texts")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = seq.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    d.deserialize_any(Texts).map(Some)
}
