//! Turns the `[auth]` section into the parts of the verifiers, or into a list of its mistakes.

use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::config::{Mistake, Span};
use crate::identify::config::{AuthConfig, JwtConfig};
use crate::identify::entry::Entry;
use crate::identify::key_source::KeySource;

const DEFAULT_LEEWAY: Span = Span::from_secs(30);
const MAX_LEEWAY: Span = Span::from_secs(600);
const DEFAULT_REFRESH: Span = Span::from_secs(600);
const MIN_REFRESH: Span = Span::from_secs(30);

/// The longest `account_prefix`, in bytes: half of an account's id is left for the issuer's own id.
const MAX_PREFIX_BYTES: usize = 128;

/// One `[[auth.jwt]]` without mistakes.
pub(super) struct CheckedIssuer {
    /// The place in the config: `auth.jwt[0]`.
    pub(super) key: String,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) keys: KeySource,
    pub(super) issuer: Option<String>,
    pub(super) audience: Vec<String>,
    pub(super) account_claim: String,
    pub(super) account_prefix: Option<Box<str>>,
    pub(super) leeway: Duration,
}

impl AuthConfig {
    /// The mistakes in this section. Reads the key files; fetches nothing.
    pub fn check(&self) -> Vec<Mistake> {
        checked(self).err().unwrap_or_default()
    }

    /// Warnings about settings that are valid, but dangerous unless they are intended.
    pub fn warn(&self) -> Vec<Mistake> {
        shared_accounts(&self.jwt).into_iter().collect()
    }
}

/// Checks the whole section.
pub(super) fn checked(config: &AuthConfig) -> Result<Vec<CheckedIssuer>, Vec<Mistake>> {
    let mut issuers = Vec::new();
    let mut mistakes = Vec::new();
    for (index, jwt) in config.jwt.iter().enumerate() {
        let mut entry = Entry::new(format!("auth.jwt[{index}]"));
        match entry.check(jwt) {
            Some(issuer) if entry.mistakes.is_empty() => issuers.push(issuer),
            _ => mistakes.append(&mut entry.mistakes),
        }
    }
    mistakes.extend(nested_prefixes(&config.jwt));
    if config.jwt.is_empty() && !config.api_keys.enabled {
        mistakes.push(Mistake::new(
            "auth",
            "no caller can be identified: there is no [[auth.jwt]] and API keys are not enabled",
            "add a [[auth.jwt]] entry, or set `enabled = true` under [auth.api_keys]",
        ));
    }
    if mistakes.is_empty() { Ok(issuers) } else { Err(mistakes) }
}

/// Mistakes for prefixes that begin with another prefix: with `a:` and `a:b:`, the account `a:b:c`
/// could belong to two users.
fn nested_prefixes(jwt: &[JwtConfig]) -> Vec<Mistake> {
    let prefixes = || {
        let prefixes = jwt.iter().enumerate();
        let prefixes = prefixes.filter_map(|(i, jwt)| Some((i, jwt.account_prefix.as_deref()?)));
        prefixes.filter(|(_, prefix)| !prefix.is_empty())
    };
    let nested = prefixes().filter_map(|(index, prefix)| {
        let (other, _) =
            prefixes().find(|(_, other)| prefix != *other && prefix.starts_with(*other))?;
        Some(Mistake::new(
            format!("auth.jwt[{index}].account_prefix"),
            format!(
                "`account_prefix` begins with the prefix of auth.jwt[{other}], so tokens of either could name the other's accounts"
            ),
            "choose prefixes that do not begin with each other, or the same one for both",
        ))
    });
    nested.collect()
}

/// A warning for two issuers without prefixes, whose accounts could have the same ids. Two entries
/// with the same `issuer` are allowed: they have its old and its new key.
fn shared_accounts(jwt: &[JwtConfig]) -> Option<Mistake> {
    let mut open = jwt.iter().enumerate().filter(|(_, jwt)| jwt.account_prefix.is_none());
    let (first, one) = open.next()?;
    let (second, _) =
        open.find(|(_, other)| other.issuer.is_none() || other.issuer != one.issuer)?;
    Some(Mistake::new(
        format!("auth.jwt[{second}]"),
        format!(
            "the accounts of this [[auth.jwt]] share their names with those of auth.jwt[{first}]: `bob` of either is one account"
        ),
        "set `account_prefix` in one of the two; if both are keys of one issuer, write the same `issuer` in both",
    ))
}

impl Entry {
    fn check(&mut self, jwt: &JwtConfig) -> Option<CheckedIssuer> {
        let algorithms = self.algorithms(&jwt.algorithms).unwrap_or_default();
        let refresh = jwt.jwks_refresh.unwrap_or(DEFAULT_REFRESH);
        let leeway = jwt.leeway.unwrap_or(DEFAULT_LEEWAY);
        if refresh < MIN_REFRESH {
            self.note("jwks_refresh", "is too often", "set 30s or more");
        }
        if leeway > MAX_LEEWAY {
            self.note("leeway", "is too long", "set 10m or less; clocks differ by seconds");
        }
        if jwt.account_claim.is_empty() {
            self.note("account_claim", "is empty", "remove it to use `sub`");
        }
        if let Some(prefix) = &jwt.account_prefix {
            self.account_prefix(prefix);
        }
        if jwt.issuer.as_deref() == Some("") {
            self.note("issuer", "is empty", "set it, or remove it to accept any issuer");
        }
        let audience = jwt.audience.as_deref();
        if audience.is_some_and(|all| all.is_empty() || all.iter().any(String::is_empty)) {
            self.note("audience", "is empty", "set it, or remove it to accept any audience");
        }
        Some(CheckedIssuer {
            keys: self.keys(jwt, &algorithms, refresh.0)?,
            key: self.key.clone(),
            algorithms,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone().unwrap_or_default(),
            account_claim: jwt.account_claim.clone(),
            account_prefix: jwt.account_prefix.as_deref().map(Into::into),
            leeway: leeway.0,
        })
    }

    fn account_prefix(&mut self, prefix: &str) {
        if prefix.is_empty() {
            self.note("account_prefix", "is empty", "write one such as \"acme:\", or remove it");
        } else if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            let hint = "use letters, digits and punctuation, such as \"acme:\"";
            self.note("account_prefix", "has other characters than visible ASCII", hint);
        } else if prefix.len() > MAX_PREFIX_BYTES {
            let problem = format!("is {} bytes long", prefix.len());
            let hint = "use 128 bytes or less: an account id has at most 255";
            self.note("account_prefix", &problem, hint);
        }
    }

    fn algorithms(&mut self, names: &[String]) -> Option<Vec<Algorithm>> {
        const KNOWN: &str = "use HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, \
                             ES256, ES384 or EdDSA, as your issuer signs";
        if names.is_empty() {
            return self.refuse("algorithms", "is missing or empty", KNOWN);
        }
        let mut algorithms = Vec::new();
        for name in names {
            let Ok(algorithm) = name.parse() else {
                let problem = if name.eq_ignore_ascii_case("none") {
                    "has `none`, which would accept a token that anybody can write".to_owned()
                } else {
                    format!("has `{name}`, which is not a known algorithm")
                };
                return self.refuse("algorithms", &problem, KNOWN);
            };
            algorithms.push(algorithm);
        }
        Some(algorithms)
    }
}
