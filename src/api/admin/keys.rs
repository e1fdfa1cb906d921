//! The routes for API keys.

use axum::Extension;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::admin::posting::parse_account;
use crate::api::admin::token::Change;
use crate::api::body::Json;
use crate::api::keys::{new_key, revoke as revoke_key, store};
use crate::api::transactions::{rfc3339, unreadable};
use crate::problem::Problem;

#[derive(Deserialize)]
pub(crate) struct NewKeyRequest {
    #[serde(default)]
    name: String,
    #[serde(default)]
    service: bool,
}

/// A new key. It is shown only this once.
#[derive(Serialize)]
pub(crate) struct NewKeyBody {
    id: String,
    key: String,
    account: AccountId,
    name: String,
    service: bool,
}

pub(crate) async fn create(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    Json(request): Json<NewKeyRequest>,
) -> Result<(StatusCode, Extension<Change>, axum::Json<NewKeyBody>), Problem> {
    let account = parse_account(&account)?;
    let NewKeyRequest { name, service } = request;
    let (record, key) = new_key(&account, &name, service)?;
    let id = record.id.to_string();
    // A service key's own account is not a customer's, so it is not opened and gets no sign-up
    // grant.
    if !service {
        admin.app.open(&account).await?;
    }
    store(&admin.app, vec![record]).await?;
    let body = NewKeyBody { id, key: key.expose().to_owned(), account, name, service };
    Ok((StatusCode::CREATED, Change::of(&body.id), axum::Json(body)))
}

/// A key in a list, without its secret.
#[derive(Serialize)]
pub(crate) struct KeyBody {
    id: String,
    name: String,
    service: bool,
    hint: String,
    created_at: String,
    revoked_at: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct KeysBody {
    keys: Vec<KeyBody>,
}

pub(crate) async fn list(
    State(admin): State<Admin>,
    Path(account): Path<String>,
) -> Result<axum::Json<KeysBody>, Problem> {
    let account = parse_account(&account)?;
    let keys = admin.app.ledger.read().keys(Some(&account)).await.map_err(unreadable)?;
    let keys = keys.into_iter().map(|key| KeyBody {
        id: key.id.to_string(),
        name: key.name.to_string(),
        service: key.service,
        hint: key.hint.to_string(),
        created_at: rfc3339(key.created_at_ms),
        revoked_at: key.revoked_at_ms.map(rfc3339),
    });
    Ok(axum::Json(KeysBody { keys: keys.collect() }))
}

pub(crate) async fn revoke(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    revoke_key(&admin.app, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
