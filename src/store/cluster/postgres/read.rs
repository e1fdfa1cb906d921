//! Reads for the API, the pages and reports.

use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::PgRow;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::crash::CrashedCall;
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Balance, Entry, HoldId};
use crate::ledger::{AccountView, KeyChanges};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::database::{Database, Value};
use crate::store::sql::rows::{Column as _, ENTRY, crashed_from, entry_with_usage_from, key_from};
use crate::usage::Kind;

/// How many differences a report lists.
pub(crate) const LISTED: usize = 100;

/// How long a report may take.
pub(crate) const REPORT_LIMIT: Duration = Duration::from_secs(600);

/// Selects accounts with all columns of an [`AccountView`].
const ACCOUNTS: &str = "SELECT id, balance, seq, grant_seq, frozen, created_at, \
    (SELECT coalesce(sum(amount), 0)::int8 FROM {s}.holds h \
     WHERE h.account = a.id AND h.state = 'live') AS held FROM {s}.accounts a";

/// How long a query for a page may take before its connection is closed. Usually Postgres ends a slow query earlier.
const SCREEN_LIMIT: Duration = Duration::from_secs(20);

/// The queries for pages. Postgres itself ends a query that takes too long, so a slow query does not make the database
/// count as unreachable.
impl Database for Store {
    type Row = PgRow;

    const LIVE_HOLDS: &'static str = "(SELECT * FROM {s}.holds WHERE state = 'live')";

    const SALES: &'static str = "(SELECT account, created_at, paid, \
        coalesce(facts #>> '{paid,currency}', facts #>> '{sale,price,currency}') AS currency, \
        CAST(coalesce(facts #>> '{paid,amount}', facts #>> '{sale,price,amount}') AS BIGINT) AS amount \
        FROM (SELECT account, created_at, paid, CAST(document AS jsonb) -> 'facts' AS facts \
            FROM {s}.payments WHERE account IS NOT NULL) p \
        WHERE coalesce(facts #>> '{sale,imported}', 'false') = 'false')";

    const ACCOUNTS: &'static str = ACCOUNTS;

    fn metered() -> String {
        let counts = Kind::ALL.map(|kind| format!("\"{}\" BIGINT", kind.as_str()));
        let counts = counts.join(", ");
        format!(
            "(SELECT e.*, u.* FROM {{s}}.entries e \
             CROSS JOIN LATERAL json_to_record(CAST(e.usage AS json)) AS u ({counts}) \
             WHERE e.usage IS NOT NULL)"
        )
    }

    fn account_view(row: &PgRow) -> Result<AccountView, sqlx::Error> {
        view(row)
    }

    async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<PgRow>, LedgerError> {
        self.transact_within(SCREEN_LIMIT, async |on| {
            on.execute("SET LOCAL statement_timeout = '15s'").await?;
            let mut query = self.query(sql);
            for value in values {
                query = match value {
                    Value::Text(text) => query.bind((*text).to_owned()),
                    Value::Int(int) => query.bind(*int),
                };
            }
            Ok(query.fetch_all(on).await?)
        })
        .await
    }
}

/// Reads calls that were cut off, newest first: the expired holds of calls. If a gateway was only
/// paused and has captured the call since, the amount is that of the capture.
pub(crate) async fn crashed(
    store: &Store,
    before: Option<(i64, &HoldId)>,
    limit: u32,
) -> Result<Vec<CrashedCall>, LedgerError> {
    let (at_ms, id) = before.map_or((i64::MAX, ""), |(at_ms, id)| (at_ms, id.as_str()));
    let sql = "SELECT h.id, h.account, h.route, coalesce(-c.amount, -o.amount, h.amount) AS amount, \
         CASE WHEN coalesce(c.amount, o.amount) IS NULL THEN 'released' ELSE 'corrected' END AS outcome, \
         h.ended_at AS at FROM {s}.holds h \
         LEFT JOIN {s}.operations o ON o.id = 'capture:' || h.id \
         LEFT JOIN {s}.calls c ON c.id = {s}.call_of('capture:' || h.id) \
         WHERE h.state <> 'live' AND h.state = 'expired' AND h.origin = 'call' \
         AND (h.ended_at, h.id) < ($1, $2) ORDER BY h.ended_at DESC, h.id DESC LIMIT $3";
    let values = [Value::Int(at_ms), Value::Text(id), Value::Int(limit.into())];
    let rows = store.rows(sql, &values).await?;
    Ok(rows.iter().map(crashed_from).collect::<Result<_, _>>()?)
}

