//! The operator's routes for Stripe's events and for frozen accounts.

use axum::extract::{Path, Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::admin::posting::parse_account;
use crate::api::body::Json;
use crate::api::buy::refuse_api;
use crate::api::parameters::unless_empty;
use crate::api::transactions::{rfc3339, unreadable};
use crate::credits::Credits;
use crate::ledger::{EventState, LedgerError, StripeEvent};
use crate::problem::{Problem, texts};
use crate::stripe::{ReconcileError, Reconciled, Sales};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// The query for Stripe's events.
#[derive(Deserialize)]
pub(crate) struct EventsQuery {
    state: Option<EventState>,
    #[serde(default, deserialize_with = "unless_empty")]
    limit: Option<u32>,
    #[serde(default, deserialize_with = "unless_empty")]
    cursor: Option<String>,
}

/// An event in a list.
#[derive(Serialize)]
pub(crate) struct EventBody {
    id: String,
    r#type: String,
    state: EventState,
    /// The cause, for an event that failed.
    note: Option<String>,
    received_at: String,
}

impl From<StripeEvent> for EventBody {
    fn from(event: StripeEvent) -> Self {
        Self {
            id: event.id.to_string(),
            r#type: event.kind.to_string(),
            state: event.state,
            note: event.note.as_deref().map(str::to_owned),
            received_at: rfc3339(event.received_at_ms),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct EventsBody {
    events: Vec<EventBody>,
    next_cursor: Option<String>,
}

/// Lists the events in the inbox, oldest first.
pub(crate) async fn events(
    State(admin): State<Admin>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<axum::Json<EventsBody>, Problem> {
    let Query(query) = query.map_err(|_| bad_query())?;
    let after = match &query.cursor {
        Some(cursor) => {
            let (at_ms, id) = cursor.split_once('.').ok_or_else(bad_query)?;
            Some((at_ms.parse().map_err(|_| bad_query())?, id))
        }
        None => None,
    };
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let read = admin.app.ledger.read();
    let mut events = read.events(query.state, after, limit + 1).await.map_err(unreadable)?;
    let more = events.len() > limit as usize;
    events.truncate(limit as usize);
    let next_cursor = events.last().filter(|_| more);
    let next_cursor = next_cursor.map(|last| format!("{}.{}", last.received_at_ms, last.id));
    Ok(axum::Json(EventsBody { events: events.into_iter().map(Into::into).collect(), next_cursor }))
}

#[derive(Serialize)]
pub(crate) struct ReplayBody {
    id: String,
    state: EventState,
}

/// Applies an event of the inbox once more. Effects that it had before are not repeated.
pub(crate) async fn replay(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<axum::Json<ReplayBody>, Problem> {
    let state = sales(&admin)?.replay(&id).await.map_err(|error| match error {
        LedgerError::Refused(refusal) => admin.app.refuse(refusal, Credits::ZERO),
        error => unreadable(error),
    })?;
    Ok(axum::Json(ReplayBody { id, state }))
}

#[derive(Deserialize)]
pub(crate) struct ReconcileRequest {
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
}

/// Applies the payments, refunds and disputes at Stripe since the given time whose events did not
/// arrive.
pub(crate) async fn reconcile(
    State(admin): State<Admin>,
    Json(request): Json<ReconcileRequest>,
) -> Result<axum::Json<Reconciled>, Problem> {
    let since_secs = request.since.unix_timestamp();
    let reconciled = sales(&admin)?.reconcile(since_secs).await;
    reconciled.map(axum::Json).map_err(|error| match error {
        ReconcileError::Api(error) => refuse_api(&error),
        ReconcileError::Refused(refusal) => admin.app.refuse(refusal, Credits::ZERO),
        ReconcileError::Sandbox => Problem::not_found(texts::SANDBOX_HAS_NO_STRIPE),
    })
}

#[derive(Serialize)]
pub(crate) struct ThawBody {
    account: AccountId,
    /// The number of disputes that froze the account.
    disputes: usize,
}

/// Unfreezes an account. The disputes at Stripe go on.
pub(crate) async fn thaw(
    State(admin): State<Admin>,
    Path(account): Path<String>,
) -> Result<axum::Json<ThawBody>, Problem> {
    let account = parse_account(&account)?;
    let thawed = admin.app.ledger.thaw(account.clone()).await;
    let disputes = thawed.map_err(|refusal| admin.app.refuse(refusal, Credits::ZERO))?;
    Ok(axum::Json(ThawBody { account, disputes }))
}

fn sales(admin: &Admin) -> Result<&Sales, Problem> {
    admin.app.sales.as_deref().ok_or_else(|| Problem::not_found(texts::NOTHING_IS_SOLD))
}

fn bad_query() -> Problem {
    Problem::bad_request(texts::BAD_EVENTS_QUERY)
}
