//! The revenue, own cost and margin of each model, from the ledger's entries.

use std::collections::HashMap;

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::api::admin::Admin;
use crate::api::transactions::unreadable;
use crate::app::Catalogue;
use crate::credits::Credits;
use crate::ledger::{ModelUsage, wall_ms};
use crate::price::metered::{Model, OwnCost};
use crate::price::{ListedModel, Margin};
use crate::problem::{Problem, texts};
use crate::usage::{Kind, Totals};

const DEFAULT_HOURS: i64 = 24;

/// The longest report: a month.
const MAX_HOURS: i64 = 31 * 24;

const HOUR_MS: i64 = 3600 * 1000;

#[derive(Deserialize)]
pub(crate) struct ModelsQuery {
    /// The number of hours, up to now.
    hours: Option<i64>,
}

/// The metered calls of a model.
#[derive(Serialize)]
struct ModelBody {
    /// The `match` of the price that applies today; the name in small letters for a model that has no
    /// price any more, and `null` for routes with unit prices of their own.
    model: Option<String>,
    /// The model as `GET /credits/prices` lists it; `null` if the price table does not have the
    /// model.
    price: Option<Box<RawValue>>,
    calls: u64,
    captured: Credits,
    usage: Totals,
    /// The worth of the captured credits, at the price of the smallest pack.
    revenue: Option<String>,
    /// The own cost, at the costs of today.
    cost: Option<String>,
    margin: Option<String>,
    /// The kinds that were used and have no cost in the price table, so `cost` lacks them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uncosted: Vec<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct ModelsBody {
    hours: i64,
    /// The models of the price table, and others that credits were charged for; those with the most
    /// credits first.
    models: Vec<ModelBody>,
}

/// Shows the models of the last hours. Refunds are not subtracted.
pub(crate) async fn models(
    State(admin): State<Admin>,
    query: Result<Query<ModelsQuery>, QueryRejection>,
) -> Result<axum::Json<ModelsBody>, Problem> {
    let hours = query.map_or(None, |Query(query)| Some(query.hours.unwrap_or(DEFAULT_HOURS)));
    let hours = hours
        .filter(|hours| (1..=MAX_HOURS).contains(hours))
        .ok_or_else(|| Problem::bad_request(texts::bad_hours(MAX_HOURS)))?;
    let since_ms = wall_ms().saturating_sub(hours * HOUR_MS);
    let used = admin.app.ledger.read().models(since_ms).await.map_err(unreadable)?;
    let catalogue = admin.app.catalogue.load();
    Ok(axum::Json(ModelsBody { hours, models: by_price(used, &catalogue) }))
}

/// Adds up the models that have the same price, and describes each sum. A model without calls has a
/// line too.
fn by_price(used: Vec<ModelUsage>, catalogue: &Catalogue) -> Vec<ModelBody> {
    let mut sums: Vec<(ModelUsage, Option<&Model>)> = Vec::new();
    let mut places: HashMap<usize, usize> = HashMap::new();
    for used in used {
        let priced = used.model.as_deref().and_then(|model| catalogue.prices.models().find(model));
        let place = priced.map(|model| *places.entry(model.index).or_insert(sums.len()));
        match place.and_then(|place| sums.get_mut(place)) {
            Some((sum, _)) => {
                sum.calls = sum.calls.saturating_add(used.calls);
                sum.credits = sum.credits.checked_add(used.credits).unwrap_or(sum.credits);
                sum.usage.add_all(&used.usage);
            }
            None => sums.push((used, priced.map(|model| &**model))),
        }
    }
    for model in catalogue.prices.models().all() {
        if !places.contains_key(&model.index) {
            sums.push((ModelUsage::default(), Some(&**model)));
        }
    }
    sums.sort_by_key(|(sum, _)| std::cmp::Reverse(sum.credits));
    sums.into_iter().map(|(sum, model)| ModelBody::of(sum, model, catalogue)).collect()
}

impl ModelBody {
    fn of(used: ModelUsage, model: Option<&Model>, catalogue: &Catalogue) -> Self {
        let ModelUsage { model: name, calls, credits, usage } = used;
        let own = model.and_then(|model| OwnCost::of(model.tariff.cost(), calls, &usage));
        let margin = Margin::of_calls(credits, own.as_ref(), &catalogue.packs, &catalogue.rates);
        Self {
            model: model.map(|model| model.label.to_string()).or(name.map(|name| name.to_string())),
            price: model.and_then(|model| to_raw_value(&ListedModel::from(model)).ok()),
            calls,
            captured: credits,
            usage,
            margin: margin.shown(),
            revenue: margin.revenue.map(|revenue| revenue.to_string()),
            cost: margin.cost.map(|cost| cost.to_string()),
            uncosted: own.iter().flat_map(|own| &own.uncosted).copied().map(Kind::as_str).collect(),
        }
    }
}
