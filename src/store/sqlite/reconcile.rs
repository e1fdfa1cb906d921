//! Checks that the file is consistent with itself.

use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, ReconcileReport};
use crate::store::sql::rows::Column as _;

/// How many differences a report lists.
const LISTED: i64 = 100;

/// The checks. Each query selects the rows that fail, as `account` and `what`, a sentence that says what is wrong.
/// Amounts in the sentence are in micro-credits, in braces.
const CHECKS: [&str; 7] = [
    // An account's balance equals the sum of its entries, and the `balance_after` of its newest
    // entry.
    "SELECT a.id AS account, 'the balance is {' || a.balance || '}, the entries add up to {' || \
     coalesce(e.total, 0) || '}' || CASE WHEN coalesce(e.newest, 0) = a.seq THEN '' ELSE \
     '; the newest of them is number ' || coalesce(e.newest, 0) || ', and it should be ' || a.seq END \
     AS what FROM accounts a LEFT JOIN \
     (SELECT account, sum(amount) AS total, max(seq) AS newest FROM entries GROUP BY account) e \
     ON e.account = a.id WHERE coalesce(e.total, 0) <> a.balance OR coalesce(e.newest, 0) <> a.seq",
    // Each entry continues the one before it, without a gap.
    "SELECT account, CASE WHEN seq <> previous + 1 AND NOT (kind = 'opening' AND previous = 0) \
     THEN 'entry ' || seq || ' follows entry ' || previous || ': those in between are missing' \
     ELSE 'entry ' || seq || ' should leave {' || (before + amount) || '} but records {' || \
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
    // The entries of a payment, including folded ones, add up to the credits that the payment granted and took back.
    // The ids of these entries are the payment's name, alone or followed by ':'. If the payment was imported, the
    // import granted its credits, so its grant is not counted here.
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

/// Runs all checks in the transaction of `connection`.
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
        let limited = sqlx::query(AssertSqlSafe(format!("{check} LIMIT {LISTED}")));
        for row in limited.fetch_all(&mut *connection).await? {
            let (account, what) = (row.try_get("account")?, row.try_get("what")?);
            report.differences.push(Difference::in_micros(account, what));
        }
    }
    report.differences.truncate(LISTED as usize);
    Ok(report)
}
