//! Identifies callers: headers in, account out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tokio::sync::watch;

use crate::account::AccountId;
use crate::config::Mistake;
use crate::identify::cache::{NamedAccounts, VerifiedTokens};
use crate::identify::check::checked;
use crate::identify::jwt::{Issuers, Verified};
use crate::identify::token::Token;
use crate::identify::{AuthConfig, KeyRing, Unauthenticated, credential};
use crate::ledger::{KeyHash, KeyRecord};

/// An identified caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account that pays.
    pub account: AccountId,
    /// The kind of the credential.
    pub credential: CredentialKind,
    /// The id of the API key, if the credential is one.
    pub key_id: Option<Arc<str>>,
    /// The account of the service key that acts for `account`, if it named one.
    pub on_behalf_by: Option<AccountId>,
    /// The end of the token's validity, in milliseconds since 1970. API keys have none.
    pub expires_at_ms: Option<i64>,
    /// Whether this process may be seeing the account for the first time, from a token or because a
    /// service key named it. The account may then be due a sign-up grant. False for an account's
    /// own keys, because that account exists.
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

/// Identifies callers by one version of the config. A reload creates a new one with empty caches;
/// the [`KeyRing`] is shared by both.
pub struct Identifier {
    issuers: Issuers,
    /// `None` if `api_keys` is not enabled.
    keys: Option<Arc<KeyRing>>,
    pub(super) verified: VerifiedTokens,
    named: NamedAccounts,
}

impl Identifier {
    /// Builds the verifiers; starts and fetches nothing.
    ///
    /// # Errors
    /// The mistakes that [`AuthConfig::check`] finds.
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

    /// Fetches every issuer's JWKS once, so that the first call does not wait for it. A failed
    /// fetch is logged; [`Identifier::run`] tries again.
    pub async fn load_keys(&self) {
        self.issuers.load_keys().await;
    }

    /// The account's id without the `account_prefix` of its issuer: the name that its owner knows.
    pub fn name_of<'a>(&self, account: &'a AccountId) -> &'a str {
        let id = account.as_str();
        let mut names =
            self.issuers.prefixes().iter().filter_map(|prefix| id.strip_prefix(&**prefix));
        names.find(|name| !name.is_empty()).unwrap_or(id)
    }

    /// Adds an account that a service key named to the cache of existing accounts.
    pub fn exists(&self, identity: &Identity) {
        if identity.on_behalf_by.is_some() {
            self.named.insert(&identity.account);
        }
    }

    /// Removes the token in these headers from the cache, so that it counts as fresh the next time.
    pub fn forget(&self, headers: &HeaderMap) {
        if let Ok(credential) = credential::read(headers) {
            self.verified.remove(&KeyHash::of(credential));
        }
    }

    /// Keeps the JWKS fresh until `shutdown` turns true or its sender is gone. If no issuer has a
    /// JWKS, returns at once.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            () = self.issuers.keep_keys_fresh() => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Identifies the sender of these headers at `now`. `client` is the sender's address. Known
    /// keys and cached tokens are answered without waiting. If no known key made a token's
    /// signature, the call may wait for a fetch of its issuer's keys. Each client can cause only a
    /// few such fetches, and `client` is used for nothing else.
    ///
    /// # Errors
    /// The refusal that the caller is sent. Its [`status`](Unauthenticated::status) is usually 401.
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
        let token =
            Token::parse(credential).map_err(|refusal| self.refusal_of_no_token(refusal))?;
        // The future is boxed, because it is large and rarely needed, and would be a part of every
        // call's future.
        let verified = Box::pin(self.issuers.verify(&token, client, now)).await?;
        let fresh = self.verified.insert(hash, verified.clone());
        Ok(by_token(verified, fresh))
    }

    /// The refusal of a credential that is no token and no known key. While the ledger does not answer, it may be a key
    /// that another gateway has just made.
    fn refusal_of_no_token(&self, refusal: Unauthenticated) -> Unauthenticated {
        let is_behind = self.keys.as_ref().is_some_and(|keys| keys.is_behind());
        if is_behind { Unauthenticated::KeysUnavailable } else { refusal }
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

/// The time since the Unix epoch, as dates in tokens count it; zero for a clock that is set before the
/// epoch.
fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}
