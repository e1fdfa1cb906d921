//! `POST /buy`: opens a checkout session.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{OriginalUri, State};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::answer::RequestId;
use crate::api::body::Json;
use crate::api::caller::Caller;
use crate::api::sandbox::seen_from_outside;
use crate::app::App;
use crate::problem::{Problem, texts};
use crate::stripe::{ApiError, BuyError, BuyKey};

/// The pack to buy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BuyRequest {
    /// The id of a pack, as `GET /packs` lists them.
    pack: String,
}

/// The checkout session that was opened.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BuyBody {
    /// The address of the checkout page.
    checkout_url: String,
    /// The id of Stripe's checkout session.
    session_id: String,
}

/// Opens a checkout page on which the caller pays for a pack. A page for the same pack and price
/// that was opened within the last hour is used again. With an `idempotency-key` header, the same
/// key always gives the same page, and another key gives another page. The response is 422 if the
/// key was sent with another pack before, 409 while the first request with the key runs, and 429
/// after a few requests within a minute.
#[utoipa::path(post, path = "/buy", request_body = BuyRequest, responses(
    (status = 200, body = BuyBody), (status = 400), (status = 401), (status = 404),
    (status = 409), (status = 422), (status = 429), (status = 502), (status = 503)))]
pub(super) async fn buy(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Extension(RequestId(request_id)): Extension<RequestId>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    Json(request): Json<BuyRequest>,
) -> Result<axum::Json<BuyBody>, Problem> {
    let sales = app.sales.as_ref().ok_or_else(|| Problem::not_found(texts::CREDITS_NOT_SOLD))?;
    let catalogue = app.catalogue.load_full();
    let pack = catalogue.packs.iter().find(|pack| pack.id == request.pack).ok_or_else(|| {
        let (pack, prefix) = (&request.pack, uri.path().trim_end_matches("/buy"));
        Problem::not_found(texts::unknown_pack(pack, prefix))
    })?;
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    // A key counts only for the account that sent it.
    let account = &caller.account;
    let own = |key| format!("{}:{account}:{key}", account.as_str().len());
    let own = key.map(own);
    let key = own.as_deref().map_or(BuyKey::Request(&request_id), BuyKey::Buyers);
    let bought = sales.buy(account, pack, key).await.map_err(refuse)?;
    let checkout_url = match sales.is_sandbox() {
        true => seen_from_outside(bought.url, &headers),
        false => bought.url,
    };
    Ok(axum::Json(BuyBody { checkout_url, session_id: bought.session.to_string() }))
}

/// The problem for a purchase that failed. Only the operator's log tells the cause.
fn refuse(error: BuyError) -> Problem {
    match error {
        BuyError::Api(error) => refuse_api(&error),
        error @ BuyError::OtherPrice { .. } => {
            tracing::error!(%error, "a pack cannot be sold");
            Problem::payments_failed()
        }
        BuyError::OtherPurchase => Problem::other_payload(texts::ANOTHER_PURCHASE),
        BuyError::InFlight => Problem::conflict(texts::PURCHASE_IN_PROGRESS),
        BuyError::TooMany { wait } => {
            let secs = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
            Problem::too_many_purchases(u32::try_from(secs).unwrap_or(u32::MAX))
        }
        BuyError::Ledger(error) => crate::api::transactions::unreadable(error),
        BuyError::Refused(_) => Problem::ledger_unavailable(),
    }
}

/// The problem for a request to Stripe that failed.
pub(super) fn refuse_api(error: &ApiError) -> Problem {
    tracing::error!(%error, "a request to Stripe failed");
    if error.is_temporary() { Problem::payments_unavailable() } else { Problem::payments_failed() }
}
