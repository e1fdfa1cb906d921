//! A JWT as it was sent: taken apart, not believed.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::Unauthenticated;
use crate::account::AccountId;

/// An unverified token. Keys or their addresses in its header (`jwk`, `jku`, `x5c`, `x5u`) are
/// not even read.
pub(super) struct Token<'a> {
    /// What its header says it is signed with; `None` for `none` and whatever else is unknown.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) kid: Option<String>,
    claims: Map<String, Value>,
    /// The bytes that are signed: header and claims as they were sent.
    pub(super) message: &'a [u8],
    /// Still in base64.
    pub(super) signature: &'a str,
}

/// When a claim says: `NumericDate` of RFC 7519, seconds since the epoch, with or without a
/// fraction.
pub(super) enum Date {
    Missing,
    Unreadable,
    At(Duration),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

impl<'a> Token<'a> {
    /// Takes a credential apart.
    ///
    /// # Errors
    /// `UnknownKey` when it is no JWT at all, as what is not a token can only be a key;
    /// `CriticalExtension`; `Malformed` when its claims are not a JSON object.
    pub(super) fn parse(credential: &'a str) -> Result<Self, Unauthenticated> {
        let parts = split(credential).ok_or(Unauthenticated::UnknownKey)?;
        let (header, payload, message, signature) = parts;
        let header: Header = decode(header).ok_or(Unauthenticated::UnknownKey)?;
        if header.crit {
            return Err(Unauthenticated::CriticalExtension);
        }
        Ok(Self {
            algorithm: header.alg.parse().ok(),
            kid: header.kid,
            claims: decode(payload).ok_or(Unauthenticated::Malformed)?,
            message: message.as_bytes(),
            signature,
        })
    }

    /// A claim that holds a text.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// True when `aud`, a text or a list of them, names one of these.
    pub(super) fn is_for_any_of(&self, audience: &[String]) -> bool {
        let accepted =
            |value: &Value| value.as_str().is_some_and(|a| audience.iter().any(|b| a == b));
        match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(accepted),
            Some(one) => accepted(one),
            None => false,
        }
    }

    /// A claim that holds a date.
    pub(super) fn date(&self, claim: &str) -> Date {
        let Some(value) = self.claims.get(claim) else { return Date::Missing };
        let whole = value.as_u64().map(Duration::from_secs);
        let fraction = || Duration::try_from_secs_f64(value.as_f64()?).ok();
        whole.or_else(fraction).map_or(Date::Unreadable, Date::At)
    }

    /// The account in this claim: a text, or a whole number as its decimal digits. A claim of
    /// exactly this name comes first (names like `https://example.com/account` have dots of
    /// their own); otherwise dots lead into nested objects.
    pub(super) fn account(&self, claim: &str) -> Option<AccountId> {
        let nested = || {
            let (first, rest) = claim.split_once('.')?;
            rest.split('.').try_fold(self.claims.get(first)?, |value, name| value.get(name))
        };
        match self.claims.get(claim).or_else(nested)? {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_u64()?.to_string().parse().ok(),
            _ => None,
        }
    }
}

/// Header, payload, signed bytes and signature of what has three parts. Our own keys have the
/// shape of no token.
fn split(credential: &str) -> Option<(&str, &str, &str, &str)> {
    let (message, signature) = credential.rsplit_once('.')?;
    let (header, payload) = message.split_once('.')?;
    (!payload.contains('.')).then_some((header, payload, message, signature))
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

/// True whatever the value, `null` included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}
