//! Repairs. Rows that contradict the entries are changed to agree with them; entries themselves are
//! never changed. Every step takes the locks that a batch takes, so gateways may serve meanwhile.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, RepairReport};
use crate::store::cluster::postgres::read::REPORT_LIMIT;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// Repairs that are one statement each, with the words for the report of a repaired row.
const STEPS: [(&str, &str); 4] = [
    // The entry proves that the operation took effect.
    (
        "INSERT INTO {s}.operations (id, account, seq, kind, amount, created_at) \
         SELECT e.operation, e.account, e.seq, e.kind, e.amount, e.created_at FROM {s}.entries e \
         WHERE e.kind <> 'opening' AND {s}.call_of(e.operation) IS NULL \
         AND NOT EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = e.operation) \
         ON CONFLICT DO NOTHING RETURNING account, 'entry ' || seq AS subject",
        "has its operation id in `operations` again",
    ),
    (
        "INSERT INTO {s}.calls (id, account, seq, amount, created_at) \
         SELECT {s}.call_of(e.operation), e.account, e.seq, e.amount, e.created_at FROM {s}.entries e \
         WHERE {s}.call_of(e.operation) >= (SELECT calls_from FROM {s}.ledger) \
         AND NOT EXISTS (SELECT 1 FROM {s}.calls c WHERE c.id = {s}.call_of(e.operation)) \
         AND NOT EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = e.operation) \
         ON CONFLICT DO NOTHING RETURNING account, 'entry ' || seq AS subject",
        "has its operation id in `calls` again",
    ),
    (
        "DELETE FROM {s}.holds h WHERE h.state = 'live' \
         AND (EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = 'capture:' || h.id) \
         OR EXISTS (SELECT 1 FROM {s}.calls c WHERE c.id = {s}.call_of('capture:' || h.id))) \
         RETURNING account, 'hold ' || id AS subject",
        "was captured, and is no longer live",
    ),
    (
        "UPDATE {s}.accounts a SET frozen = NOT a.frozen WHERE a.frozen <> \
         EXISTS (SELECT 1 FROM {s}.freezes f WHERE f.account = a.id) \
         RETURNING id AS account, CASE WHEN frozen THEN 'the account is now frozen,' ELSE 'the account is no longer frozen,' END AS subject",
        "by its disputes",
    ),
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
    for (sql, how) in STEPS {
        let repaired = store.transact_within(REPORT_LIMIT, async |on| {
            // All changes of freezes are made under this lock.
            store.lock("payments", on).await?;
            Ok(store.query(sql).fetch_all(on).await?)
        });
        for row in repaired.await? {
            let what = format!("{} {how}", row.text("subject")?);
            report.repaired.push(Difference::new(row.text("account")?, what));
        }
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
