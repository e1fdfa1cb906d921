//! Putting right what contradicts the entries, which are the truth: they are never edited. Every step
//! takes the locks that a batch takes, so gateways may serve meanwhile.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, RepairReport};
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::Store;
use crate::store::cluster::postgres::read::REPORT_LIMIT;

/// Steps that each are one statement, with what they put right.
const STEPS: [(&str, &str); 3] = [
    // It did take effect: the entry says so.
    (
        "INSERT INTO {s}.operations (id, account, seq, kind, amount, created_at) \
         SELECT e.operation, e.account, e.seq, e.kind, e.amount, e.created_at FROM {s}.entries e \
         WHERE e.kind <> 'opening' \
         AND NOT EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = e.operation) \
         ON CONFLICT DO NOTHING RETURNING account, 'entry ' || seq AS whose",
        "takes effect under its id again, once",
    ),
    (
        "DELETE FROM {s}.holds h WHERE h.state = 'live' \
         AND EXISTS (SELECT 1 FROM {s}.operations o WHERE o.id = 'capture:' || h.id) \
         RETURNING account, 'hold ' || id AS whose",
        "was captured, and is not live any more",
    ),
    (
        "UPDATE {s}.accounts a SET frozen = NOT a.frozen WHERE a.frozen <> \
         EXISTS (SELECT 1 FROM {s}.freezes f WHERE f.account = a.id) \
         RETURNING id AS account, CASE WHEN frozen THEN 'it is frozen' ELSE 'it is thawed' END AS whose",
        "as its disputes say",
    ),
];

/// Accounts whose balance or number of entries is not what their entries say, those without a row too.
/// `gaps`: how often an entry does not follow the one before it, and how many are missing after the newest.
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

impl Store {
    /// Puts right what can be: accounts by the sums of their entries, ids that have taken effect, holds
    /// that were captured, accounts that are frozen.
    pub async fn repair(&self) -> Result<RepairReport, LedgerError> {
        let mut report = RepairReport::default();
        for (sql, how) in STEPS {
            let repaired = self.transact_within(REPORT_LIMIT, async |on| {
                // Who is frozen is decided under this lock.
                self.lock("payments", on).await?;
                Ok(self.query(sql).fetch_all(on).await?)
            });
            for row in repaired.await? {
                let what = format!("{} {how}", row.text("whose")?);
                report.repaired.push(Difference::new(row.text("account")?, what));
            }
        }
        let all = SUMS.replace("{which}", "true");
        let wrong = self
            .transact_within(REPORT_LIMIT, async |on| Ok(self.query(&all).fetch_all(on).await?));
        for row in wrong.await? {
            let account = row.text("account")?;
            if row.int("gaps")? > 0 {
                let what = "entries are missing, so what is left of them says nothing of the balance: \
                            bring them back from a backup";
                report.left.push(Difference::new(account, what));
                continue;
            }
            let oldest = row.int("oldest")?;
            let repair = self.transact(async |on| self.repair_sum(account, oldest, on).await);
            if let Some(what) = repair.await? {
                report.repaired.push(Difference::in_micros(account, &what));
            }
        }
        Ok(report)
    }

    /// Looks at one account again, with its row locked: no batch moves it meanwhile.
    async fn repair_sum(
        &self,
        account: &str,
        oldest: i64,
        on: &mut PgConnection,
    ) -> Result<Option<String>, LedgerError> {
        self.query(
            "INSERT INTO {s}.accounts (id, balance, seq, grant_seq, created_at) \
             VALUES ($1, 0, 0, 0, $2) ON CONFLICT DO NOTHING",
        )
        .bind(account)
        .bind(oldest)
        .execute(&mut *on)
        .await?;
        let lock = "SELECT 1 FROM {s}.accounts WHERE id = $1 FOR UPDATE";
        self.query(lock).bind(account).execute(&mut *on).await?;
        let one = format!("{} AND a.id = $1", SUMS.replace("{which}", "account = $1"));
        let Some(row) = self.query(&one).bind(account).fetch_optional(&mut *on).await? else {
            return Ok(None);
        };
        let total: i64 = row.text("total")?.parse().map_err(|_| LedgerError::Corrupt {
            what: format!("the entries of {account} add up to more than there is"),
        })?;
        let before: i64 = row.try_get("balance")?;
        self.query("UPDATE {s}.accounts SET balance = $2, seq = $3 WHERE id = $1")
            .bind(account)
            .bind(total)
            .bind(row.int("newest")?)
            .execute(on)
            .await?;
        Ok(Some(format!("the balance was {{{before}}} and is {{{total}}}, as its entries say")))
    }
}
