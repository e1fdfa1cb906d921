//! Holds that have been open for a long time.

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::parameters::unless_empty;
use crate::api::transactions::{rfc3339, unreadable};
use crate::credits::Credits;
use crate::ledger::{HoldView, Origin, wall_ms};
use crate::price::PriceTable;
use crate::problem::{Problem, texts};

/// The age in seconds from which the hold of a call counts as old. Few calls take five minutes.
pub(super) const OLD_SECS: u32 = 300;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

#[derive(Deserialize)]
pub(crate) struct HoldsQuery {
    /// Only holds of calls that are at least this old, in seconds.
    #[serde(default, deserialize_with = "unless_empty")]
    older_than: Option<u32>,
    #[serde(default, deserialize_with = "unless_empty")]
    limit: Option<u32>,
}

#[derive(Serialize)]
struct HoldBody {
    id: String,
    account: AccountId,
    credits: Credits,
    route: String,
    /// The label that people read in place of `route`.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    origin: &'static str,
    /// `null` for a hold of the API: the API's caller chose its id, which contains no time.
    created_at: Option<String>,
    expires_at: String,
}

#[derive(Serialize)]
pub(crate) struct HoldsBody {
    holds: Vec<HoldBody>,
}

impl HoldBody {
    fn of(hold: HoldView, prices: &PriceTable) -> Self {
        Self {
            id: hold.id.to_string(),
            account: hold.account,
            credits: hold.amount,
            label: prices.display_label(&hold.route).map(str::to_owned),
            route: hold.route.to_string(),
            origin: match hold.origin {
                Origin::Call => "call",
                Origin::Api => "api",
            },
            created_at: hold.created_at_ms.map(rfc3339),
            expires_at: rfc3339(hold.expires_at_ms),
        }
    }
}

/// Lists the holds of calls, oldest first, then the holds of the API, by their expiry.
pub(crate) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<HoldsQuery>, QueryRejection>,
) -> Result<axum::Json<HoldsBody>, Problem> {
    let Query(query) = query.map_err(|_| Problem::bad_request(texts::BAD_HOLDS_QUERY))?;
    let before_ms = made_before_ms(query.older_than.unwrap_or(OLD_SECS));
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let holds = admin.app.ledger.read().live_holds(before_ms, limit).await.map_err(unreadable)?;
    let catalogue = admin.app.catalogue.load();
    let holds = holds.into_iter().map(|hold| HoldBody::of(hold, &catalogue.prices)).collect();
    Ok(axum::Json(HoldsBody { holds }))
}

/// The time before which a hold of at least this age was made, in milliseconds since 1970.
pub(super) fn made_before_ms(age_secs: u32) -> i64 {
    wall_ms().saturating_sub(i64::from(age_secs) * 1000).saturating_add(1)
}
