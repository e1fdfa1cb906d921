//! Lists the entries that moved a balance, newest first, in pages.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{Date, OffsetDateTime};
use utoipa::{IntoParams, ToSchema};

use crate::account::AccountId;
use crate::api::caller::Caller;
use crate::api::parameters::unless_empty;
use crate::app::App;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::{Entry, EntryKind, HoldId, Replays};
use crate::price::PriceTable;
use crate::problem::{Problem, texts};
use crate::usage::Usage;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// The query for one page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// The number of lines, at most 200; 50 if absent or empty.
    #[serde(default, deserialize_with = "unless_empty")]
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous page; absent or empty for the first page.
    #[serde(default, deserialize_with = "unless_empty")]
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The number of lines that were asked for, at most [`MAX_LIMIT`].
    pub fn limit(&self) -> u32 {
        clamp(self.limit)
    }
}

fn clamp(limit: Option<u32>) -> u32 {
    limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
}

/// The query for a page of an account's entries, and their time range.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// The number of lines, at most 200; 50 if absent or empty.
    #[serde(default, deserialize_with = "unless_empty")]
    limit: Option<u32>,
    /// The `next_cursor` of the previous page; absent or empty for the first page.
    #[serde(default, deserialize_with = "unless_empty")]
    cursor: Option<String>,
    /// Only entries from this time on: RFC 3339, or a date in UTC.
    #[serde(default, deserialize_with = "unless_empty")]
    from: Option<String>,
    /// Only entries before this time; a date includes its whole day.
    #[serde(default, deserialize_with = "unless_empty")]
    to: Option<String>,
}

/// One entry that moved the balance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Transaction {
    id: String,
    #[schema(value_type = String)]
    kind: EntryKind,
    /// The signed change of the balance.
    #[schema(value_type = f64)]
    amount: SignedCredits,
    #[schema(value_type = f64)]
    balance_after: SignedCredits,
    route: Option<String>,
    /// The label that people read in place of `route`, if gateway.toml has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    request_id: Option<String>,
    reason: Option<String>,
    /// The time of the entry, as RFC 3339.
    created_at: String,
    /// The credits that were set aside for the call at its end. Like `model` and `usage`, only on captures of metered
    /// calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    held: Option<Credits>,
    /// The model as the request spelled it; `null` on a route with unit prices of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    model: Option<Option<String>>,
    /// The usage of each kind, such as `{"input":600,"output":300}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    usage: Option<Usage>,
    /// The number of retries that got the call's answer again, free of charge. Like `replayed_at`, only on captures
    /// of calls with such a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    replays: Option<u64>,
    /// The time of the last such retry, as RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_at: Option<String>,
}

/// A page of entries.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TransactionsBody {
    transactions: Vec<Transaction>,
    next_cursor: Option<String>,
}

impl Transaction {
    /// Describes `entry`, with the labels of `prices`.
    pub fn of(entry: &Entry, prices: &PriceTable) -> Self {
        let route = entry.route.as_deref();
        let metered = entry.usage.as_deref();
        Self {
            id: entry.operation.as_str().to_owned(),
            kind: entry.kind,
            amount: entry.amount,
            balance_after: entry.balance_after,
            route: route.map(str::to_owned),
            label: route.and_then(|route| prices.display_label(route)).map(str::to_owned),
            request_id: entry.operation.hold().map(str::to_owned),
            reason: entry.reason.as_deref().map(str::to_owned),
            created_at: rfc3339(entry.created_at_ms),
            held: metered.map(|call| call.held),
            model: metered.map(|call| call.model.as_deref().map(str::to_owned)),
            usage: metered.map(|call| call.usage),
            replays: None,
            replayed_at: None,
        }
    }

    fn replayed(self, replays: Option<&Replays>) -> Self {
        let replayed_at = replays.map(|replays| rfc3339(replays.last_ms));
        Self { replays: replays.map(|replays| replays.times), replayed_at, ..self }
    }
}

