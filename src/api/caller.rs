//! Identifies the callers of Farebox's own routes.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use http::Extensions;
use http::request::Parts;
use http::{HeaderMap, Method};

use crate::api::cookie;
use crate::app::App;
use crate::identify::{CredentialKind, Credentials, Identity};
use crate::problem::{Problem, texts};

/// The IP address of a request's client, as the socket has it. Every request carries this
/// extension.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub Option<IpAddr>);

impl ClientAddress {
    /// The address of the request's client; `None` if the request does not carry this extension.
    pub(super) fn of(extensions: &Extensions) -> Option<IpAddr> {
        extensions.get().and_then(|Self(address)| *address)
    }
}

/// The caller, identified by the same credentials as on proxied routes or by the account page's
/// cookie.
pub(super) struct Caller(pub Identity);

impl<S: Sync> FromRequestParts<S> for Caller
where
    Arc<App>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let KnownCaller { identity, .. } = KnownCaller::from_request_parts(parts, state).await?;
        Ok(Self(identity))
    }
}

/// The caller, with the credentials, so that the identity can be checked again later.
pub(super) struct KnownCaller {
    pub identity: Identity,
    pub credentials: Credentials,
}

impl<S: Sync> FromRequestParts<S> for KnownCaller
where
    Arc<App>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let app = Arc::<App>::from_ref(state);
        let client = ClientAddress::of(&parts.extensions);
        match Self::of(&app, &parts.method, &parts.headers, client).await? {
            Some(caller) => Ok(caller),
            // Without a credential, identification fails with the same problem as on proxied
            // routes.
            None => {
                let credentials = Credentials::default();
                let identity = app.identify(credentials.headers(), client).await?;
                Ok(Self { identity, credentials })
            }
        }
    }
}

impl KnownCaller {
    /// Identifies the sender of these headers; `None` if they have no credential at all.
    ///
    /// # Errors
    /// The errors of [`App::identify`], and 403 for a cookie that must not be used here.
    pub async fn of(
        app: &App,
        method: &Method,
        headers: &HeaderMap,
        client: Option<IpAddr>,
    ) -> Result<Option<Self>, Problem> {
        let sent = Credentials::of(headers);
        if !sent.is_empty() {
            let identity = app.identify(sent.headers(), client).await?;
            return Ok(Some(Self { identity, credentials: sent }));
        }
        let credentials = cookie::read(method, headers)?;
        if credentials.is_empty() {
            return Ok(None);
        }
        let identity = app.identify(credentials.headers(), client).await?;
        if identity.credential == CredentialKind::ServiceKey {
            return Err(no_session_for_services());
        }
        Ok(Some(Self { identity, credentials }))
    }
}

/// The problem for a service key in a browser. The key is not safe there, because it may act for
/// any account.
pub(super) fn no_session_for_services() -> Problem {
    Problem::forbidden(texts::NO_SESSION_FOR_SERVICES)
}

/// A caller with a service key.
pub(super) struct ServiceCaller(pub Identity);

impl FromRequestParts<Arc<App>> for ServiceCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let identity = app.identify(&parts.headers, ClientAddress::of(&parts.extensions)).await?;
        if identity.credential != CredentialKind::ServiceKey {
            return Err(Problem::forbidden(texts::HOLDS_NEED_A_SERVICE_KEY));
        }
        Ok(Self(identity))
    }
}

/// A caller who may make and revoke keys: one with a token of the app, or with a session that was
/// begun with such a token. Callers with an API key may not. Otherwise a leaked key could make more
/// keys, which would stay valid after it is revoked.
pub(super) struct KeyHolder(pub Identity);

impl<S: Sync> FromRequestParts<S> for KeyHolder
where
    Arc<App>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        if !may_manage_keys(&identity) {
            return Err(Problem::forbidden(texts::KEYS_NEED_A_TOKEN));
        }
        Ok(Self(identity))
    }
}

/// Whether a caller may make and revoke keys.
pub(super) fn may_manage_keys(identity: &Identity) -> bool {
    identity.credential == CredentialKind::Jwt
}
