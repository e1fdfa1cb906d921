//! `GET /usage`: the cost of the caller's calls, by day and route, and of the metered ones by model.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRef, Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::{IntoParams, ToSchema};

use crate::account::AccountId;
use crate::api::caller::Caller;
use crate::api::transactions::unreadable;
use crate::app::App;
use crate::credits::Credits;
use crate::ledger::{DayUsage, ModelUsage, wall_ms};
use crate::price::PriceTable;
use crate::problem::{Problem, texts};
use crate::usage::Totals;

const DEFAULT_DAYS: i64 = 30;
const MAX_DAYS: i64 = 92;
const DAY_SECS: i64 = 24 * 3600;

/// The number of permits, which is also the most accounts whose usage is added up at the same time.
const PLACES: usize = 64;

/// The longest time that a request waits for its account's turn.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The state of the handler. Adding up the usage of a busy account occupies one of the ledger's
/// readers for a while. So only one such request of an account runs at a time, and its next ones
/// wait.
#[derive(Clone)]
pub(super) struct Usage {
    app: Arc<App>,
    turns: Arc<Turns>,
}

/// The permits for adding up usage. A hash of the account chooses the permit, so that no list of
/// accounts is needed. Accounts with the same permit wait for each other.
struct Turns {
    places: [Semaphore; PLACES],
    hashes: RandomState,
}

impl Usage {
    /// The state for the accounts of `app`.
    pub fn new(app: Arc<App>) -> Self {
        let places = std::array::from_fn(|_| Semaphore::new(1));
        Self { app, turns: Arc::new(Turns { places, hashes: RandomState::new() }) }
    }
}

impl FromRef<Usage> for Arc<App> {
    fn from_ref(usage: &Usage) -> Self {
        usage.app.clone()
    }
}

impl Turns {
    /// Waits for the account's turn. The turn lasts until the permit is dropped.
    async fn take(&self, account: &AccountId) -> Result<SemaphorePermit<'_>, Problem> {
        let place = self.hashes.hash_one(account) as usize % PLACES;
        let place = self.places.get(place).ok_or_else(Problem::ledger_unavailable)?;
        let turn = tokio::time::timeout(LONGEST_WAIT, place.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| Problem::too_many_requests(texts::USAGE_BUSY))
    }
}

/// The query for a usage report.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// The number of days, including today: 1 to 92; 30 if absent.
    days: Option<i64>,
}

/// The calls of one route on one day.
#[derive(Serialize, ToSchema)]
struct UsageLine {
    /// The day in UTC, such as `2026-11-23`.
    day: String,
    route: String,
    /// The label that people read in place of `route`, if gateway.toml has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    calls: u64,
    #[schema(value_type = f64)]
    credits: Credits,
}

/// The metered calls of one model.
#[derive(Serialize, ToSchema)]
struct ModelLine {
    /// The model as the price table spells it, or in small letters; `null` for routes with unit prices of
    /// their own.
    model: Option<String>,
    calls: u64,
    #[schema(value_type = f64)]
    credits: Credits,
    /// The usage of each kind, such as `{"input":600,"output":300}`.
    #[schema(value_type = BTreeMap<String, u64>)]
    usage: Totals,
}

/// The usage, newest day first.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageBody {
    days: i64,
    usage: Vec<UsageLine>,
    /// The models of the metered calls, at most 100, with the most credits first.
    models: Vec<ModelLine>,
    /// False if the account made so many calls that the oldest were not counted.
    complete: bool,
}

impl UsageLine {
    fn of(used: DayUsage, prices: &PriceTable) -> Self {
        let DayUsage { day, route, calls, credits } = used;
        let label = prices.display_label(&route).map(str::to_owned);
        Self { day: date(day), route: route.to_string(), label, calls, credits }
    }
}

impl ModelLine {
    fn of(used: ModelUsage, prices: &PriceTable) -> Self {
        let ModelUsage { model, calls, credits, usage } = used;
        let priced = model.as_deref().and_then(|model| prices.models().find(model));
        let label = priced.filter(|model| model.is_exact()).map(|model| model.label.to_string());
        Self { model: label.or(model.map(|model| model.to_string())), calls, credits, usage }
    }
}

/// The cost of the caller's calls, by day and route, and by model. Refunds are not subtracted.
#[utoipa::path(get, path = "/usage", params(UsageQuery), responses(
    (status = 200, body = UsageBody), (status = 400), (status = 401), (status = 429),
    (status = 503)))]
pub(super) async fn usage(
    State(Usage { app, turns }): State<Usage>,
    Caller(caller): Caller,
    query: Result<Query<UsageQuery>, QueryRejection>,
) -> Result<axum::Json<UsageBody>, Problem> {
    let days = query.map_or(None, |Query(query)| Some(query.days.unwrap_or(DEFAULT_DAYS)));
    let days = days
        .filter(|days| (1..=MAX_DAYS).contains(days))
        .ok_or_else(|| Problem::bad_request(texts::bad_days(MAX_DAYS)))?;
    let today = (wall_ms() / 1000).div_euclid(DAY_SECS);
    let since_ms = (today + 1 - days).saturating_mul(DAY_SECS * 1000);
    let _turn = turns.take(&caller.account).await?;
    let used = app.ledger.read().usage(&caller.account, since_ms).await.map_err(unreadable)?;
    let catalogue = app.catalogue.load();
    let models = used.models.into_iter().map(|used| ModelLine::of(used, &catalogue.prices));
    let models = models.collect();
    let usage = used.days.into_iter().map(|used| UsageLine::of(used, &catalogue.prices)).collect();
    Ok(axum::Json(UsageBody { days, usage, models, complete: used.is_whole }))
}

/// A day, given as a number of days since 1970, in ISO 8601.
fn date(day: i64) -> String {
    OffsetDateTime::from_unix_timestamp(day.saturating_mul(DAY_SECS))
        .map(|at| at.date().to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_account_has_one_turn_at_a_time() {
        let places = std::array::from_fn(|_| Semaphore::new(1));
        let turns = Turns { places, hashes: RandomState::new() };
        let alice: AccountId = "alice".parse().unwrap();
        let first = turns.take(&alice).await.unwrap();
        let mut second = std::pin::pin!(turns.take(&alice));
        assert!(second.as_mut().now_or_never().is_none(), "two at a time");
        let others = (0..50).map(|n| format!("account-{n}").parse().unwrap());
        let passed = others.filter(|other| turns.take(other).now_or_never().is_some()).count();
        assert!(passed > 40, "only {passed} of 50 other accounts pass");
        drop(first);
        assert!(second.now_or_never().is_some_and(|turn| turn.is_ok()));
    }
}
