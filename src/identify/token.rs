//! Parses a JWT without verifying it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::account::AccountId;
use crate::identify::Unauthenticated;

/// An unverified token. Keys in its header, and addresses of keys (`jwk`, `jku`, `x5c`, `x5u`), are not
/// read.
pub(super) struct Token<'a> {
    /// The algorithm named in the header; `None` for `none` and for any unknown name.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) kid: Option<String>,
    claims: Map<String, Value>,
    /// The signed bytes: header and claims as they were sent.
    pub(super) message: &'a [u8],
    /// The signature, in base64.
    pub(super) signature: &'a str,
}

/// The value of a date claim: a `NumericDate` of RFC 7519, in seconds since the epoch, with or
/// without a fraction.
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
    /// Parses a credential.
    ///
    /// # Errors
    /// `UnknownKey` if the text is not a JWT, because any other text can only be a key;
    /// `CriticalExtension`; `Malformed` if its claims are not a JSON object.
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

    /// The text of a claim.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// True if `aud`, a text or a list, names one of these.
    pub(super) fn is_for_any_of(&self, audience: &[String]) -> bool {
        let accepted =
            |value: &Value| value.as_str().is_some_and(|a| audience.iter().any(|b| a == b));
        match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(accepted),
            Some(one) => accepted(one),
            None => false,
        }
    }

    /// The date of a claim.
    pub(super) fn date(&self, claim: &str) -> Date {
        let Some(value) = self.claims.get(claim) else { return Date::Missing };
        let whole = value.as_u64().map(Duration::from_secs);
        let fraction = || Duration::try_from_secs_f64(value.as_f64()?).ok();
        whole.or_else(fraction).map_or(Date::Unreadable, Date::At)
    }

    /// The account in this claim: a text, or a whole number as its decimal digits. A claim with
    /// exactly this name comes first, because a name like `https://example.com/account` contains
    /// dots. If there is none, the dots lead into nested objects.
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

/// The header, payload, signed bytes and signature of a credential that has three parts. Farebox's
/// own keys have no dots.
fn split(credential: &str) -> Option<(&str, &str, &str, &str)> {
    let (message, signature) = credential.rsplit_once('.')?;
    let (header, payload) = message.split_once('.')?;
    (!payload.contains('.')).then_some((header, payload, message, signature))
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

/// True for any value, including `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}
