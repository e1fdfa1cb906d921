//! The promises of identification, one file for each kind.

mod accounts;
mod arbitrary;
mod config;
mod issuer;
mod keys;
mod rotation;
mod signer;
mod tokens;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::identify::{AuthConfig, Identifier, Identity, KeyRing, Unauthenticated};

/// The moment of these tests, in seconds since the epoch.
const NOW: u64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn config(toml: &str) -> AuthConfig {
    toml::from_str(toml).unwrap()
}

fn identifier(toml: &str) -> Identifier {
    Identifier::new(&config(toml), Arc::default()).unwrap()
}

fn with_keys(keys: Arc<KeyRing>) -> Identifier {
    Identifier::new(&AuthConfig::default(), keys).unwrap()
}

/// One HS256 issuer with further settings.
fn hs256(more: &str) -> Identifier {
    identifier(&format!("[[jwt]]\nalgorithms = ['HS256']\nsecret = '{SECRET}'\n{more}"))
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn bearer(credential: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {credential}"))])
}

/// Claims that are valid for a minute, with these added or replaced.
fn claims(more: Value) -> Value {
    let mut claims = json!({ "sub": "alice", "exp": NOW + 60 });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

/// Identifies at a given moment, without waiting: only a JWKS may make a call wait.
fn ask_at(
    identifier: &Identifier,
    headers: &HeaderMap,
    seconds: u64,
) -> Result<Identity, Unauthenticated> {
    identifier.identify(headers, None, at(seconds)).now_or_never().expect("nothing to wait for")
}

fn ask(identifier: &Identifier, headers: &HeaderMap) -> Result<Identity, Unauthenticated> {
    ask_at(identifier, headers, NOW)
}

fn account(answer: Result<Identity, Unauthenticated>) -> Result<String, Unauthenticated> {
    answer.map(|identity| identity.account.to_string())
}
