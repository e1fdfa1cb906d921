//! An overview of the last hours.

use std::collections::BTreeMap;

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::api::admin::Admin;
use crate::api::admin::holds::{OLD_SECS, made_before_ms};
use crate::api::transactions::unreadable;
use crate::app::Catalogue;
use crate::credits::SignedCredits;
use crate::ledger::{Activity, EntryKind, Movement, Sold, wall_ms};
use crate::price::{Margin, Route, RoutePrice};
use crate::problem::{Problem, texts};

/// The shown price of a route whose price depends on usage.
const BY_USAGE: &str = "by usage";

const DEFAULT_HOURS: i64 = 24;

/// The longest overview: a week.
const MAX_HOURS: i64 = 168;

const HOUR_SECS: i64 = 3600;

/// The number of days that the sales figures cover: enough for an app that sells a few packs a
/// week.
const SALES_DAYS: i64 = 30;

#[derive(Deserialize)]
pub(crate) struct OverviewQuery {
    /// The number of hours, including the current one.
    hours: Option<i64>,
}

/// The credits that moved in one hour.
#[derive(Default, Serialize)]
struct HourBody {
    /// The start of the hour, in UTC.
    hour: String,
    calls: u64,
    captured: SignedCredits,
    granted: SignedCredits,
    purchases: u64,
}

/// The figures of a route. Rules for different methods of one path are one route here. If their
/// values differ, all of the values are listed, in the order of the config.
#[derive(Default, Serialize)]
struct RouteBody {
    route: String,
    /// The label that people read in place of `route`.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    methods: Option<String>,
    calls: u64,
    captured: SignedCredits,
    /// The price in credits; `null` for a route that has no rule any more.
    price: Option<String>,
    /// The unit prices of a metered route that has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    units: Option<Box<RawValue>>,
    cost: Option<String>,
    margin: Option<String>,
}

#[derive(Serialize)]
struct RevenueBody {
    currency: String,
    /// The sum of payments, in minor units.
    amount: u64,
    purchases: u64,
}

/// The sales figures, as the ledger has them. Views of the packs are not among them: only a metric
/// counts those.
#[derive(Serialize)]
struct SalesBody {
    /// The number of days that the figures cover.
    days: i64,
    /// The checkouts that were opened in these days. `purchases` are those of them that were paid.
    checkouts: u64,
    purchases: u64,
    currencies: Vec<SoldBody>,
    webhooks: WebhooksBody,
}

/// The sales in one currency. Amounts are sums of payments, in minor units.
#[derive(Serialize)]
struct SoldBody {
    currency: String,
    amount: u64,
    purchases: u64,
    buyers: u64,
    /// The average payment of a purchase.
    basket: u64,
    /// The average sum of payments per account that bought.
    per_buyer: u64,
}

/// The numbers of Stripe's events in the inbox.
#[derive(Serialize)]
struct WebhooksBody {
    received: u64,
    failed: u64,
}

#[derive(Serialize)]
struct HoldsBody {
    live: u64,
    stuck: u64,
}

#[derive(Serialize)]
pub(crate) struct OverviewBody {
    /// The hours, oldest first, without gaps.
    hours: Vec<HourBody>,
    /// The routes of the price table, then other routes that credits were charged for.
    routes: Vec<RouteBody>,
    revenue: Vec<RevenueBody>,
    sales: SalesBody,
    accounts: u64,
    holds: HoldsBody,
}

/// Shows the movements of the last hours, the sales and the current state.
pub(crate) async fn overview(
    State(admin): State<Admin>,
    query: Result<Query<OverviewQuery>, QueryRejection>,
) -> Result<axum::Json<OverviewBody>, Problem> {
    let hours = query.map_or(None, |Query(query)| Some(query.hours.unwrap_or(DEFAULT_HOURS)));
    let hours = hours
        .filter(|hours| (1..=MAX_HOURS).contains(hours))
        .ok_or_else(|| Problem::bad_request(texts::bad_hours(MAX_HOURS)))?;
    let now_ms = wall_ms();
    let now = (now_ms / 1000).div_euclid(HOUR_SECS);
    let since = now + 1 - hours;
    let read = admin.app.ledger.read();
    let activity = read.activity(since, made_before_ms(OLD_SECS)).await.map_err(unreadable)?;
    let sold_since = now_ms.saturating_sub(SALES_DAYS * 24 * HOUR_SECS * 1000);
    let sold = read.sold(sold_since).await.map_err(unreadable)?;
    let catalogue = admin.app.catalogue.load();
    Ok(axum::Json(OverviewBody {
        hours: by_hour(&activity.movements, since, now),
        routes: by_route(&activity.movements, &catalogue),
        revenue: revenue(&activity),
        sales: SalesBody::of(sold),
        accounts: activity.accounts,
        holds: HoldsBody { live: activity.live_holds, stuck: activity.old_holds },
    }))
}

