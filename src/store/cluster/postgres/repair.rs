//! Repairs. Rows that contradict the entries are changed to agree with them; entries themselves are
//! never changed. Every step takes the locks that a batch takes, so gateways may serve meanwhile. A row that
//! another transaction keeps locked is left for the end, and reported if it stays locked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor as _, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, RepairReport};
use crate::store::cluster::postgres::read::REPORT_LIMIT;
use crate::store::cluster::postgres::shard::read_checkpoint;
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

/// Limits how long a repair waits for a lock, because purchases wait for the repair meanwhile.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = 50";

/// How long the rows that other transactions keep locked are tried again, after all other repairs.
const LOCKED_LIMIT: Duration = Duration::from_secs(5);

/// How often a row has to be found locked, [`RETRY_AFTER`] apart, until it counts as one that stays locked.
const LOOKS: usize = 4;

/// The time between two attempts, in which other transactions get the locks.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// A row that is not repaired yet, because another transaction keeps it locked.
struct Locked {
    account: String,
    damage: Damage,
}

/// The damage to a row.
enum Damage {
    Row {
        step: &'static Step,
        subject: String,
    },
    /// The account's balance differs from its entries, the oldest of which has this time.
    Sum {
        oldest: i64,
    },
}

/// An account, and the subject of its damaged row.
type Damaged = (String, String);

