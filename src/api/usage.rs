//! `GET /usage`: what the caller's calls cost, by day and route.

use std::sync::Arc;

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::caller::Caller;
use super::transactions::unreadable;
use crate::credits::Credits;
use crate::ledger::{DayUsage, wall_ms};
use crate::price::PriceTable;
use crate::problem::{Problem, Text};
use crate::shop::Shop;

const DEFAULT_DAYS: i64 = 30;
const MAX_DAYS: i64 = 92;
const DAY_SECS: i64 = 24 * 3600;

/// How far back.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// How many days, today included: 1 to 92; 30 if absent.
    days: Option<i64>,
}

/// What one route came to on one day.
#[derive(Serialize, ToSchema)]
struct UsageLine {
    /// UTC: `2026-11-23`.
    day: String,
    route: String,
    /// What people read in place of `route`, where gateway.toml has words for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    calls: u64,
    #[schema(value_type = f64)]
    credits: Credits,
}

/// What was used, newest day first.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageBody {
    days: i64,
    usage: Vec<UsageLine>,
    /// False where the account makes so many calls that the oldest of them were not looked at.
    complete: bool,
}

impl UsageLine {
    fn of(used: DayUsage, prices: &PriceTable) -> Self {
        let DayUsage { day, route, calls, credits } = used;
        let label = prices.display_label(&route).map(str::to_owned);
        Self { day: date(day), route: route.to_string(), label, calls, credits }
    }
}

/// What the caller's calls cost, by day and route. What was given back later is not taken off.
#[utoipa::path(get, path = "/usage", params(UsageQuery), responses(
    (status = 200, body = UsageBody), (status = 400), (status = 401), (status = 503)))]
pub(super) async fn usage(
    State(shop): State<Arc<Shop>>,
    Caller(caller): Caller,
    query: Result<Query<UsageQuery>, QueryRejection>,
) -> Result<axum::Json<UsageBody>, Problem> {
    let days = query.map_or(None, |Query(query)| Some(query.days.unwrap_or(DEFAULT_DAYS)));
    let days = days.filter(|days| (1..=MAX_DAYS).contains(days)).ok_or_else(|| {
        Problem::bad_request(Text::new(
            format!("`days` is a number from 1 to {MAX_DAYS}."),
            format!("`days` est un nombre de 1 à {MAX_DAYS}."),
        ))
    })?;
    let today = (wall_ms() / 1000).div_euclid(DAY_SECS);
    let since_ms = (today + 1 - days).saturating_mul(DAY_SECS * 1000);
    let used = shop.ledger.read().usage(&caller.account, since_ms).await.map_err(unreadable)?;
    let catalogue = shop.catalogue.load();
    let usage = used.days.into_iter().map(|used| UsageLine::of(used, &catalogue.prices)).collect();
    Ok(axum::Json(UsageBody { days, usage, complete: used.is_whole }))
}

/// A day counted from 1970, as ISO 8601 writes it.
fn date(day: i64) -> String {
    OffsetDateTime::from_unix_timestamp(day.saturating_mul(DAY_SECS))
        .map(|at| at.date().to_string())
        .unwrap_or_default()
}
