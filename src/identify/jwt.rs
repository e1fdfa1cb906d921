//! Verifies tokens.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use crate::account::AccountId;
use crate::config::Mistake;
use crate::identify::Unauthenticated;
use crate::identify::check::CheckedIssuer;
use crate::identify::jwks::Jwks;
use crate::identify::key_source::KeySource;
use crate::identify::token::{Date, Token};

/// The content of a verified token.
#[derive(Clone)]
pub(super) struct Verified {
    pub(super) account: AccountId,
    /// The token's `exp`, since the epoch. Until then the cached result is used.
    pub(super) exp: Duration,
    /// The `exp` plus the issuer's leeway, since the epoch. From then on the token is refused.
    pub(super) until: Duration,
    /// The index of the config's entry that accepted the token, and the generation of its keys at
    /// that time.
    issuer: usize,
    generation: u64,
}

/// Every `[[auth.jwt]]` of the config. If two issuers without prefixes use the same account id, both mean the same
/// account.
pub(super) struct Issuers(Vec<Issuer>);

struct Issuer {
    algorithms: Vec<Algorithm>,
    keys: Keys,
    name: Option<String>,
    /// The accepted audiences; empty if the audience is not checked.
    audience: Vec<String>,
    account_claim: String,
    account_prefix: Option<Box<str>>,
    /// The prefixes of all issuers.
    prefixes: Arc<[Box<str>]>,
    leeway: Duration,
}

enum Keys {
    Fixed(DecodingKey),
    Published(Arc<Jwks>),
}

impl Issuers {
    /// Builds the verifiers.
    ///
    /// # Errors
    /// The HTTP client for a JWKS cannot be created.
    pub(super) fn new(checked: Vec<CheckedIssuer>) -> Result<Self, Vec<Mistake>> {
        let prefixes: Arc<[Box<str>]> =
            checked.iter().filter_map(|issuer| issuer.account_prefix.clone()).collect();
        let issuers: Result<Vec<_>, _> =
            checked.into_iter().map(|issuer| Issuer::new(issuer, Arc::clone(&prefixes))).collect();
        issuers.map(Self).map_err(|mistake| vec![mistake])
    }

    /// Fetches every JWKS once.
    pub(super) async fn load_keys(&self) {
        join_all(self.jwks().map(|jwks| jwks.refresh())).await;
    }

    /// Refreshes every JWKS for ever. Returns at once if there is none.
    pub(super) async fn keep_keys_fresh(&self) {
        join_all(self.jwks().map(|jwks| jwks.keep_fresh())).await;
    }

    /// The prefixes of all issuers' accounts.
    pub(super) fn prefixes(&self) -> &[Box<str>] {
        self.0.first().map_or(&[], |issuer| &issuer.prefixes)
    }

    /// Whether the issuer that accepted the token has withdrawn no key since.
    pub(super) fn still_trust(&self, verified: &Verified) -> bool {
        self.0.get(verified.issuer).is_some_and(|i| i.generation() == verified.generation)
    }

    /// Verifies a token that `client` sent, at `now` (since the epoch). If no known key made the
    /// signature, the keys of the issuers in question are fetched once, because the key with this
    /// `kid` may be new or changed.
    pub(super) async fn verify(
        &self,
        token: &Token<'_>,
        client: Option<IpAddr>,
        now: Duration,
    ) -> Result<Verified, Unauthenticated> {
        let judged = self.judge(token, now);
        if !matches!(judged, Err(Unauthenticated::BadSignature | Unauthenticated::KeysUnavailable))
        {
            return judged;
        }
        let fitting = self.0.iter().filter(|issuer| issuer.fits(token).is_ok());
        let fetched =
            join_all(fitting.filter_map(Issuer::jwks).map(|jwks| jwks.refetch(client, now)));
        if fetched.await.contains(&true) { self.judge(token, now) } else { judged }
    }

    /// Tries every issuer that may have made the token. While an issuer changes its key, two
    /// entries may differ only in the key.
    fn judge(&self, token: &Token<'_>, now: Duration) -> Result<Verified, Unauthenticated> {
        let mut refusal = Unauthenticated::AlgorithmNotAllowed;
        for (index, issuer) in self.0.iter().enumerate() {
            match issuer.judge(token, now) {
                Ok((account, exp, generation)) => {
                    let until = exp.saturating_add(issuer.leeway);
                    return Ok(Verified { account, exp, until, issuer: index, generation });
                }
                Err(other) => refusal = refusal.further(other),
            }
        }
        Err(refusal)
    }

