//! The lines that moved a balance, newest first, a page at a time.

use std::num::NonZero;
use std::sync::Arc;

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use utoipa::{IntoParams, ToSchema};

use super::caller::Caller;
use super::query::unless_empty;
use crate::account::AccountId;
use crate::credits::SignedCredits;
use crate::ledger::{Entry, EntryKind, Ledger};
use crate::problem::{Problem, Text};
use crate::shop::Shop;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many lines, at most 200; 50 if absent or empty.
    #[serde(default, deserialize_with = "unless_empty")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before; absent or empty for the first.
    #[serde(default, deserialize_with = "unless_empty")]
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The number of lines asked for, within what is served.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }
}

/// One line that moved the balance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Transaction {
    id: String,
    #[schema(value_type = String)]
    kind: EntryKind,
    /// Signed: what the balance moved by.
    #[schema(value_type = f64)]
    amount: SignedCredits,
    #[schema(value_type = f64)]
    balance_after: SignedCredits,
    route: Option<String>,
    request_id: Option<String>,
    reason: Option<String>,
    /// RFC 3339.
    created_at: String,
}

/// A page of lines.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TransactionsBody {
    transactions: Vec<Transaction>,
    next_cursor: Option<String>,
}

impl Transaction {
    pub fn of(entry: &Entry) -> Self {
        Self {
            id: entry.operation.as_str().to_owned(),
            kind: entry.kind,
            amount: entry.amount,
            balance_after: entry.balance_after,
            route: entry.route.as_deref().map(str::to_owned),
            request_id: entry.operation.hold().map(str::to_owned),
            reason: entry.reason.as_deref().map(str::to_owned),
            created_at: rfc3339(entry.created_at_ms),
        }
    }
}

/// The caller's transactions.
#[utoipa::path(get, path = "/transactions", params(PageQuery), responses(
    (status = 200, body = TransactionsBody), (status = 400), (status = 401)))]
pub(super) async fn transactions(
    State(shop): State<Arc<Shop>>,
    Caller(caller): Caller,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<axum::Json<TransactionsBody>, Problem> {
    page(&shop.ledger, &caller.account, page_query(query)?).await.map(axum::Json)
}

/// The query of a list, or what is wrong with it.
pub(super) fn page_query(
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<PageQuery, Problem> {
    query.map(|Query(query)| query).map_err(|_| bad_page("limit"))
}

/// One page of an account's transactions.
pub(super) async fn page(
    ledger: &Ledger,
    account: &AccountId,
    query: PageQuery,
) -> Result<TransactionsBody, Problem> {
    let before = match &query.cursor {
        Some(cursor) => Some(cursor.parse::<u64>().map_err(|_| bad_page("cursor"))?),
        None => None,
    };
    let limit = query.limit();
    let mut entries =
        ledger.read().entries(account, before, limit + 1).await.map_err(unreadable)?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries.last().filter(|_| more).map(|entry| entry.seq.to_string());
    Ok(TransactionsBody {
        transactions: entries.iter().map(Transaction::of).collect(),
        next_cursor,
    })
}

/// The ledger could not be read: our failure.
pub(super) fn unreadable(error: crate::ledger::LedgerError) -> Problem {
    tracing::error!(%error, "the ledger cannot be read");
    Problem::ledger_unavailable()
}

/// A value of a list's query that cannot be read.
pub(super) fn bad_page(what: &str) -> Problem {
    Problem::bad_request(Text::new(
        format!(
            "`{what}` is not valid: `limit` is a number up to {MAX_LIMIT}, `cursor` the `next_cursor` of the page before."
        ),
        format!(
            "`{what}` n'est pas valable : `limit` est un nombre jusqu'à {MAX_LIMIT}, `cursor` le `next_cursor` de la page précédente."
        ),
    ))
}

/// RFC 3339 with always three decimals, so that texts sort like the moments they name.
const MILLISECONDS: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second { decimal_digits: NonZero::new(3) })
    .encode();

/// A moment as RFC 3339, in UTC, to the millisecond.
pub(super) fn rfc3339(at_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Iso8601::<MILLISECONDS>).ok())
        .unwrap_or_default()
}