/// Reads an account's entries, newest first, below the number `before`.
pub(crate) async fn entries(
    store: &Store,
    account: &AccountId,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<Entry>, LedgerError> {
    let before = before.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX);
    let rows = store
        .transact(async |on| {
            Ok(store
                .query(&format!(
                    "SELECT {ENTRY} FROM {{s}}.entries WHERE account = $1 AND seq < $2 \
                     ORDER BY seq DESC LIMIT $3",
                ))
                .bind(account.as_str())
                .bind(before)
                .bind(i64::from(limit))
                .fetch_all(on)
                .await?)
        })
        .await?;
    Ok(rows.iter().map(entry_with_usage_from).collect::<Result<_, _>>()?)
}

/// Reads accounts whose ids begin with `prefix`, in the order of their ids.
pub(crate) async fn accounts(
    store: &Store,
    prefix: &str,
    after: Option<&AccountId>,
    limit: u32,
) -> Result<Vec<AccountView>, LedgerError> {
    let rows = store
        .transact(async |on| {
            Ok(store
                .query(&format!(
                    "{ACCOUNTS} WHERE id > $1 AND id >= $3 AND id < $3 || chr(127) \
                     ORDER BY id LIMIT $2"
                ))
                .bind(after.map_or("", AccountId::as_str))
                .bind(i64::from(limit))
                .bind(prefix)
                .fetch_all(on)
                .await?)
        })
        .await?;
    Ok(rows.iter().map(view).collect::<Result<_, _>>()?)
}

/// Reads one account.
pub(crate) async fn account(
    store: &Store,
    account: &AccountId,
) -> Result<Option<AccountView>, LedgerError> {
    let row = store
        .transact(async |on| {
            Ok(store
                .query(&format!("{ACCOUNTS} WHERE id = $1"))
                .bind(account.as_str())
                .fetch_optional(on)
                .await?)
        })
        .await?;
    Ok(row.as_ref().map(view).transpose()?)
}

/// Reads the API keys of one account, or of all.
pub(crate) async fn keys(
    store: &Store,
    account: Option<&AccountId>,
) -> Result<Vec<KeyRecord>, LedgerError> {
    let rows = store
        .transact(async |on| {
            Ok(store
                .query(
                    "SELECT * FROM {s}.api_keys WHERE $1::text IS NULL OR account = $1 \
                     ORDER BY created_at, id",
                )
                .bind(account.map(AccountId::as_str))
                .fetch_all(on)
                .await?)
        })
        .await?;
    Ok(rows.iter().map(key_from).collect::<Result<_, _>>()?)
}

/// Reads an account's keys except service keys: its live keys, and the keys that were revoked after `since_ms`.
pub(crate) async fn own_keys(
    store: &Store,
    account: &AccountId,
    since_ms: i64,
) -> Result<Vec<KeyRecord>, LedgerError> {
    store
        .transact(async |on| {
            let rows = store
                .query(
                    "SELECT * FROM {s}.api_keys WHERE account = $1 AND revoked_at IS NULL \
                 AND NOT service UNION ALL SELECT * FROM {s}.api_keys WHERE account = $1 \
                 AND revoked_at > $2 AND NOT service ORDER BY created_at, id",
                )
                .bind(account.as_str())
                .bind(since_ms)
                .fetch_all(on)
                .await?;
            Ok(rows.iter().map(key_from).collect::<Result<_, _>>()?)
        })
        .await
}

/// Reads the keys that changed after the version `since`.
pub(crate) async fn keys_since(store: &Store, since: i64) -> Result<KeyChanges, LedgerError> {
    store
        .transact(async |on| {
            let counted = store.query("SELECT key_changes FROM {s}.ledger").fetch_one(&mut *on);
            let version = counted.await?.int("key_changes")?;
            let mut keys = Vec::new();
            if version != since {
                let changed = "SELECT * FROM {s}.api_keys WHERE changed > $1";
                let rows = store.query(changed).bind(since).fetch_all(on).await?;
                keys = rows.iter().map(key_from).collect::<Result<_, _>>()?;
            }
            Ok(KeyChanges { version, keys })
        })
        .await
}

fn view(row: &PgRow) -> Result<AccountView, sqlx::Error> {
    Ok(AccountView {
        account: row.account("id")?,
        balance: Balance {
            balance: row.signed("balance")?,
            held: row.credits("held")?,
            frozen: row.flag("frozen")?,
        },
        seq: row.count("seq")?,
        created_at_ms: row.int("created_at")?,
    })
}
