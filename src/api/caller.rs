//! The caller of an own route.

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

/// The IP address of a request's client, as seen by the socket: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub Option<IpAddr>);

impl ClientAddress {
    /// The address of a request's client; `None` where the request does not carry one.
    pub(super) fn of(extensions: &Extensions) -> Option<IpAddr> {
        extensions.get().and_then(|Self(address)| *address)
    }
}

/// The caller, by the same credentials as on proxied routes, or by the account page's cookie.
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

/// A caller, with the credential that identifies them again later.
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
            // The problem is the same as for a request without a credential elsewhere.
            None => {
                let credentials = Credentials::default();
                let identity = app.identify(credentials.headers(), client).await?;
                Ok(Self { identity, credentials })
            }
        }
    }
}

impl KnownCaller {
    /// Identifies the sender of these headers; `None` where they have no credential at all.
    ///
    /// # Errors
    /// As [`App::identify`]; 403 for a cookie that may not be used here.
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

/// The problem for a service key in a browser: such a key acts for any account.
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

/// A caller who may make and revoke keys: one with a token of the app, or with a session made from
/// one. A leaked key must not make other keys, which would outlive it.
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
