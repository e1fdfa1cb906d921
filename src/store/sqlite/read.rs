//! Reads beside the writer: a small pool of read-only connections.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{Row as _, SqliteConnection};

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::crash::CrashedCall;
use crate::ledger::history::FoundAccounts;
use crate::ledger::history::Sold;
use crate::ledger::history::{Activity, HoldView, Usage};
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Balance, Entry, HoldId};
use crate::ledger::payment::Payment;
use crate::ledger::report::{Difference, ReconcileReport};
use crate::ledger::wall_ms;
use crate::ledger::{AccountView, Reader};
use crate::store::sql::history;
use crate::store::sql::query::{Rows, Value};
use crate::store::sql::search;
use crate::store::sql::sold;

use crate::store::sql::rows::{
    Column as _, crashed_from, entry_from, event_from, key_from, payment_from,
};
use crate::store::sqlite::load;

/// How many contradictions a report lists.
const LISTED: i64 = 100;

/// Sees what is committed.
#[derive(Clone, Debug)]
pub struct SqliteReader {
    pool: SqlitePool,
}

impl SqliteReader {
    /// Reads the file at `path`, which it opens with the first read.
    pub fn new(path: &Path) -> Self {
        let options = load::options(path).read_only(true);
        Self { pool: SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options) }
    }

    /// Reads no more, in any clone; waits for what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

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

impl Rows for SqliteReader {
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

    fn account_view(row: &SqliteRow) -> Result<AccountView, sqlx::Error> {
        view(row)
    }