/// Describes entries, with the labels of the price table and the replays of their calls. All replays are read in one
/// query. If that query fails, the entries are shown without replays.
pub(super) async fn lines(app: &App, entries: &[Entry]) -> Vec<Transaction> {
    let call_of = |entry: &Entry| -> Option<HoldId> {
        let is_capture = entry.kind == EntryKind::Capture;
        entry.operation.hold().filter(|_| is_capture)?.parse().ok()
    };
    let calls: Vec<_> = entries.iter().map(call_of).collect();
    let known: Vec<_> = calls.iter().flatten().cloned().collect();
    let replays = app.ledger.read().replays(&known).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "entries are shown without their replays");
        HashMap::default()
    });
    let catalogue = app.catalogue.load();
    let lines = entries.iter().zip(calls).map(|(entry, call)| {
        let replays = call.and_then(|call| replays.get(&call));
        Transaction::of(entry, &catalogue.prices).replayed(replays)
    });
    lines.collect()
}

/// The caller's transactions, newest first. `from` and `to` limit them to a time range.
#[utoipa::path(get, path = "/transactions", params(HistoryQuery), responses(
    (status = 200, body = TransactionsBody), (status = 400), (status = 401)))]
pub(super) async fn transactions(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<axum::Json<TransactionsBody>, Problem> {
    page(&app, &caller.account, query).await.map(axum::Json)
}

/// The query of a list, or the problem if it cannot be read.
pub(super) fn page_query(
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<PageQuery, Problem> {
    query.map(|Query(query)| query).map_err(|_| bad_page("limit"))
}

/// One page of an account's transactions.
pub(super) async fn page(
    app: &App,
    account: &AccountId,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<TransactionsBody, Problem> {
    let Query(HistoryQuery { limit, cursor, from, to }) = query.map_err(|_| bad_page("limit"))?;
    let before = match &cursor {
        Some(cursor) => Some(cursor.parse::<u64>().map_err(|_| bad_page("cursor"))?),
        None => None,
    };
    let from_ms = from.as_deref().map(|text| moment(text, 0).ok_or_else(|| bad_time("from")));
    let to_ms = to.as_deref().map(|text| moment(text, 1).ok_or_else(|| bad_time("to")));
    let (from_ms, to_ms) = (from_ms.transpose()?, to_ms.transpose()?);
    let limit = clamp(limit);
    let read = app.ledger.read();
    let entries = if from_ms.is_none() && to_ms.is_none() {
        read.entries(account, before, limit + 1).await
    } else {
        let time = from_ms.unwrap_or(i64::MIN)..to_ms.unwrap_or(i64::MAX);
        read.entries_of(account, time, before, limit + 1).await
    };
    let mut entries = entries.map_err(unreadable)?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries.last().filter(|_| more).map(|entry| entry.seq.to_string());
    Ok(TransactionsBody { transactions: lines(app, &entries).await, next_cursor })
}

/// Reads a time, as RFC 3339 or as a date, into milliseconds since 1970. A date stands for the
/// midnight (UTC) with which it begins, plus `days` days.
fn moment(text: &str, days: i64) -> Option<i64> {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let ms = |at: OffsetDateTime| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok();
    // The parser of ISO 8601 also accepts other forms of a date, and text after one, so the form is
    // checked here.
    let is_date = text.len() == 10 && text.bytes().filter(|byte| *byte == b'-').count() == 2;
    if is_date {
        let date = Date::parse(text, &Iso8601::DATE).ok()?;
        return ms(date.midnight().assume_utc())?.checked_add(days * DAY_MS);
    }
    OffsetDateTime::parse(text, &Rfc3339).ok().and_then(ms)
}

/// The problem for a ledger that could not be read. It is a 503, because Farebox itself has failed.
pub(super) fn unreadable(error: crate::ledger::LedgerError) -> Problem {
    match error {
        crate::ledger::LedgerError::RowLocked => tracing::error!(
            "a locked row keeps the newest entries back from the ledger's Postgres, so a request that needs them gets \
             503: look in pg_stat_activity for the transaction that keeps the row locked, and end it"
        ),
        error => tracing::error!(%error, "the ledger cannot be read"),
    }
    Problem::ledger_unavailable()
}

/// The problem for an unreadable value in the query of a list.
pub(super) fn bad_page(what: &str) -> Problem {
    Problem::bad_request(texts::bad_page(&what, MAX_LIMIT))
}

fn bad_time(what: &str) -> Problem {
    Problem::bad_request(texts::bad_time(&what))
}

/// RFC 3339 with exactly three decimals of a second, so that sorting the texts sorts the times.
const MILLISECONDS: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second { decimal_digits: NonZero::new(3) })
    .encode();

/// Writes a time as RFC 3339, in UTC, to the millisecond.
pub(super) fn rfc3339(at_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Iso8601::<MILLISECONDS>).ok())
        .unwrap_or_default()
}