fn by_hour(movements: &[Movement], since: i64, now: i64) -> Vec<HourBody> {
    let begun = |hour: i64| {
        let at = OffsetDateTime::from_unix_timestamp(hour.saturating_mul(HOUR_SECS));
        at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
    };
    let mut hours: BTreeMap<i64, HourBody> = (since..=now)
        .map(|hour| (hour, HourBody { hour: begun(hour), ..HourBody::default() }))
        .collect();
    for movement in movements {
        // An entry that was made by a clock that is ahead may be in no listed hour.
        let Some(hour) = hours.get_mut(&movement.hour) else { continue };
        match movement.kind {
            EntryKind::Capture => {
                hour.calls += movement.entries;
                hour.captured = plus(hour.captured, -movement.amount);
            }
            EntryKind::Grant => {
                hour.granted = plus(hour.granted, movement.amount);
                hour.purchases += if movement.is_payment { movement.entries } else { 0 };
            }
            _ => {}
        }
    }
    hours.into_values().collect()
}

fn by_route(movements: &[Movement], catalogue: &Catalogue) -> Vec<RouteBody> {
    let mut routes: Vec<RouteBody> = Vec::new();
    let labels = catalogue.prices.routes().iter().map(|rule| rule.label());
    let captures = movements.iter().filter(|movement| movement.kind == EntryKind::Capture);
    let captured_for = captures.clone().filter_map(|movement| movement.route.as_deref());
    for label in labels.chain(captured_for) {
        if !routes.iter().any(|route| route.route == label) {
            let rules = catalogue.prices.routes().iter().filter(|rule| rule.label() == label);
            routes.push(RouteBody::of(label, rules.map(|rule| &**rule), catalogue));
        }
    }
    for movement in captures {
        let label = movement.route.as_deref();
        if let Some(route) = routes.iter_mut().find(|route| Some(&*route.route) == label) {
            route.calls += movement.entries;
            route.captured = plus(route.captured, -movement.amount);
        }
    }
    routes
}

impl RouteBody {
    fn of<'a>(
        label: &str,
        rules: impl Iterator<Item = &'a Route> + Clone,
        catalogue: &Catalogue,
    ) -> Self {
        let all = |value: &dyn Fn(&Route) -> Option<String>| {
            let mut values: Vec<String> = rules.clone().filter_map(value).collect();
            values.dedup();
            (!values.is_empty()).then(|| values.join(" / "))
        };
        let units = rules.clone().find_map(|rule| match &rule.price {
            RoutePrice::Units(tariff, _) => to_raw_value(tariff.base()).ok(),
            _ => None,
        });
        Self {
            route: label.to_owned(),
            units,
            label: catalogue.prices.display_label(label).map(str::to_owned),
            methods: all(&|rule| Some(rule.methods.to_string())),
            price: all(&|rule| {
                Some(match rule.price.fixed() {
                    Some(credits) => credits.to_string(),
                    None => BY_USAGE.to_owned(),
                })
            }),
            cost: all(&|rule| rule.cost.map(|cost| cost.to_string())),
            margin: all(&|rule| Margin::of(rule, &catalogue.packs, &catalogue.rates).shown()),
            ..Self::default()
        }
    }
}

fn revenue(activity: &Activity) -> Vec<RevenueBody> {
    let mut currencies: BTreeMap<&str, RevenueBody> = BTreeMap::new();
    for payment in &activity.paid {
        let price = payment.facts.sale.as_ref().map(|sale| &sale.price);
        let Some(paid) = payment.facts.paid.as_ref().or(price) else { continue };
        let body = currencies.entry(&paid.currency).or_insert_with(|| RevenueBody {
            currency: paid.currency.to_string(),
            amount: 0,
            purchases: 0,
        });
        body.amount = body.amount.saturating_add(paid.amount);
        body.purchases += 1;
    }
    currencies.into_values().collect()
}

impl SalesBody {
    fn of(sold: Sold) -> Self {
        let currencies = sold.currencies.into_iter().map(|sold| SoldBody {
            currency: sold.currency.to_string(),
            amount: sold.amount,
            purchases: sold.purchases,
            buyers: sold.buyers,
            basket: average(sold.amount, sold.purchases),
            per_buyer: average(sold.amount, sold.buyers),
        });
        Self {
            days: SALES_DAYS,
            checkouts: sold.checkouts,
            purchases: sold.purchases,
            currencies: currencies.collect(),
            webhooks: WebhooksBody { received: sold.events, failed: sold.failed_events },
        }
    }
}

/// The average, rounded to the nearest minor unit, halves upwards. 0 if `among` is 0.
fn average(amount: u64, among: u64) -> u64 {
    let rounded = amount.checked_add(among / 2).and_then(|sum| sum.checked_div(among));
    rounded.unwrap_or_default()
}

/// Adds two amounts. Keeps `sum` if the result is too large for credits.
fn plus(sum: SignedCredits, amount: SignedCredits) -> SignedCredits {
    sum.checked_add(amount).unwrap_or(sum)
}
