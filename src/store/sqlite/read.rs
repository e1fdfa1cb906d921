//! Reads that do not go through the writer, on a small pool of read-only connections.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::crash::CrashedCall;
use crate::ledger::history::{Activity, FoundAccounts, HoldView, ModelUsage, Sold, Usage};
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Balance, Entry, HoldId};
use crate::ledger::payment::Payment;
use crate::ledger::report::ReconcileReport;
use crate::ledger::wall_ms;
use crate::ledger::{AccountView, Reader, Replays};
use crate::store::sql::database::{Database, Value};
use crate::store::sql::rows::{
    Column as _, ENTRY, crashed_from, entry_with_usage_from, event_from, key_from, payment_from,
};
use crate::store::sql::{history, models, search, sold};
use crate::store::sqlite::answers::file_beside;
use crate::store::sqlite::connection;
use crate::store::sqlite::reconcile::reconcile;
use crate::store::sqlite::replays::ReplayReader;
use crate::store::sqlite::written::Written;
use crate::usage::Kind;

/// A reader of the file. It sees only committed changes. Lists of entries and balances wait until the rows of all calls
/// that were already answered are written.
#[derive(Clone, Debug)]
pub struct SqliteReader {
    pool: SqlitePool,
    written: Written,
    replays: ReplayReader,
}

impl SqliteReader {
    /// Creates a reader of the file at `path`. The first read opens the file.
    pub fn new(path: &Path) -> Self {
        Self::behind(path, Written::default())
    }

    /// Creates a reader of a file whose rows are written after the callers are answered.
    pub(crate) fn behind(path: &Path, written: Written) -> Self {
        let options = connection::options(path).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        Self { pool, written, replays: ReplayReader::new(file_beside(path)) }
    }

    /// The pool, once the file has the rows of every answered call.
    async fn current(&self) -> &SqlitePool {
        self.written.wait().await;
        &self.pool
    }

    /// Waits for running reads, and ends this reader and its clones.
    pub async fn close(&self) {
        self.pool.close().await;
        self.replays.close().await;
    }
}

/// Selects accounts with all columns of an [`AccountView`].
const ACCOUNTS: &str = "SELECT id, balance, seq, created_at, \
    (SELECT coalesce(sum(amount), 0) FROM holds WHERE holds.account = accounts.id) AS held, \
    EXISTS (SELECT 1 FROM freezes WHERE freezes.account = accounts.id) AS frozen \
    FROM accounts";

fn view(row: &SqliteRow) -> Result<AccountView, sqlx::Error> {
    let balance = Balance {
        balance: row.signed("balance")?,
        held: row.credits("held")?,
        frozen: row.try_get("frozen")?,
    };
    Ok(AccountView {
        account: row.account("id")?,
        balance,
        seq: row.count("seq")?,
        created_at_ms: row.try_get("created_at")?,
    })
}

impl Database for SqliteReader {
    type Row = SqliteRow;

    const LIVE_HOLDS: &'static str = "{s}.holds";

    const SALES: &'static str = "(SELECT account, created_at, paid, \
        coalesce(json_extract(document, '$.facts.paid.currency'), \
            json_extract(document, '$.facts.sale.price.currency')) AS currency, \
        coalesce(json_extract(document, '$.facts.paid.amount'), \
            json_extract(document, '$.facts.sale.price.amount')) AS amount \
        FROM {s}.payments WHERE account IS NOT NULL \
        AND coalesce(json_extract(document, '$.facts.sale.imported'), 0) = 0)";

    const ACCOUNTS: &'static str = ACCOUNTS;

    fn metered() -> String {
        let counts = Kind::ALL.map(|kind| {
            let kind = kind.as_str();
            format!("usage->>'{kind}' AS \"{kind}\"")
        });
        format!("(SELECT *, {} FROM {{s}}.entries WHERE usage IS NOT NULL)", counts.join(", "))
    }

    fn account_view(row: &SqliteRow) -> Result<AccountView, sqlx::Error> {
        view(row)
    }

