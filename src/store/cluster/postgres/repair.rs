//! Repairs. Rows that contradict the entries are changed to agree with them; entries themselves are
//! never changed. Every step takes the locks that a batch takes, so gateways may serve meanwhile.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor as _, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, RepairReport};
use crate::store::cluster::postgres::read::REPORT_LIMIT;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// A repair of damage that each row shows by itself.
struct Step {
    /// Finds the damaged rows, without a lock: `account` and `subject` of each. This may take long.
    find: &'static str,
    /// Repairs those rows of `$1` (accounts) and `$2` (subjects) that are still damaged, and returns them.
    fix: &'static str,
    /// The words that follow the subject of a repaired row in the report.
    how: &'static str,
}

/// The most rows that one transaction repairs.
const AT_ONCE: usize = 200;

/// How long a repair retries to get a row that another transaction has locked.
const LOCKED_LIMIT: Duration = Duration::from_secs(60);

/// The time between two attempts, in which other transactions get the locks.
const RETRY_AFTER: Duration = Duration::from_millis(300);

const STEPS: [Step; 4] = [
    // The entry proves that the operation took effect.
    Step {
        find: "SELECT e.account, 'entry ' || e.seq AS subject FROM {s}.entries e \
               WHERE e.kind <> 'opening' AND {s}.call_of(e.operation) IS NULL \
               AND NOT EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = e.operation)",
        fix: "INSERT INTO {s}.operations (id, account, seq, kind, amount, created_at) \
              SELECT e.operation, e.account, e.seq, e.kind, e.amount, e.created_at FROM {s}.entries e \
              JOIN UNNEST($1::text[], $2::text[]) AS n (account, subject) \
              ON e.account = n.account AND e.seq = substr(n.subject, 7)::int8 \
              WHERE e.kind <> 'opening' AND {s}.call_of(e.operation) IS NULL \
              ON CONFLICT DO NOTHING RETURNING account, 'entry ' || seq AS subject",
        how: "has its operation id in `operations` again",
    },
    Step {
        find: "SELECT e.account, 'entry ' || e.seq AS subject FROM {s}.entries e \
               WHERE {s}.call_of(e.operation) >= (SELECT calls_from FROM {s}.ledger) \
               AND NOT EXISTS (SELECT 1 FROM {s}.calls c WHERE c.id = {s}.call_of(e.operation)) \
               AND NOT EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = e.operation)",
        fix: "INSERT INTO {s}.calls (id, account, seq, amount, created_at) \
              SELECT {s}.call_of(e.operation), e.account, e.seq, e.amount, e.created_at FROM {s}.entries e \
              JOIN UNNEST($1::text[], $2::text[]) AS n (account, subject) \
              ON e.account = n.account AND e.seq = substr(n.subject, 7)::int8 \
              WHERE {s}.call_of(e.operation) >= (SELECT calls_from FROM {s}.ledger) \
              AND NOT EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = e.operation) \
              ON CONFLICT DO NOTHING RETURNING account, 'entry ' || seq AS subject",
        how: "has its operation id in `calls` again",
    },
    Step {
        find: "SELECT h.account, 'hold ' || h.id AS subject FROM {s}.holds h WHERE h.state = 'live' \
               AND (EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = 'capture:' || h.id) \
               OR EXISTS (SELECT 1 FROM {s}.calls c WHERE c.id = {s}.call_of('capture:' || h.id)))",
        fix: "DELETE FROM {s}.holds h USING UNNEST($1::text[], $2::text[]) AS n (account, subject) \
              WHERE h.id = substr(n.subject, 6) AND h.state = 'live' \
              AND (EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = 'capture:' || h.id) \
              OR EXISTS (SELECT 1 FROM {s}.calls c WHERE c.id = {s}.call_of('capture:' || h.id))) \
              RETURNING h.account, 'hold ' || h.id AS subject",
        how: "was captured, and is no longer live",
    },
    Step {
        find: "SELECT a.id AS account, '' AS subject FROM {s}.accounts a WHERE a.frozen <> \
               EXISTS (SELECT 1 FROM {s}.freezes f WHERE f.account = a.id)",
        fix: "UPDATE {s}.accounts a SET frozen = NOT a.frozen \
              FROM UNNEST($1::text[], $2::text[]) AS n (account, subject) WHERE a.id = n.account \
              AND a.frozen <> EXISTS (SELECT 1 FROM {s}.freezes f WHERE f.account = a.id) \
              RETURNING a.id AS account, CASE WHEN a.frozen THEN 'the account is now frozen,' \
              ELSE 'the account is no longer frozen,' END AS subject",
        how: "by its disputes",
    },
];

