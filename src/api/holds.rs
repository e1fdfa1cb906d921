//! Holds for work that does not pass through the proxy, such as queued or asynchronous jobs.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::account::AccountId;
use crate::api::answer::RequestId;
use crate::api::body::Json;
use crate::api::caller::ServiceCaller;
use crate::app::{App, Usage, log_usage};
use crate::credits::{Credits, SignedCredits, json_number};
use crate::identify::Identity;
use crate::ledger::{ClosedHold, HoldEnd, HoldId, Refusal};
use crate::metrics::{API_ROUTE, Metrics};
use crate::price::CanonicalPath;
use crate::problem::{Problem, texts};

/// The lifetime of a hold whose request has no `ttl_seconds`: a quarter of an hour.
const DEFAULT_TTL_SECS: u64 = 15 * 60;

/// The longest lifetime of a hold: a day.
const MAX_TTL_SECS: u64 = 24 * 3600;

/// The body of a request for a hold. It sets aside the price of `endpoint`, or `credits`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldRequest {
    /// The caller's own id for the hold. A repeated id gives the same hold.
    id: String,
    /// The path of a call; its price is held.
    endpoint: Option<String>,
    /// The method of that call; POST if absent.
    method: Option<String>,
    #[schema(value_type = Option<f64>)]
    credits: Option<Box<serde_json::value::RawValue>>,
    /// The time in seconds after which the hold expires: at most a day; a quarter of an hour if
    /// absent.
    ttl_seconds: Option<u64>,
}

/// A hold that was placed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HoldBody {
    id: String,
    #[schema(value_type = String)]
    account: AccountId,
    #[schema(value_type = f64)]
    credits: Credits,
    #[schema(value_type = f64)]
    available: SignedCredits,
}

/// Sets credits aside.
#[utoipa::path(post, path = "/holds", request_body = HoldRequest, responses(
    (status = 201, body = HoldBody), (status = 400), (status = 401), (status = 402),
    (status = 403), (status = 404), (status = 409), (status = 503)))]
pub(super) async fn hold(
    State(app): State<Arc<App>>,
    ServiceCaller(caller): ServiceCaller,
    Json(request): Json<HoldRequest>,
) -> Result<(StatusCode, axum::Json<HoldBody>), Problem> {
    let id: HoldId = request.id.parse().map_err(bad_id)?;
    if !fits_in_a_path(&request.id) {
        return Err(Problem::bad_request(texts::HOLD_ID_IN_A_PATH));
    }
    let (credits, route): (Credits, Arc<str>) = match (&request.endpoint, &request.credits) {
        (Some(endpoint), None) => {
            let method = request.method.as_deref().unwrap_or("POST");
            let (credits, route) = app.quote_endpoint(method, endpoint)?;
            (credits, route.label().into())
        }
        (None, Some(credits)) => (json_number(&**credits).map_err(bad_credits)?, API_ROUTE.into()),
        _ => {
            return Err(Problem::bad_request(texts::ENDPOINT_OR_CREDITS));
        }
    };
    let ttl_secs = request.ttl_seconds.unwrap_or(DEFAULT_TTL_SECS);
    if !(1..=MAX_TTL_SECS).contains(&ttl_secs) {
        return Err(Problem::bad_request(texts::bad_ttl(MAX_TTL_SECS)));
    }
    let (account, ttl_ms) = (caller.account.clone(), ttl_secs * 1000);
    let held = app.ledger.hold_for_api(id, account, credits, route.clone(), ttl_ms).await;
    let after = held.map_err(|refusal| {
        app.metrics.holds.with_label_values(&[&*route, "refused"]).inc();
        app.refuse(refusal, credits)
    })?;
    let available = after.available();
    let body = HoldBody { id: request.id, account: caller.account, credits, available };
    Ok((StatusCode::CREATED, axum::Json(body)))
}