    async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<SqliteRow>, LedgerError> {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql.replace("{s}", "main")));
        for value in values {
            query = match value {
                Value::Text(text) => query.bind((*text).to_owned()),
                Value::Int(int) => query.bind(*int),
            };
        }
        Ok(query.fetch_all(&self.pool).await?)
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
        let rows = sqlx::query(
            "SELECT account, seq, operation, kind, amount, balance_after, route, reason, \
             created_at FROM entries WHERE account = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
        )
        .bind(account.as_str())
        .bind(before)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(entry_from).collect::<Result<_, _>>()?)
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
        let rows = rows.bind(at_ms).bind(id).bind(limit).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(crashed_from).collect::<Result<_, _>>()?)
    }

    async fn activity(&self, since_hour: i64, before_ms: i64) -> Result<Activity, LedgerError> {
        history::activity(self, since_hour, before_ms).await
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
        let sql = select(
            ACCOUNTS,
            "WHERE id > ?1 AND id >= ?3 AND id < ?3 || char(127) ORDER BY id LIMIT ?2",
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(after.map_or("", AccountId::as_str))
            .bind(limit)
            .bind(prefix)
            .fetch_all(&self.pool)
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
        let sql = select(ACCOUNTS, "WHERE id = ?1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(account.as_str())
            .fetch_optional(&self.pool)
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
        // One transaction: every figure is of the same moment.
        let mut snapshot = self.pool.begin().await?;
        let report = reconcile(&mut snapshot).await?;
        snapshot.rollback().await?;
        Ok(report)
    }
}

fn select(columns: &str, rest: &str) -> String {
    format!("{columns} {rest}")
}

/// What must hold on disk, each as a query for the rows that break it: `account`, `what`.
const CHECKS: [&str; 7] = [
    // An account's balance is the sum of its entries and the newest one's balance_after.
    "SELECT a.id AS account, 'the balance is {' || a.balance || '}, the entries add up to {' || \
     coalesce(e.total, 0) || '}' || CASE WHEN coalesce(e.newest, 0) = a.seq THEN '' ELSE \
     '; the newest of them is number ' || coalesce(e.newest, 0) || ', and it should be ' || a.seq END \
     AS what FROM accounts a LEFT JOIN \
     (SELECT account, sum(amount) AS total, max(seq) AS newest FROM entries GROUP BY account) e \
     ON e.account = a.id WHERE coalesce(e.total, 0) <> a.balance OR coalesce(e.newest, 0) <> a.seq",
    // Each entry continues the one before it, without a gap.
    "SELECT account, CASE WHEN seq <> previous + 1 AND NOT (kind = 'opening' AND previous = 0) \
     THEN 'entry ' || seq || ' follows entry ' || previous || ': those in between are missing' \
     ELSE 'entry ' || seq || ' should leave {' || (before + amount) || '} and says {' || \
     balance_after || '}' END AS what FROM \
     (SELECT account, seq, amount, balance_after, kind, \
      lag(balance_after, 1, 0) OVER w AS before, lag(seq, 1, 0) OVER w AS previous \
      FROM entries WINDOW w AS (PARTITION BY account ORDER BY seq)) e \
     WHERE before + amount <> balance_after \
     OR (seq <> previous + 1 AND NOT (kind = 'opening' AND previous = 0))",
    "SELECT DISTINCT e.account, 'entries of an account that does not exist' AS what \
     FROM entries e WHERE NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = e.account)",
    // A hold ends exactly once.
    "SELECT coalesce(account, '') AS account, 'hold ' || id || ' is live and ended' AS what \
     FROM holds WHERE id IN (SELECT id FROM ended_holds) \
     OR 'capture:' || id IN (SELECT operation FROM entries)",
    "SELECT coalesce(h.account, '') AS account, 'hold ' || h.id || ' was released and captured' \
     AS what FROM ended_holds h WHERE h.ending = 'released' AND EXISTS \
     (SELECT 1 FROM entries e WHERE e.operation = 'capture:' || h.id)",
    "SELECT h.account, 'hold ' || h.id || ' of an account that does not exist' AS what \
     FROM holds h WHERE NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = h.account)",
    // What a payment granted and took back is what its entries, folded ones too, add up to. They are
    // called as the payment and, from ':' to ';', after it. What an import granted, it granted by itself.
    "SELECT account, 'payment ' || id || ' has moved {' || moved || '}, its entries add up to {' || \
     total || '}' AS what FROM (SELECT account, id, moved, \
      (SELECT coalesce(sum(amount), 0) FROM entries WHERE operation = name) + \
      (SELECT coalesce(sum(amount), 0) FROM folded_operations WHERE operation = name) + \
      (SELECT coalesce(sum(amount), 0) FROM entries \
       WHERE operation > name || ':' AND operation < name || ';') + \
      (SELECT coalesce(sum(amount), 0) FROM folded_operations \
       WHERE operation > name || ':' AND operation < name || ';') AS total \
      FROM (SELECT account, id, iif(coalesce(document->>'$.facts.sale.imported', 0), 0, \
        document->>'granted') - document->>'taken' AS moved, \
       'stripe:' || (document->>'$.facts.sale.session') AS name \
       FROM payments WHERE account IS NOT NULL)) WHERE moved <> total",
];

pub(crate) async fn reconcile(
    connection: &mut SqliteConnection,
) -> Result<ReconcileReport, LedgerError> {
    let mut report = ReconcileReport::default();
    let totals = sqlx::query(
        "SELECT (SELECT count(*) FROM accounts) AS accounts, \
         (SELECT count(*) FROM entries) AS entries, (SELECT count(*) FROM holds) AS holds, \
         (SELECT count(*) FROM accounts WHERE balance < 0) AS debts",
    )
    .fetch_one(&mut *connection)
    .await?;
    report.accounts = totals.count("accounts")?;
    report.entries = totals.count("entries")?;
    report.live_holds = totals.count("holds")?;
    report.debts = totals.count("debts")?;
    for check in CHECKS {
        let limited = sqlx::query(sqlx::AssertSqlSafe(format!("{check} LIMIT {LISTED}")));
        for row in limited.fetch_all(&mut *connection).await? {
            let (account, what) = (row.try_get("account")?, row.try_get("what")?);
            report.differences.push(Difference::in_micros(account, what));
        }
    }
    report.differences.truncate(LISTED as usize);
    Ok(report)
}