    fn jwks(&self) -> impl Iterator<Item = &Arc<Jwks>> {
        self.0.iter().filter_map(Issuer::jwks)
    }
}

impl Issuer {
    fn new(checked: CheckedIssuer, prefixes: Arc<[Box<str>]>) -> Result<Self, Mistake> {
        let keys = match checked.keys {
            KeySource::Fixed(key) => Keys::Fixed(key),
            KeySource::Published { url, refresh } => {
                Keys::Published(Jwks::new(checked.key, url, refresh)?)
            }
        };
        Ok(Self {
            keys,
            algorithms: checked.algorithms,
            name: checked.issuer,
            audience: checked.audience,
            account_claim: checked.account_claim,
            account_prefix: checked.account_prefix,
            prefixes,
            leeway: checked.leeway,
        })
    }

    /// Checks the token step by step. Returns the account, the token's `exp`, and the generation of
    /// the keys.
    fn judge(
        &self,
        token: &Token<'_>,
        now: Duration,
    ) -> Result<(AccountId, Duration, u64), Unauthenticated> {
        let algorithm = self.fits(token)?;
        let generation = self.check_signature(token, algorithm)?;
        let exp = match token.date("exp") {
            Date::At(exp) => exp,
            Date::Missing => return Err(Unauthenticated::NoExpiry),
            Date::Unreadable => return Err(Unauthenticated::Malformed),
        };
        if now >= exp.saturating_add(self.leeway) {
            return Err(Unauthenticated::Expired);
        }
        match token.date("nbf") {
            Date::At(nbf) if nbf > now.saturating_add(self.leeway) => {
                return Err(Unauthenticated::NotYetValid);
            }
            Date::Unreadable => return Err(Unauthenticated::Malformed),
            Date::At(_) | Date::Missing => {}
        }
        if !self.audience.is_empty() && !token.is_for_any_of(&self.audience) {
            return Err(Unauthenticated::WrongAudience);
        }
        Ok((self.account(token)?, exp, generation))
    }

    /// The account that a token names: the issuer's prefix, followed by the claim. An issuer
    /// without a prefix cannot name the accounts of an issuer with a prefix. No prefix begins with
    /// another prefix.
    fn account(&self, token: &Token<'_>) -> Result<AccountId, Unauthenticated> {
        let named = token.account(&self.account_claim).ok_or(Unauthenticated::NoAccountClaim)?;
        match &self.account_prefix {
            Some(prefix) => {
                let account = [prefix, named.as_str()].concat().parse();
                account.map_err(|_| Unauthenticated::NoAccountClaim)
            }
            None if self.prefixes.iter().any(|prefix| named.as_str().starts_with(&**prefix)) => {
                Err(Unauthenticated::ForeignAccount)
            }
            None => Ok(named),
        }
    }

    /// Decides, before any cryptography, whether this issuer may have made the token. The token's
    /// algorithm must be one of those in the config, and all of these belong to the kind of key in
    /// the config. So nobody can use a public key as an HMAC secret.
    fn fits(&self, token: &Token<'_>) -> Result<Algorithm, Unauthenticated> {
        let algorithm = token
            .algorithm
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or(Unauthenticated::AlgorithmNotAllowed)?;
        if self.name.is_some() && token.text("iss") != self.name.as_deref() {
            return Err(Unauthenticated::WrongIssuer);
        }
        Ok(algorithm)
    }

    fn check_signature(
        &self,
        token: &Token<'_>,
        algorithm: Algorithm,
    ) -> Result<u64, Unauthenticated> {
        let signed_by = |key: &DecodingKey| {
            crypto::verify(token.signature, token.message, key, algorithm).unwrap_or(false)
        };
        let (signed, generation) = match &self.keys {
            Keys::Fixed(key) => (signed_by(key), 0),
            Keys::Published(jwks) => {
                let keys = jwks.keys().ok_or(Unauthenticated::KeysUnavailable)?;
                let kid = token.kid.as_deref();
                (keys.candidates(kid, algorithm).any(signed_by), keys.generation())
            }
        };
        if signed { Ok(generation) } else { Err(Unauthenticated::BadSignature) }
    }

    fn generation(&self) -> u64 {
        match &self.keys {
            Keys::Fixed(_) => 0,
            Keys::Published(jwks) => jwks.generation(),
        }
    }

    /// The keys that this issuer publishes, if it publishes any.
    fn jwks(&self) -> Option<&Arc<Jwks>> {
        match &self.keys {
            Keys::Published(jwks) => Some(jwks),
            Keys::Fixed(_) => None,
        }
    }
}