static STEPS: [Step; 4] = [
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
/// differences that cannot be repaired, and the accounts that stay locked.
pub(crate) async fn repair(store: &Store) -> Result<RepairReport, LedgerError> {
    let (mut report, mut locked) = (RepairReport::default(), Vec::new());
    for step in &STEPS {
        step.run(store, &mut report, &mut locked).await?;
    }
    repair_sums(store, &mut report, &mut locked).await?;
    let began = Instant::now();
    while !locked.is_empty() && began.elapsed() < LOCKED_LIMIT {
        tokio::time::sleep(RETRY_AFTER).await;
        for one in std::mem::take(&mut locked) {
            one.repair(store, &mut report, &mut locked).await?;
        }
    }
    report.left.extend(locked.iter().map(|locked| stays_locked(&locked.account)));
    Ok(report)
}

/// The line of the report for an account that stays locked.
pub(crate) fn stays_locked(account: &str) -> Difference {
    let what = "another transaction keeps a row of this account locked: look for it in pg_stat_activity \
                and end it, then repair again";
    Difference::new(account, what)
}

/// Those of the accounts whose rows other transactions keep locked for a while. Empty if there was no time to look. The
/// shard's row is locked meanwhile, so that no gateway writes batches: that locks rows as well.
pub(crate) async fn find_locked(
    store: &Store,
    accounts: BTreeSet<String>,
) -> Result<BTreeSet<String>, LedgerError> {
    let (began, mut locked, mut looks) = (Instant::now(), accounts, 0);
    while !locked.is_empty() && looks < LOOKS {
        let names: Vec<_> = locked.iter().cloned().collect();
        let found = store.transact(async |on| {
            read_checkpoint(store, "FOR UPDATE", on).await?;
            locked_accounts(store, &names, on).await
        });
        match found.await {
            Ok(found) => (locked, looks) = (found, looks + 1),
            Err(LedgerError::RowLocked) if began.elapsed() < LOCKED_LIMIT => {}
            Err(LedgerError::RowLocked) => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    Ok(locked)
}

async fn repair_sums(
    store: &Store,
    report: &mut RepairReport,
    locked: &mut Vec<Locked>,
) -> Result<(), LedgerError> {
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
        let damage = Damage::Sum { oldest: row.int("oldest")? };
        let one = Locked { account: account.to_owned(), damage };
        one.repair(store, report, locked).await?;
    }
    Ok(())
}

impl Locked {
    /// Repairs the row, or adds it to `locked` again.
    async fn repair(
        self,
        store: &Store,
        report: &mut RepairReport,
        locked: &mut Vec<Self>,
    ) -> Result<(), LedgerError> {
        let Self { account, damage } = self;
        match damage {
            Damage::Row { step, subject } => {
                step.repair(store, &[(account, subject)], report, locked).await
            }
            Damage::Sum { oldest } => {
                let repair =
                    store.transact(async |on| repair_sum(store, &account, oldest, on).await);
                let repaired = repair.await;
                match repaired {
                    Ok(Some(what)) => report.repaired.push(Difference::in_micros(&account, &what)),
                    Ok(None) => {}
                    Err(LedgerError::RowLocked) => {
                        locked.push(Self { account, damage: Damage::Sum { oldest } });
                    }
                    Err(error) => return Err(error),
                }
                Ok(())
            }
        }
    }
}

impl Step {
    /// Finds the damaged rows without a lock, and repairs them in short transactions, so that neither calls nor
    /// purchases wait.
    async fn run(
        &'static self,
        store: &Store,
        report: &mut RepairReport,
        locked: &mut Vec<Locked>,
    ) -> Result<(), LedgerError> {
        let found = store.transact_within(REPORT_LIMIT, async |on| {
            Ok(store.query(self.find).fetch_all(on).await?)
        });
        let damaged = |row: &PgRow| -> Result<Damaged, LedgerError> {
            Ok((row.text("account")?.to_owned(), row.text("subject")?.to_owned()))
        };
        let found = found.await?.iter().map(damaged).collect::<Result<Vec<_>, _>>()?;
        for some in found.chunks(AT_ONCE) {
            self.repair(store, some, report, locked).await?;
        }
        Ok(())
    }

    /// Repairs some rows. Those of accounts that another transaction keeps locked are added to `locked`.
    async fn repair(
        &'static self,
        store: &Store,
        some: &[Damaged],
        report: &mut RepairReport,
        locked: &mut Vec<Locked>,
    ) -> Result<(), LedgerError> {
        let (fixed, left) = match store.transact(async |on| self.fix(store, some, on).await).await {
            Ok(fixed) => fixed,
            // Another row than an account's is locked, or the lock for payments.
            Err(LedgerError::RowLocked) => (Vec::new(), some.to_vec()),
            Err(error) => return Err(error),
        };
        for row in fixed {
            let what = format!("{} {}", row.text("subject")?, self.how);
            report.repaired.push(Difference::new(row.text("account")?, what));
        }
        locked.extend(left.into_iter().map(|(account, subject)| Locked {
            account,
            damage: Damage::Row { step: self, subject },
        }));
        Ok(())
    }

    /// Repairs those rows whose accounts no other transaction keeps locked. Returns the repaired rows, and the others.
    async fn fix(
        &self,
        store: &Store,
        some: &[Damaged],
        on: &mut PgConnection,
    ) -> Result<(Vec<PgRow>, Vec<Damaged>), LedgerError> {
        // All transactions that change freezes hold this lock.
        store.lock("payments", on).await?;
        on.execute(LOCK_WAIT).await?;
        let accounts: Vec<_> = some.iter().map(|(account, _)| account.clone()).collect();
        let locked = locked_accounts(store, &accounts, on).await?;
        let (left, free): (Vec<_>, Vec<_>) =
            some.iter().cloned().partition(|(account, _)| locked.contains(account));
        let (accounts, subjects): (Vec<_>, Vec<_>) = free.into_iter().unzip();
        let query = store.query(self.fix).bind(accounts).bind(subjects);
        Ok((query.fetch_all(on).await?, left))
    }
}

/// Locks those of the accounts that no other transaction keeps locked. Returns the others.
async fn locked_accounts(
    store: &Store,
    accounts: &[String],
    on: &mut PgConnection,
) -> Result<BTreeSet<String>, LedgerError> {
    let lock = "SELECT id FROM {s}.accounts WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED";
    let free = store.query(lock).bind(accounts).fetch_all(&mut *on).await?;
    let all = "SELECT id FROM {s}.accounts WHERE id = ANY($1)";
    let all = store.query(all).bind(accounts).fetch_all(on).await?;
    let ids = |rows: &[PgRow]| -> Result<BTreeSet<String>, LedgerError> {
        rows.iter().map(|row| Ok(row.text("id")?.to_owned())).collect()
    };
    Ok(&ids(&all)? - &ids(&free)?)
}

/// Compares one account again, with its row locked so that no batch changes it, and repairs it.
/// Returns the text for the report, or `None` if the account is now right.
async fn repair_sum(
    store: &Store,
    account: &str,
    oldest: i64,
    on: &mut PgConnection,
) -> Result<Option<String>, LedgerError> {
    on.execute(LOCK_WAIT).await?;
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
