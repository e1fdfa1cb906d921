//! `GET /balance` and `POST /check`.

use std::sync::Arc;

use axum::extract::{Request, State};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::account::AccountId;
use crate::api::body::{MAX_BODY_BYTES, read};
use crate::api::caller::Caller;
use crate::app::App;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::Balance;
use crate::problem::Problem;

/// An account's credits. `balance` is `available` plus `held`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BalanceBody {
    #[schema(value_type = String)]
    account: AccountId,
    #[schema(value_type = f64)]
    balance: SignedCredits,
    #[schema(value_type = f64)]
    held: Credits,
    #[schema(value_type = f64)]
    available: SignedCredits,
    /// True if `available` is below the operator's `low_balance`.
    low: bool,
}

impl BalanceBody {
    /// The body for an account that has these credits.
    pub fn of(app: &App, account: AccountId, has: Balance) -> Self {
        let available = has.available();
        let low = app.is_low(available);
        Self { account, balance: has.balance, held: has.held, available, low }
    }
}

/// The credits of the caller's account.
#[utoipa::path(get, path = "/balance", responses(
    (status = 200, body = BalanceBody), (status = 401), (status = 503)))]
pub(super) async fn balance(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
) -> Result<axum::Json<BalanceBody>, Problem> {
    let balance = app.ledger.balance(&caller.account).await;
    let balance = balance.map_err(|_| Problem::ledger_unavailable())?.unwrap_or_default();
    Ok(axum::Json(BalanceBody::of(&app, caller.account, balance)))
}

/// A call that the caller may make later.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CheckRequest {
    /// The path of the call.
    endpoint: String,
    /// The method of the call; POST if absent.
    method: Option<String>,
    /// The body of the call, if the price depends on it.
    #[schema(value_type = Option<Object>)]
    body: Option<Box<RawValue>>,
}

/// The price of a call, and the credits left after it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckBody {
    allowed: bool,
    #[schema(value_type = f64)]
    cost: Credits,
    #[schema(value_type = f64)]
    available: SignedCredits,
    #[schema(value_type = f64)]
    remaining: SignedCredits,
}

/// Whether the caller can pay for a call. Takes nothing.
#[utoipa::path(post, path = "/check", request_body = CheckRequest, responses(
    (status = 200, body = CheckBody), (status = 400), (status = 401), (status = 402),
    (status = 403), (status = 404), (status = 413), (status = 503)))]
pub(super) async fn check(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    request: Request,
) -> Result<axum::Json<CheckBody>, Problem> {
    let limit = MAX_BODY_BYTES.saturating_add(app.largest_metered_body());
    let request: CheckRequest = read(request, limit).await?;
    let method = request.method.as_deref().unwrap_or("POST");
    let body = request.body.as_deref().map(RawValue::get);
    let cost = app.quote_call(method, &request.endpoint, body)?;
    let balance = app.ledger.balance(&caller.account).await;
    let balance = balance.map_err(|_| Problem::ledger_unavailable())?.unwrap_or_default();
    if balance.frozen && !cost.is_zero() {
        return Err(Problem::account_frozen());
    }
    let available = balance.available();
    match available.checked_sub(cost.signed()) {
        Some(remaining) if cost.is_zero() || !remaining.is_negative() => {
            Ok(axum::Json(CheckBody { allowed: true, cost, available, remaining }))
        }
        _ => Err(app.insufficient(cost, available)),
    }
}