/// Whether `/holds/{id}/capture` can be requested with this id. A path that can be read in two ways
/// is refused, and then the hold could not be ended and would keep its credits until it expires.
fn fits_in_a_path(id: &str) -> bool {
    let path = format!("/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    CanonicalPath::parse(path.as_bytes()).is_ok()
}

/// A hold that was ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndBody {
    id: String,
    /// `captured` or `released`.
    state: &'static str,
    #[schema(value_type = f64)]
    available: SignedCredits,
}

/// The part of a hold to charge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureRequest {
    #[serde(deserialize_with = "json_number")]
    #[schema(value_type = f64)]
    credits: Credits,
}

/// Charges a hold, wholly or in part, and gives the rest back.
#[utoipa::path(post, path = "/holds/{id}/capture", params(("id" = String, Path)),
    request_body = CaptureRequest, responses(
    (status = 200, body = EndBody), (status = 400), (status = 401), (status = 403),
    (status = 404), (status = 409), (status = 422), (status = 503)))]
pub(super) async fn capture(
    State(app): State<Arc<App>>,
    ServiceCaller(caller): ServiceCaller,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Path(id): Path<String>,
    Json(request): Json<CaptureRequest>,
) -> Result<axum::Json<EndBody>, Problem> {
    let hold = id.parse().map_err(bad_id)?;
    let amount = request.credits;
    let captured = app.ledger.capture(hold, named(caller), amount, API_ROUTE.into()).await;
    ended(&app, id, captured, Some(&request_id))
}

/// An empty object or an empty body: a hold is always released whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseRequest {}

/// Gives a hold back.
#[utoipa::path(post, path = "/holds/{id}/release", params(("id" = String, Path)),
    request_body = Option<ReleaseRequest>, responses(
    (status = 200, body = EndBody), (status = 400), (status = 401), (status = 403), (status = 404),
    (status = 409), (status = 503)))]
pub(super) async fn release(
    State(app): State<Arc<App>>,
    ServiceCaller(caller): ServiceCaller,
    Path(id): Path<String>,
    Json(ReleaseRequest {}): Json<ReleaseRequest>,
) -> Result<axum::Json<EndBody>, Problem> {
    let hold = id.parse().map_err(bad_id)?;
    let released = app.ledger.release(hold, named(caller)).await;
    ended(&app, id, released, None)
}

/// The account that the request of a service key names. If it names one, only that account's holds
/// can be ended; otherwise any hold can.
fn named(caller: Identity) -> Option<AccountId> {
    caller.on_behalf_by.is_some().then_some(caller.account)
}

/// Counts and logs the end of a hold, and makes the response.
fn ended(
    app: &App,
    id: String,
    ended: Result<ClosedHold, Refusal>,
    captured_by: Option<&str>,
) -> Result<axum::Json<EndBody>, Problem> {
    let ended = ended.map_err(|refusal| app.refuse(refusal, Credits::ZERO))?;
    let ClosedHold { is_captured, is_late, after, end } = ended;
    let state = if is_captured { "captured" } else { "released" };
    if let Some(end) = end {
        count(&app.metrics, &end, state, is_late);
        if let Some(request_id) = captured_by.filter(|_| !end.captured.is_zero()) {
            log_usage(&Usage {
                account: &end.account,
                model: None,
                route: &end.route,
                cost: end.captured,
                available_after: after.available(),
                request_id,
            });
        }
    }
    Ok(axum::Json(EndBody { id, state, available: after.available() }))
}

/// Counts the end of a hold. If a hold is captured `late`, its end was already counted when it
/// expired.
fn count(metrics: &Metrics, end: &HoldEnd, outcome: &str, late: bool) {
    let route = &*end.route;
    if !late {
        metrics.holds.with_label_values(&[route, outcome]).inc();
    }
    for (credits, counter) in
        [(end.captured, &metrics.credits_captured), (end.released, &metrics.credits_released)]
    {
        if !credits.is_zero() {
            counter.with_label_values(&[route]).inc_by(credits.as_metric());
        }
    }
}

pub(super) fn bad_id(error: crate::ledger::IdError) -> Problem {
    Problem::bad_request(texts::bad_id(&error))
}

fn bad_credits(error: serde_json::Error) -> Problem {
    Problem::bad_request(texts::bad_credits(&error))
}
