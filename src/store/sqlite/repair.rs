//! Repairs. Rows that contradict the entries are changed to agree with them; entries themselves are
//! never changed. A repair needs the file's lock, because a gateway has the balances in memory.

use std::path::Path;

use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, RepairReport};
use crate::store::sql::rows::Column as _;
use crate::store::sqlite::export::{Source, SourceError};

/// Selects accounts whose balance, or number of the newest entry, differs from their entries, and accounts that have
/// entries but no row. `gaps` counts the entries whose number does not follow the number before, and the newest entries
/// that are missing although the account's row counts them.
const SUMS: &str = "SELECT coalesce(e.account, a.id) AS account, coalesce(e.total, 0) AS total, \
     coalesce(e.newest, 0) AS newest, \
     coalesce(e.gaps, 0) + max(coalesce(a.seq, 0) - coalesce(e.newest, 0), 0) AS gaps, \
     coalesce(e.oldest, 0) AS oldest, coalesce(a.balance, 0) AS balance FROM accounts a FULL JOIN \
     (SELECT account, sum(amount) AS total, max(seq) AS newest, min(created_at) AS oldest, \
      count(*) FILTER (WHERE seq <> previous + 1 AND NOT (kind = 'opening' AND previous = 0)) AS gaps \
      FROM (SELECT account, amount, seq, kind, created_at, \
            lag(seq, 1, 0) OVER (PARTITION BY account ORDER BY seq) AS previous FROM entries) \
      GROUP BY account) e ON e.account = a.id \
     WHERE coalesce(e.total, 0) <> a.balance OR coalesce(e.newest, 0) <> a.seq OR a.id IS NULL";

/// Repairs the ledger at `path`: balances that differ from the sum of their entries, and holds that
/// are live although they have ended. Lists the differences that cannot be repaired.
///
/// # Errors
/// [`LedgerError::Locked`] if a gateway has the ledger.
pub async fn repair_embedded(path: &Path) -> Result<RepairReport, SourceError> {
    let mut source = Source::open(path).await?;
    let repaired = repair(source.connection()).await;
    Ok(repaired.map_err(LedgerError::from)?)
}

async fn repair(connection: &mut SqliteConnection) -> Result<RepairReport, sqlx::Error> {
    let mut report = RepairReport::default();
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let ended = sqlx::query(
        "DELETE FROM api_holds WHERE id IN (SELECT id FROM ended_holds) \
         OR 'capture:' || id IN (SELECT operation FROM entries) \
         OR 'capture:' || id IN (SELECT operation FROM folded_operations) RETURNING id, account",
    );
    for row in ended.fetch_all(&mut *transaction).await? {
        let what = format!("hold {} has ended, and is no longer live", row.text("id")?);
        report.repaired.push(Difference::new(row.text("account")?, what));
    }
    for row in sqlx::query(SUMS).fetch_all(&mut *transaction).await? {
        let account = row.text("account")?;
        if row.int("gaps")? > 0 {
            let what = "entries are missing, so the balance cannot be computed: \
                        restore them from a backup";
            report.left.push(Difference::new(account, what));
            continue;
        }
        let (before, total) = (row.int("balance")?, row.int("total")?);
        sqlx::query(
            "INSERT INTO accounts (id, balance, seq, created_at) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, seq = excluded.seq",
        )
        .bind(account)
        .bind(total)
        .bind(row.int("newest")?)
        .bind(row.try_get::<i64, _>("oldest")?)
        .execute(&mut *transaction)
        .await?;
        let what =
            format!("the balance was {{{before}}} and is now {{{total}}}, the sum of its entries");
        report.repaired.push(Difference::in_micros(account, &what));
    }
    transaction.commit().await?;
    Ok(report)
}
