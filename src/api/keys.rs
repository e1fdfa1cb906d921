//! API keys that accounts make, list and revoke themselves. Service keys belong to the operator and
//! do not appear here.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::account::AccountId;
use crate::api::body::Json;
use crate::api::caller::{Caller, KeyHolder};
use crate::api::transactions::{rfc3339, unreadable};
use crate::app::App;
use crate::config::Secret;
use crate::credits::Credits;
use crate::identify::NewKey;
use crate::ledger::{KeyRecord, wall_ms};
use crate::problem::{Problem, texts};

/// The most live keys that an account may have made itself.
const MAX_LIVE: usize = 20;

/// The most keys that an account may make in a day, live or revoked. Revoked keys are stored for
/// ever.
const MAX_A_DAY: usize = 100;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// The longest name of a key, in characters.
const MAX_NAME: usize = 100;

/// One of an account's own keys, without its secret.
#[derive(Serialize, ToSchema)]
pub(super) struct OwnKey {
    id: String,
    name: String,
    /// Enough of the key to recognise it: `fb_Ab3d…x9Yz`.
    hint: String,
    /// The time at which the key was made, as RFC 3339.
    created_at: String,
}

/// The account's live keys, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct OwnKeysBody {
    keys: Vec<OwnKey>,
}

/// The name of a new key.
#[derive(Deserialize, ToSchema)]
pub(super) struct OwnKeyRequest {
    /// The name, of 1 to 100 characters.
    name: String,
}

/// A new key. It is shown only this once.
#[derive(Serialize, ToSchema)]
pub(super) struct NewOwnKeyBody {
    id: String,
    key: String,
    name: String,
}

/// The caller's own keys.
#[utoipa::path(get, path = "/keys", responses(
    (status = 200, body = OwnKeysBody), (status = 401), (status = 503)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
) -> Result<axum::Json<OwnKeysBody>, Problem> {
    let keys = own_keys(&app, &caller.account).await?;
    let keys = keys.into_iter().filter(is_live).map(|key| OwnKey {
        id: key.id.to_string(),
        name: key.name.to_string(),
        hint: key.hint.to_string(),
        created_at: rfc3339(key.created_at_ms),
    });
    Ok(axum::Json(OwnKeysBody { keys: keys.collect() }))
}

/// Makes a key for the caller's account. This needs a token: an API key cannot make another one.
#[utoipa::path(post, path = "/keys", request_body = OwnKeyRequest, responses(
    (status = 201, body = NewOwnKeyBody), (status = 400), (status = 401), (status = 403),
    (status = 422), (status = 429), (status = 503)))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    KeyHolder(caller): KeyHolder,
    Json(request): Json<OwnKeyRequest>,
) -> Result<(StatusCode, axum::Json<NewOwnKeyBody>), Problem> {
    let name = request.name.trim();
    let is_name = |name: &str| !name.is_empty() && !name.chars().any(char::is_control);
    if !is_name(name) || name.chars().count() > MAX_NAME {
        return Err(Problem::bad_request(texts::bad_key_name(MAX_NAME)));
    }
    let keys = own_keys(&app, &caller.account).await?;
    if keys.iter().filter(|key| is_live(key)).count() >= MAX_LIVE {
        return Err(too_many_live());
    }
    let yesterday_ms = wall_ms().saturating_sub(DAY_MS);
    if keys.iter().filter(|key| key.created_at_ms > yesterday_ms).count() >= MAX_A_DAY {
        return Err(Problem::too_many_requests(texts::too_many_keys_today(MAX_A_DAY)));
    }
    let (record, key) = new_key(&caller.account, name, false)?;
    let id = record.id.clone();
    store(&app, vec![record]).await?;
    // Another request, perhaps on another gateway, may have made a key at the same time. The
    // request that stores its key last sees the keys of all the others.
    let keys = own_keys(&app, &caller.account).await?;
    if keys.iter().filter(|key| is_live(key)).count() > MAX_LIVE {
        revoke(&app, &id).await?;
        return Err(too_many_live());
    }
    let (id, name) = (id.to_string(), name.to_owned());
    let key = key.expose().to_owned();
    Ok((StatusCode::CREATED, axum::Json(NewOwnKeyBody { id, key, name })))
}

/// Revokes a key of the caller's account, at once and for good. This needs a token.
#[utoipa::path(delete, path = "/keys/{id}", params(("id" = String, Path)), responses(
    (status = 204), (status = 401), (status = 403), (status = 404), (status = 503)))]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    KeyHolder(caller): KeyHolder,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let keys = own_keys(&app, &caller.account).await?;
    if !keys.iter().any(|key| *key.id == *id) {
        return Err(Problem::not_found(texts::NOT_YOUR_KEY));
    }
    revoke(&app, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The account's own keys, oldest first: the live ones, and those that were revoked within the last
/// day. Older revoked keys are not read, however many there are.
async fn own_keys(app: &App, account: &AccountId) -> Result<Vec<KeyRecord>, Problem> {
    let yesterday_ms = wall_ms().saturating_sub(DAY_MS);
    app.ledger.read().own_keys(account, yesterday_ms).await.map_err(unreadable)
}

fn is_live(key: &KeyRecord) -> bool {
    key.revoked_at_ms.is_none()
}

/// Makes a new key. Returns the record to store, and the secret, which is shown once.
pub(super) fn new_key(
    account: &AccountId,
    name: &str,
    service: bool,
) -> Result<(KeyRecord, Secret), Problem> {
    let key = NewKey::generate().map_err(|error| {
        tracing::error!(%error, "the system gave no random bytes for a key");
        Problem::ledger_unavailable()
    })?;
    let record = KeyRecord {
        id: format!("key_{}", uuid::Uuid::now_v7().simple()).into(),
        hash: key.hash,
        account: account.clone(),
        name: name.into(),
        service,
        hint: key.hint.into(),
        created_at_ms: wall_ms(),
        revoked_at_ms: None,
    };
    Ok((record, key.key))
}

/// Stores keys, which are valid at once. Returns how many of them were new.
pub(super) async fn store(app: &App, keys: Vec<KeyRecord>) -> Result<usize, Problem> {
    let stored = app.ledger.put_keys(keys.clone()).await;
    let new = stored.map_err(|refusal| app.refuse(refusal, Credits::ZERO))?;
    for key in keys {
        // A key that exists already under another id stays as it is, and so does its revocation.
        let _ = app.keys.insert(key);
    }
    Ok(new)
}

/// Revokes a key, for all calls from now on.
pub(super) async fn revoke(app: &App, id: &str) -> Result<(), Problem> {
    let revoked = app.ledger.revoke_key(id.into()).await;
    revoked.map_err(|refusal| app.refuse(refusal, Credits::ZERO))?;
    app.keys.revoke(id, wall_ms());
    Ok(())
}

fn too_many_live() -> Problem {
    Problem::unprocessable(texts::too_many_keys(MAX_LIVE))
}
