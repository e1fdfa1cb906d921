//! Calls that were cut off by a crash, or by a stop that ran out of time.

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::Serialize;

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::transactions::{PageQuery, bad_page, page_query, rfc3339, unreadable};
use crate::credits::Credits;
use crate::ledger::{CrashOutcome, CrashedCall, HoldId};
use crate::problem::Problem;

#[derive(Serialize)]
struct CrashedBody {
    account: AccountId,
    route: String,
    /// The amount that was charged or given back; for a corrected call, the final charge.
    amount: Credits,
    request_id: String,
    at: String,
    outcome: CrashOutcome,
}

impl From<CrashedCall> for CrashedBody {
    fn from(call: CrashedCall) -> Self {
        Self {
            account: call.account,
            route: call.route.to_string(),
            amount: call.amount,
            request_id: call.id.to_string(),
            at: rfc3339(call.at_ms),
            outcome: call.outcome,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct CrashedListBody {
    crashed: Vec<CrashedBody>,
    next_cursor: Option<String>,
}

/// Lists the calls that were cut off, newest first.
pub(crate) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<axum::Json<CrashedListBody>, Problem> {
    let query = page_query(query)?;
    let before = match query.cursor.as_deref() {
        Some(cursor) => Some(read_cursor(cursor).ok_or_else(|| bad_page("cursor"))?),
        None => None,
    };
    let limit = query.limit();
    let before = before.as_ref().map(|(at_ms, id)| (*at_ms, id));
    let read = admin.app.ledger.read();
    let mut crashed = read.crashed(before, limit + 1).await.map_err(unreadable)?;
    let more = crashed.len() > limit as usize;
    crashed.truncate(limit as usize);
    let next_cursor = crashed.last().filter(|_| more).map(cursor_of);
    let crashed = crashed.into_iter().map(Into::into).collect();
    Ok(axum::Json(CrashedListBody { crashed, next_cursor }))
}

/// The cursor of the page that follows after this call.
fn cursor_of(call: &CrashedCall) -> String {
    format!("{}.{}", call.at_ms, call.id)
}

fn read_cursor(text: &str) -> Option<(i64, HoldId)> {
    let (at_ms, id) = text.split_once('.')?;
    Some((at_ms.parse().ok()?, id.parse().ok()?))
}
