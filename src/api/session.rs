//! Signs a browser in: a credential becomes the account page's cookie.

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::AccountId;
use crate::api::caller::{ClientAddress, KnownCaller, may_manage_keys, no_session_for_services};
use crate::api::cookie;
use crate::api::transactions::rfc3339;
use crate::app::App;
use crate::identify::{CredentialKind, Credentials};
use crate::ledger::wall_ms;
use crate::problem::Problem;

/// The longest session, in milliseconds: an hour. After it, the user must come back through the
/// app.
const MAX_SESSION_MS: i64 = 3600 * 1000;

/// The state of the handlers.
#[derive(Clone)]
pub(super) struct Sessions {
    pub app: Arc<App>,
    /// The path of the cookie for a page over http, which is `[api] prefix`.
    pub path: Arc<str>,
}

impl FromRef<Sessions> for Arc<App> {
    fn from_ref(sessions: &Sessions) -> Self {
        sessions.app.clone()
    }
}

/// The account that is signed in.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionBody {
    #[schema(value_type = String)]
    account: AccountId,
    /// The account's id without its issuer's prefix, to show to the account's owner.
    name: String,
    /// The time at which the session or its token ends, as RFC 3339. `null` if only the browser
    /// knows it.
    expires_at: Option<String>,
    /// True if the session was begun with a token: with an API key one cannot make or revoke keys.
    may_manage_keys: bool,
}

/// Signs the account page in with the token or key of this request, by setting a cookie that
/// scripts cannot read. Only the account page uses this; other pages send their credential with
/// each request.
#[utoipa::path(post, path = "/session", responses(
    (status = 200, body = SessionBody, headers(("set-cookie" = String))), (status = 400),
    (status = 401), (status = 403), (status = 503)))]
pub(super) async fn begin(
    State(Sessions { app, path }): State<Sessions>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<([(HeaderName, HeaderValue); 1], axum::Json<SessionBody>), Problem> {
    cookie::require_own_page(&headers)?;
    let credentials = Credentials::of(&headers);
    let identity = app.identify(credentials.headers(), ClientAddress::of(&extensions)).await?;
    if identity.credential == CredentialKind::ServiceKey {
        return Err(no_session_for_services());
    }
    let now_ms = wall_ms();
    let last_ms = now_ms.saturating_add(MAX_SESSION_MS);
    let expires_ms = identity.expires_at_ms.map_or(last_ms, |at_ms| at_ms.min(last_ms));
    let seconds = u64::try_from(expires_ms.saturating_sub(now_ms) / 1000).unwrap_or(0);
    let credential = credentials.expose().unwrap_or_default();
    let cookie = cookie::set(credential, seconds, &path, &headers)?;
    let body = SessionBody {
        may_manage_keys: may_manage_keys(&identity),
        name: app.identifier.name_of(&identity.account).to_owned(),
        account: identity.account,
        expires_at: Some(rfc3339(expires_ms)),
    };
    Ok(([(header::SET_COOKIE, cookie)], axum::Json(body)))
}

/// The account that is signed in, or 204 if there is none.
#[utoipa::path(get, path = "/session", responses(
    (status = 200, body = SessionBody), (status = 204), (status = 401), (status = 503)))]
pub(super) async fn show(
    State(Sessions { app, .. }): State<Sessions>,
    method: Method,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let client = ClientAddress::of(&extensions);
    let caller = KnownCaller::of(&app, &method, &headers, client).await?;
    let Some(KnownCaller { identity, .. }) = caller else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let session = SessionBody {
        expires_at: identity.expires_at_ms.map(rfc3339),
        may_manage_keys: may_manage_keys(&identity),
        name: app.identifier.name_of(&identity.account).to_owned(),
        account: identity.account,
    };
    Ok(axum::Json(session).into_response())
}

/// Signs the account page out.
#[utoipa::path(delete, path = "/session", responses((status = 204), (status = 403)),
    security(()))]
pub(super) async fn end(
    State(Sessions { path, .. }): State<Sessions>,
    headers: HeaderMap,
) -> Result<(StatusCode, AppendHeaders<[(HeaderName, HeaderValue); 2]>), Problem> {
    cookie::require_own_page(&headers)?;
    let cleared = cookie::clear(&path)?.map(|cookie| (header::SET_COOKIE, cookie));
    Ok((StatusCode::NO_CONTENT, AppendHeaders(cleared)))
}
