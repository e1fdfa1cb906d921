//! What people and reports read: the past, and whether it adds up.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor as _, Row as _};

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::backend::{AccountView, KeyChanges};
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Balance, Entry};
use crate::ledger::report::{Difference, ReconcileReport};
use crate::ledger::rows::{Column as _, entry_from, key_from};

use super::Store;

/// How many contradictions a report lists.
pub(in crate::ledger) const LISTED: usize = 100;

/// How long a report may take.
pub(super) const REPORT_LIMIT: Duration = Duration::from_secs(600);

const ACCOUNTS: &str = "SELECT id, balance, seq, grant_seq, frozen, created_at, \
    (SELECT coalesce(sum(amount), 0)::int8 FROM {s}.holds h \
     WHERE h.account = a.id AND h.state = 'live') AS held FROM {s}.accounts a";

impl Store {
    pub async fn entries(
        &self,
        account: &AccountId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        let before = before.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX);
        let rows = self
            .transact(async |on| {
                Ok(self
                    .query(
                        "SELECT account, seq, operation, kind, amount, balance_after, route, reason, \
                         created_at FROM {s}.entries WHERE account = $1 AND seq < $2 \
                         ORDER BY seq DESC LIMIT $3",
                    )
                    .bind(account.as_str())
                    .bind(before)
                    .bind(i64::from(limit))
                    .fetch_all(on)
                    .await?)
            })
            .await?;
        Ok(rows.iter().map(entry_from).collect::<Result<_, _>>()?)
    }

    pub async fn accounts(
        &self,
        after: Option<&AccountId>,
        limit: u32,
    ) -> Result<Vec<AccountView>, LedgerError> {
        let rows = self
            .transact(async |on| {
                Ok(self
                    .query(&format!("{ACCOUNTS} WHERE id > $1 ORDER BY id LIMIT $2"))
                    .bind(after.map_or("", AccountId::as_str))
                    .bind(i64::from(limit))
                    .fetch_all(on)
                    .await?)
            })
            .await?;
        Ok(rows.iter().map(view).collect::<Result<_, _>>()?)
    }

    pub async fn account(&self, account: &AccountId) -> Result<Option<AccountView>, LedgerError> {
        let row = self
            .transact(async |on| {
                Ok(self
                    .query(&format!("{ACCOUNTS} WHERE id = $1"))
                    .bind(account.as_str())
                    .fetch_optional(on)
                    .await?)
            })
            .await?;
        Ok(row.as_ref().map(view).transpose()?)
    }

    pub async fn keys(&self, account: Option<&AccountId>) -> Result<Vec<KeyRecord>, LedgerError> {
        let rows = self
            .transact(async |on| {
                Ok(self
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

    /// The keys that changed after `since`.
    pub async fn keys_since(&self, since: i64) -> Result<KeyChanges, LedgerError> {
        self.transact(async |on| {
            let counted = self.query("SELECT key_changes FROM {s}.ledger").fetch_one(&mut *on);
            let version = counted.await?.int("key_changes")?;
            let mut keys = Vec::new();
            if version != since {
                let changed = "SELECT * FROM {s}.api_keys WHERE changed > $1";
                let rows = self.query(changed).bind(since).fetch_all(on).await?;
                keys = rows.iter().map(key_from).collect::<Result<_, _>>()?;
            }
            Ok(KeyChanges { version, keys })
        })
        .await
    }

    /// Checks what must hold in the database. Every figure is of the same moment.
    pub async fn examine(&self) -> Result<ReconcileReport, LedgerError> {
        self.transact_within(REPORT_LIMIT, async |on| {
            on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            self.examine_in(on).await
        })
        .await
    }

    pub(super) async fn examine_in(
        &self,
        on: &mut PgConnection,
    ) -> Result<ReconcileReport, LedgerError> {
        let mut report = ReconcileReport::default();
        let totals = self
            .query(
                "SELECT (SELECT count(*) FROM {s}.accounts) AS accounts, \
                 (SELECT count(*) FROM {s}.entries) AS entries, \
                 (SELECT count(*) FROM {s}.holds WHERE state = 'live') AS holds, \
                 (SELECT count(*) FROM {s}.accounts WHERE balance < 0) AS debts",
            )
            .fetch_one(&mut *on)
            .await?;
        report.accounts = totals.count("accounts")?;
        report.entries = totals.count("entries")?;
        report.live_holds = totals.count("holds")?;
        report.debts = totals.count("debts")?;
        for check in CHECKS {
            let sql = format!("{check} LIMIT {LISTED}");
            for row in self.query(&sql).fetch_all(&mut *on).await? {
                let (account, what) = (row.try_get("account")?, row.try_get("what")?);
                report.differences.push(Difference::in_micros(account, what));
            }
        }
        report.differences.truncate(LISTED);
        Ok(report)
    }
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

/// What must hold, each as a query for the rows that break it: `account`, `what`.
const CHECKS: [&str; 8] = [
    // An account's balance is the sum of its entries and the newest one's balance_after.
    "SELECT a.id AS account, 'the balance is {' || a.balance || '}, the entries add up to {' || \
     coalesce(e.total, 0) || '}' || CASE WHEN coalesce(e.newest, 0) = a.seq THEN '' ELSE \
     '; the newest of them is number ' || coalesce(e.newest, 0) || ', and it should be ' || a.seq END \
     AS what FROM {s}.accounts a LEFT JOIN \
     (SELECT account, sum(amount) AS total, max(seq) AS newest FROM {s}.entries GROUP BY account) e \
     ON e.account = a.id WHERE coalesce(e.total, 0) <> a.balance OR coalesce(e.newest, 0) <> a.seq",
    // Each entry continues the one before it, without a gap.
    "SELECT account, CASE WHEN seq <> previous + 1 AND NOT (kind = 'opening' AND previous = 0) \
     THEN 'entry ' || seq || ' follows entry ' || previous || ': those in between are missing' \
     ELSE 'entry ' || seq || ' should leave {' || (before + amount) || '} and says {' || \
     balance_after || '}' END AS what FROM \
     (SELECT account, seq, amount, balance_after, kind, \
      lag(balance_after, 1, 0::int8) OVER w AS before, lag(seq, 1, 0::int8) OVER w AS previous \
      FROM {s}.entries WINDOW w AS (PARTITION BY account ORDER BY seq)) e \
     WHERE before + amount <> balance_after \
     OR (seq <> previous + 1 AND NOT (kind = 'opening' AND previous = 0))",
    "SELECT DISTINCT e.account, 'entries of an account that does not exist' AS what \
     FROM {s}.entries e WHERE NOT EXISTS (SELECT 1 FROM {s}.accounts a WHERE a.id = e.account)",
    // Every entry took effect under an id of its own.
    "SELECT e.account, 'entry ' || e.seq || ' has not taken effect under its id' AS what \
     FROM {s}.entries e WHERE e.kind <> 'opening' AND NOT EXISTS (SELECT 1 FROM {s}.operations o \
     WHERE o.id = e.operation AND o.account = e.account AND o.seq = e.seq AND o.amount = e.amount)",
    // A hold ends exactly once.
    "SELECT h.account, 'hold ' || h.id || ' is live and captured' AS what FROM {s}.holds h \
     WHERE h.state = 'live' \
     AND EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = 'capture:' || h.id)",
    "SELECT h.account, 'hold ' || h.id || ' was released and captured' AS what FROM {s}.holds h \
     WHERE h.state = 'released' \
     AND EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = 'capture:' || h.id)",
    "SELECT h.account, 'hold ' || h.id || ' of an account that does not exist' AS what \
     FROM {s}.holds h WHERE h.state = 'live' \
     AND NOT EXISTS (SELECT 1 FROM {s}.accounts a WHERE a.id = h.account)",
    // An account is frozen while a dispute keeps it from spending.
    "SELECT a.id AS account, CASE WHEN a.frozen THEN 'it is frozen, and no dispute says so' \
     ELSE 'it is not frozen, and a dispute says that it is' END AS what FROM {s}.accounts a \
     WHERE a.frozen <> EXISTS (SELECT 1 FROM {s}.freezes f WHERE f.account = a.id)",
];
