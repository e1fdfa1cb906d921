//! Headers in, account out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tokio::sync::watch;

use super::cache::{NamedAccounts, VerifiedTokens};
use super::check::checked;
use super::jwt::{Issuers, Verified};
use super::token::Token;
use super::{AuthConfig, KeyRing, Unauthenticated, credential};
use crate::account::AccountId;
use crate::config::Mistake;
use crate::ledger::{KeyHash, KeyRecord};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who pays.
    pub account: AccountId,
    /// What it was identified by.
    pub credential: CredentialKind,
    /// The id of the API key, when it was one.
    pub key_id: Option<Arc<str>>,
    /// The account of the service key that acts for `account`, when it named one.
    pub on_behalf_by: Option<AccountId>,
    /// When its token is not good any more, in milliseconds since 1970. Keys end by being revoked.
    pub expires_at_ms: Option<i64>,
    /// This process may see the account for the first time, by a token or named by a service key, so
    /// look whether it is due a sign-up grant. False for an account's own keys: it exists.
    pub fresh: bool,
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// A token of a configured issuer.
    Jwt,
    /// A customer's key.
    ApiKey,
    /// The key of a trusted backend.
    ServiceKey,
}

/// Identifies callers by one version of the config. A reload makes a new one, which has
/// forgotten every token; the [`KeyRing`] is shared and outlives both.
pub struct Identifier {
    issuers: Issuers,
    /// `None` where `api_keys` is not enabled.
    keys: Option<Arc<KeyRing>>,
    pub(super) verified: VerifiedTokens,
    named: NamedAccounts,
}

impl Identifier {
    /// Builds the verifiers; starts and fetches nothing.
    ///
    /// # Errors
    /// What [`AuthConfig::check`] finds.
    pub fn new(config: &AuthConfig, keys: Arc<KeyRing>) -> Result<Self, Vec<Mistake>> {
        let issuers = Issuers::new(checked(config)?)?;
        let keys = config.api_keys.enabled.then_some(keys);
        Ok(Self {
            issuers,
            keys,
            verified: VerifiedTokens::default(),
            named: NamedAccounts::default(),
        })
    }

    /// Fetches every issuer's JWKS once, so that the first call need not wait for it. What
    /// could not be fetched is logged; [`Identifier::run`] keeps trying.
    pub async fn load_keys(&self) {
        self.issuers.load_keys().await;
    }

    /// Remembers that an account which a service key has named exists.
    pub fn exists(&self, identity: &Identity) {
        if identity.on_behalf_by.is_some() {
            self.named.insert(&identity.account);
        }
    }

    /// Forgets the token in these headers, so that it counts as fresh the next time.
    pub fn forget(&self, headers: &HeaderMap) {
        if let Ok(credential) = credential::read(headers) {
            self.verified.remove(&KeyHash::of(credential));
        }
    }

    /// Keeps the JWKS fresh until `shutdown` turns true or its sender is gone. Returns at once
    /// where no issuer has one.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            () = self.issuers.keep_keys_fresh() => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Who sent these headers from the address `client`, at `now`. Known keys and remembered tokens
    /// are answered without waiting; a token that no known key has signed may wait for one fetch of
    /// its issuer's keys, of which each client can cause a few. `client` counts for nothing else.
    ///
    /// # Errors
    /// The refusal to send; its [`status`](Unauthenticated::status) is 401 for most.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        client: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Identity, Unauthenticated> {
        let credential = credential::read(headers)?;
        let hash = KeyHash::of(credential);
        if let Some(key) = self.keys.as_ref().and_then(|keys| keys.get(&hash)) {
            return by_key(&key, headers, &self.named);
        }
        let now = since_epoch(now);
        if let Some(verified) = self.verified.get(&hash, now)
            && self.issuers.still_trust(&verified)
        {
            return Ok(by_token(verified, false));
        }
        let token = Token::parse(credential)?;
        // Rare and large, where every call carries this future.
        let verified = Box::pin(self.issuers.verify(&token, client, now)).await?;
        let fresh = self.verified.insert(hash, verified.clone());
        Ok(by_token(verified, fresh))
    }
}

fn by_key(
    key: &KeyRecord,
    headers: &HeaderMap,
    seen: &NamedAccounts,
) -> Result<Identity, Unauthenticated> {
    if key.revoked_at_ms.is_some() {
        return Err(Unauthenticated::Revoked);
    }
    let named = if key.service { credential::read_account(headers)? } else { None };
    let fresh = named.as_ref().is_some_and(|account| !seen.has(account));
    Ok(Identity {
        credential: if key.service { CredentialKind::ServiceKey } else { CredentialKind::ApiKey },
        key_id: Some(Arc::clone(&key.id)),
        on_behalf_by: named.is_some().then(|| key.account.clone()),
        account: named.unwrap_or_else(|| key.account.clone()),
        expires_at_ms: None,
        fresh,
    })
}

fn by_token(verified: Verified, fresh: bool) -> Identity {
    Identity {
        account: verified.account,
        credential: CredentialKind::Jwt,
        key_id: None,
        on_behalf_by: None,
        expires_at_ms: Some(i64::try_from(verified.until.as_millis()).unwrap_or(i64::MAX)),
        fresh,
    }
}

/// Tokens count from the Unix epoch; a clock set before it counts as its start.
fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}