/// Selects accounts whose balance, or number of the newest entry, differs from their entries, and accounts that have
/// entries but no row. `gaps` counts the entries whose number does not follow the number before, and the newest entries
/// that are missing although the account's row counts them.
const SUMS: &str = "SELECT coalesce(e.account, a.id) AS account, coalesce(e.total, 0)::text AS total, \
     coalesce(e.newest, 0) AS newest, \
     coalesce(e.gaps, 0) + greatest(a.seq - coalesce(e.newest, 0), 0) AS gaps, \
     coalesce(e.oldest, 0) AS oldest, a.balance AS balance FROM {s}.accounts a FULL JOIN \
     (SELECT account, sum(amount) AS total, max(seq) AS newest, min(created_at) AS oldest, \
      count(*) FILTER (WHERE seq <> previous + 1 AND NOT (kind = 'opening' AND previous = 0)) AS gaps \
      FROM (SELECT account, amount, seq, kind, created_at, lag(seq, 1, 0::int8) \
            OVER (PARTITION BY account ORDER BY seq) AS previous FROM {s}.entries WHERE {which}) n \
      GROUP BY account) e ON e.account = a.id \
     WHERE (coalesce(e.total, 0) <> a.balance OR coalesce(e.newest, 0) <> a.seq OR a.id IS NULL)";

/// Repairs balances that differ from the sum of their entries, missing operation ids, holds that
/// are live although captured, and accounts whose freeze contradicts their disputes. Lists the
/// differences that cannot be repaired.
pub(crate) async fn repair(store: &Store) -> Result<RepairReport, LedgerError> {
    let mut report = RepairReport::default();
    for step in STEPS {
        step.run(store, &mut report.repaired).await?;
    }
    let all = SUMS.replace("{which}", "true");
    let wrong =
        store.transact_within(REPORT_LIMIT, async |on| Ok(store.query(&all).fetch_all(on).await?));
    for row in wrong.await? {
        let account = row.text("account")?;
        if row.int("gaps")? > 0 {
            let what = "entries are missing, so the balance cannot be computed: \
                        restore them from a backup";
            report.left.push(Difference::new(account, what));
            continue;
        }
        let oldest = row.int("oldest")?;
        let repair = store.transact(async |on| repair_sum(store, account, oldest, on).await);
        if let Some(what) = repair.await? {
            report.repaired.push(Difference::in_micros(account, &what));
        }
    }
    Ok(report)
}

impl Step {
    /// Finds the damaged rows without a lock, and repairs them in short transactions, so that neither calls nor
    /// purchases wait.
    async fn run(&self, store: &Store, repaired: &mut Vec<Difference>) -> Result<(), LedgerError> {
        let found = store.transact_within(REPORT_LIMIT, async |on| {
            Ok(store.query(self.find).fetch_all(on).await?)
        });
        let found = found.await?;
        let texts = |some: &[PgRow], column: &str| -> Result<Vec<String>, LedgerError> {
            some.iter().map(|row| Ok(row.text(column)?.to_owned())).collect()
        };
        for some in found.chunks(AT_ONCE) {
            let (accounts, subjects) = (texts(some, "account")?, texts(some, "subject")?);
            for row in self.fix(store, &accounts, &subjects).await? {
                let what = format!("{} {}", row.text("subject")?, self.how);
                repaired.push(Difference::new(row.text("account")?, what));
            }
        }
        Ok(())
    }

    /// Repairs some rows in one transaction. If another transaction has a row locked, the repair is retried for a
    /// while.
    async fn fix(
        &self,
        store: &Store,
        accounts: &[String],
        subjects: &[String],
    ) -> Result<Vec<PgRow>, LedgerError> {
        let began = Instant::now();
        loop {
            let fixed = store.transact(async |on| {
                // All transactions that change freezes hold this lock.
                store.lock("payments", on).await?;
                let query = store.query(self.fix).bind(accounts).bind(subjects);
                Ok(query.fetch_all(on).await?)
            });
            match fixed.await {
                Err(LedgerError::RowLocked) if began.elapsed() < LOCKED_LIMIT => {
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                fixed => return fixed,
            }
        }
    }
}

/// Compares one account again, with its row locked so that no batch changes it, and repairs it.
/// Returns the text for the report, or `None` if the account is now right.
async fn repair_sum(
    store: &Store,
    account: &str,
    oldest: i64,
    on: &mut PgConnection,
) -> Result<Option<String>, LedgerError> {
    store
        .query(
            "INSERT INTO {s}.accounts (id, balance, seq, grant_seq, created_at) \
         VALUES ($1, 0, 0, 0, $2) ON CONFLICT DO NOTHING",
        )
        .bind(account)
        .bind(oldest)
        .execute(&mut *on)
        .await?;
    // No other work waits for this transaction, so it may wait for the row as long as a transaction may take.
    on.execute("SET LOCAL lock_timeout = 0").await?;
    let lock = "SELECT 1 FROM {s}.accounts WHERE id = $1 FOR UPDATE";
    store.query(lock).bind(account).execute(&mut *on).await?;
    let one = format!("{} AND a.id = $1", SUMS.replace("{which}", "account = $1"));
    let Some(row) = store.query(&one).bind(account).fetch_optional(&mut *on).await? else {
        return Ok(None);
    };
    let total: i64 = row.text("total")?.parse().map_err(|_| LedgerError::Corrupt {
        what: format!("the entries of {account} add up to more than a balance can be"),
    })?;
    let before: i64 = row.try_get("balance")?;
    store
        .query("UPDATE {s}.accounts SET balance = $2, seq = $3 WHERE id = $1")
        .bind(account)
        .bind(total)
        .bind(row.int("newest")?)
        .execute(on)
        .await?;
    Ok(Some(format!("the balance was {{{before}}} and is now {{{total}}}, the sum of its entries")))
}