    async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<SqliteRow>, LedgerError> {
        let mut query = sqlx::query(AssertSqlSafe(sql.replace("{s}", "main")));
        for value in values {
            query = match value {
                Value::Text(text) => query.bind((*text).to_owned()),
                Value::Int(int) => query.bind(*int),
            };
        }
        Ok(query.fetch_all(self.current().await).await?)
    }
}

#[async_trait]
impl Reader for SqliteReader {
    async fn entries(
        &self,
        account: &AccountId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        let before = before.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX);
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {ENTRY} FROM entries WHERE account = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
        )))
        .bind(account.as_str())
        .bind(before)
        .bind(limit)
        .fetch_all(self.current().await)
        .await?;
        Ok(rows.iter().map(entry_with_usage_from).collect::<Result<_, _>>()?)
    }

    async fn entries_of(
        &self,
        account: &AccountId,
        time: Range<i64>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        search::entries_of(self, account, time, before, limit).await
    }

    async fn newest(&self, limit: u32) -> Result<Vec<Entry>, LedgerError> {
        history::newest(self, limit, wall_ms()).await
    }

    async fn replays(&self, calls: &[HoldId]) -> Result<HashMap<HoldId, Replays>, LedgerError> {
        self.replays.read(calls).await
    }

    async fn usage(&self, account: &AccountId, since_ms: i64) -> Result<Usage, LedgerError> {
        history::usage(self, account, since_ms).await
    }

    async fn live_holds(&self, before_ms: i64, limit: u32) -> Result<Vec<HoldView>, LedgerError> {
        history::live_holds(self, before_ms, limit).await
    }

    async fn crashed(
        &self,
        before: Option<(i64, &HoldId)>,
        limit: u32,
    ) -> Result<Vec<CrashedCall>, LedgerError> {
        let (at_ms, id) = before.map_or((i64::MAX, ""), |(at_ms, id)| (at_ms, id.as_str()));
        let rows = sqlx::query(
            "SELECT id, account, route, amount, outcome, at FROM crashed \
             WHERE (at, id) < (?1, ?2) ORDER BY at DESC, id DESC LIMIT ?3",
        );
        let rows = rows.bind(at_ms).bind(id).bind(limit).fetch_all(self.current().await).await?;
        Ok(rows.iter().map(crashed_from).collect::<Result<_, _>>()?)
    }

    async fn activity(&self, since_hour: i64, before_ms: i64) -> Result<Activity, LedgerError> {
        history::activity(self, since_hour, before_ms).await
    }

    async fn models(&self, since_ms: i64) -> Result<Vec<ModelUsage>, LedgerError> {
        models::of_all(self, since_ms).await
    }

    async fn sold(&self, since_ms: i64) -> Result<Sold, LedgerError> {
        sold::since(self, since_ms).await
    }

    async fn accounts(
        &self,
        prefix: &str,
        after: Option<&AccountId>,
        limit: u32,
    ) -> Result<Vec<AccountView>, LedgerError> {
        let sql = format!(
            "{ACCOUNTS} WHERE id > ?1 AND id >= ?3 AND id < ?3 || char(127) ORDER BY id LIMIT ?2"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(after.map_or("", AccountId::as_str))
            .bind(limit)
            .bind(prefix)
            .fetch_all(self.current().await)
            .await?;
        Ok(rows.iter().map(view).collect::<Result<_, _>>()?)
    }

    async fn accounts_with(
        &self,
        part: &str,
        after: Option<&AccountId>,
        limit: u32,
        looked_at: u32,
    ) -> Result<FoundAccounts, LedgerError> {
        search::accounts_with(self, part, after, limit, looked_at).await
    }

    async fn account(&self, account: &AccountId) -> Result<Option<AccountView>, LedgerError> {
        let sql = format!("{ACCOUNTS} WHERE id = ?1");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(account.as_str())
            .fetch_optional(self.current().await)
            .await?;
        Ok(row.as_ref().map(view).transpose()?)
    }

    async fn keys(&self, account: Option<&AccountId>) -> Result<Vec<KeyRecord>, LedgerError> {
        let rows = match account {
            Some(account) => {
                sqlx::query("SELECT * FROM api_keys WHERE account = ?1 ORDER BY created_at, id")
                    .bind(account.as_str())
                    .fetch_all(&self.pool)
                    .await?
            }
            None => sqlx::query("SELECT * FROM api_keys").fetch_all(&self.pool).await?,
        };
        Ok(rows.iter().map(key_from).collect::<Result<_, _>>()?)
    }

    async fn own_keys(
        &self,
        account: &AccountId,
        since_ms: i64,
    ) -> Result<Vec<KeyRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT * FROM api_keys WHERE account = ?1 AND revoked_at IS NULL AND service = 0 \
             UNION ALL SELECT * FROM api_keys WHERE account = ?1 AND revoked_at > ?2 \
             AND service = 0 ORDER BY created_at, id",
        )
        .bind(account.as_str())
        .bind(since_ms)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(key_from).collect::<Result<_, _>>()?)
    }

    async fn ledger_id(&self) -> Result<String, LedgerError> {
        let id = sqlx::query_scalar("SELECT id FROM ledger WHERE one = 1");
        Ok(id.fetch_one(&self.pool).await?)
    }

    async fn event(&self, id: &str) -> Result<Option<StripeEvent>, LedgerError> {
        let row = sqlx::query("SELECT * FROM stripe_events WHERE id = ?1").bind(id);
        let row = row.fetch_optional(&self.pool).await?;
        Ok(row.as_ref().map(event_from).transpose()?)
    }

    async fn events(
        &self,
        state: Option<EventState>,
        after: Option<(i64, &str)>,
        limit: u32,
    ) -> Result<Vec<StripeEvent>, LedgerError> {
        let (after_ms, after_id) = after.unwrap_or((i64::MIN, ""));
        let rows = sqlx::query(
            "SELECT * FROM stripe_events WHERE (?1 IS NULL OR state = ?1) \
             AND (received_at, id) > (?2, ?3) ORDER BY received_at, id LIMIT ?4",
        )
        .bind(state.map(EventState::as_str))
        .bind(after_ms)
        .bind(after_id)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(event_from).collect::<Result<_, _>>()?)
    }

    async fn payment(&self, name: &str) -> Result<Option<Payment>, LedgerError> {
        let row = sqlx::query(
            "SELECT document FROM payments WHERE id = \
             (SELECT payment FROM payment_names WHERE name = ?1)",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(payment_from).transpose()?)
    }

    async fn unpaid(
        &self,
        account: &AccountId,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Payment>, LedgerError> {
        let rows = sqlx::query(
            "SELECT document FROM payments WHERE account = ?1 AND paid = 0 AND created_at >= ?2 \
             ORDER BY created_at DESC, id LIMIT ?3",
        )
        .bind(account.as_str())
        .bind(since_ms)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(payment_from).collect::<Result<_, _>>()?)
    }

    async fn buyers(&self) -> Result<u64, LedgerError> {
        let buyers: i64 =
            sqlx::query_scalar("SELECT count(DISTINCT account) FROM payments WHERE paid = 1")
                .fetch_one(&self.pool)
                .await?;
        Ok(u64::try_from(buyers).unwrap_or(0))
    }

    async fn customer(&self, account: &AccountId) -> Result<Option<Arc<str>>, LedgerError> {
        let customer: Option<String> =
            sqlx::query_scalar("SELECT customer FROM stripe_customers WHERE account = ?1")
                .bind(account.as_str())
                .fetch_optional(&self.pool)
                .await?;
        Ok(customer.map(Into::into))
    }

    async fn reconcile(&self) -> Result<ReconcileReport, LedgerError> {
        // All of this is one transaction, so that every figure is from the same moment.
        let mut snapshot = self.pool.begin().await?;
        let report = reconcile(&mut snapshot).await?;
        snapshot.rollback().await?;
        Ok(report)
    }
}
