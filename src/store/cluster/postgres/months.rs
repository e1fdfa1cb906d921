//! Taking whole months out of the entries: their partitions are detached, and stand as plain tables for an
//! archive, or are dropped. No entry is deleted, and none of theirs is read again.
//!
//! 1. The months are closed: whatever is still written with such a time is written into the first month
//!    that stays open (`insert_entries`), and whoever was at it before has ended.
//! 2. The ledger is examined: what does not add up is not folded.
//! 3. Slice by slice, a table beside the others is filled with an opening balance of each account, and with
//!    the rare old entry behind one that is kept (a clock once went backwards).
//! 4. That table takes the months' place, in one transaction, so at any moment the entries of an account add
//!    up to its balance. Only this needs the lock that nobody reads or writes under. It changes catalogues
//!    alone, and waits for the lock a quarter of a second at a time: callers behind it wait no longer.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::report::{FoldReport, OldMonths};
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::Store;
use crate::store::cluster::postgres::fold::{
    BY_INDEX, FOLDABLE, SLICE, SLICE_LIMIT, Slice, Slices,
};
use crate::store::cluster::postgres::partitions::{LOCK_LIMIT, Month, is_locked};

/// How long everybody is let through before the next attempt.
const LOCK_EVERY: Duration = Duration::from_millis(750);

/// How long it is tried: a dump reads the entries for as long as it takes.
const LOCK_PATIENCE: Duration = Duration::from_secs(3600);

/// The months' partitions that go, by the names of their tables.
#[derive(Debug, Default)]
struct Going {
    months: Vec<Month>,
    /// What an earlier folding put in the place of the months before them.
    openings: Option<Month>,
}

impl Store {
    /// Folds the months before this one.
    pub(crate) async fn fold_months(
        &self,
        before: Month,
        months: OldMonths,
    ) -> Result<FoldReport, LedgerError> {
        let going = self.transact(async |on| self.going(before, on).await).await?;
        let undated = self.transact(async |on| self.has_undated(before, on).await).await?;
        if going.openings.is_some_and(|earlier| earlier >= before)
            || (going.months.is_empty() && !undated)
        {
            return Ok(FoldReport::default());
        }
        let name = uuid::Uuid::new_v4().simple().to_string();
        self.close(before, &name).await?;
        let found = self.examine().await?;
        if let Some(first) = found.differences.first() {
            let what = format!("nothing is folded: {}: {}", first.account, first.what);
            return Err(LedgerError::Corrupt { what });
        }
        self.transact(async |on| self.make_openings(before, &name, on).await).await?;
        let mut report = self.in_slices(&Slices::Openings { before, name: &name }).await?;
        let began = Instant::now();
        loop {
            let taken = self.transact_within(SLICE_LIMIT, async |on| {
                self.take_the_place(before, &name, months, on).await
            });
            match taken.await {
                Ok(tables) => report.months = tables,
                Err(error) => {
                    wait_for_the_lock(error, began).await?;
                    continue;
                }
            }
            return Ok(report);
        }
    }

    /// From here on nothing comes into the months before this one.
    async fn close(&self, before: Month, name: &str) -> Result<(), LedgerError> {
        self.transact(async |on| {
            self.lock("fold", on).await?;
            let sql =
                "UPDATE {s}.ledger SET closed_before = greatest(closed_before, $1), folding = $2";
            self.query(sql).bind(before.start_ms()).bind(name).execute(on).await?;
            Ok(())
        })
        .await?;
        // Whoever began to write before that has ended once this lock is had.
        let began = Instant::now();
        loop {
            let waited = self.transact(async |on| {
                on.execute(LOCK_LIMIT).await?;
                on.execute(self.sql("LOCK TABLE ONLY {s}.entries IN SHARE MODE")).await?;
                Ok(())
            });
            match waited.await {
                Err(error) => wait_for_the_lock(error, began).await?,
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Which partitions lie wholly before a month.
    async fn going(&self, before: Month, on: &mut PgConnection) -> Result<Going, LedgerError> {
        let rows = self
            .query(
                "SELECT c.relname::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                 WHERE i.inhparent = to_regclass($1) ORDER BY c.relname",
            )
            .bind(format!("{}.entries", self.schema))
            .fetch_all(on)
            .await?;
        let mut going = Going::default();
        for row in &rows {
            let Some(name) = row.text("name")?.strip_prefix("entries_") else { continue };
            if let Some(month) = name.strip_prefix("before_").and_then(Month::parse) {
                going.openings = Some(month);
            } else if let Some(month) = Month::parse(name).filter(|month| *month < before) {
                going.months.push(month);
            }
        }
        Ok(going)
    }

    /// True where old entries lie in no month: a clock was wrong, or nobody had made theirs.
    async fn has_undated(&self, before: Month, on: &mut PgConnection) -> Result<bool, LedgerError> {
        let sql =
            "SELECT EXISTS (SELECT 1 FROM {s}.entries_default WHERE created_at < $1) AS found";
        Ok(self.query(sql).bind(before.start_ms()).fetch_one(on).await?.try_get("found")?)
    }

    /// Makes the table that will take the months' place. Its check spares a look at every row then.
    async fn make_openings(
        &self,
        before: Month,
        name: &str,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        self.lock_folding(name, on).await?;
        let (table, upto) = (openings(before), before.start_ms());
        // What a folding left that was cut off.
        on.execute(self.sql(&format!("DROP TABLE IF EXISTS {{s}}.{table}"))).await?;
        let sql = format!(
            "CREATE TABLE {{s}}.{table} (LIKE {{s}}.entries INCLUDING DEFAULTS INCLUDING CONSTRAINTS \
             INCLUDING INDEXES, CHECK (created_at IS NOT NULL AND created_at < {upto}))"
        );
        on.execute(self.sql(&sql)).await?;
        Ok(())
    }

    /// Fills it for some accounts.
    pub(crate) async fn open_accounts(
        &self,
        before: Month,
        name: &str,
        after: &str,
    ) -> Result<Slice, LedgerError> {
        let sql = format!(
            "WITH {FOLDABLE}, \
             opened AS (INSERT INTO {{s}}.{table} (account, seq, operation, kind, amount, balance_after, \
             created_at) SELECT id, seq, 'opening:' || id || ':' || seq, 'opening', balance_after, \
             balance_after, created_at FROM newest), \
             behind AS (INSERT INTO {{s}}.{table} (account, seq, operation, kind, amount, balance_after, \
             route, reason, created_at) SELECT e.account, e.seq, e.operation, e.kind, e.amount, \
             e.balance_after, e.route, e.reason, e.created_at FROM cut c JOIN {{s}}.entries e \
             ON e.account = c.id AND e.seq > c.kept AND e.created_at < $2) \
             SELECT (SELECT max(id) FROM slice) AS upto, \
             count(*) FILTER (WHERE NOT is_folded) AS accounts, \
             coalesce(sum(seq - first + 1) FILTER (WHERE NOT is_folded), 0)::int8 AS entries FROM newest",
            table = openings(before),
        );
        self.transact_within(SLICE_LIMIT, async |on| {
            self.lock_folding(name, on).await?;
            on.execute(BY_INDEX).await?;
            let query = self.query(&sql).bind(after).bind(before.start_ms()).bind(SLICE);
            let row = query.fetch_one(on).await?;
            let (accounts, entries) = (row.count("accounts")?, row.count("entries")?);
            Ok((FoldReport { accounts, entries, months: Vec::new() }, row.try_get("upto")?))
        })
        .await
    }

    /// Puts it in the months' place; the tables that they are now.
    async fn take_the_place(
        &self,
        before: Month,
        name: &str,
        months: OldMonths,
        on: &mut PgConnection,
    ) -> Result<Vec<String>, LedgerError> {
        self.lock_folding(name, on).await?;
        self.lock("partitions", on).await?;
        let going = self.going(before, &mut *on).await?;
        let mut tables = Vec::new();
        // First, since it may take a while: nobody waits for these rows.
        if self.has_undated(before, &mut *on).await? {
            let table = format!("entries_undated_before_{}_detached", before.name());
            self.take_undated(before, &table, &mut *on).await?;
            tables.push(table);
        }
        on.execute(LOCK_LIMIT).await?;
        on.execute(self.sql("LOCK TABLE ONLY {s}.entries IN ACCESS EXCLUSIVE MODE")).await?;
        for month in going.months {
            let table = format!("entries_{}", month.name());
            self.detach(&table, &mut *on).await?;
            let detached = format!("{table}_detached");
            let sql = format!("ALTER TABLE {{s}}.{table} RENAME TO {detached}");
            on.execute(self.sql(&sql)).await?;
            tables.push(detached);
        }
        if let Some(earlier) = going.openings {
            // What it says follows from the months before, which went then.
            self.detach(&openings(earlier), &mut *on).await?;
            let sql = format!("DROP TABLE {{s}}.{}", openings(earlier));
            on.execute(self.sql(&sql)).await?;
        }
        let sql = format!(
            "ALTER TABLE {{s}}.entries ATTACH PARTITION {{s}}.{} FOR VALUES FROM (MINVALUE) TO ({})",
            openings(before),
            before.start_ms(),
        );
        on.execute(self.sql(&sql)).await?;
        if months == OldMonths::Drop {
            for table in tables.drain(..) {
                on.execute(self.sql(&format!("DROP TABLE {{s}}.{table}"))).await?;
            }
        }
        on.execute(self.sql("UPDATE {s}.ledger SET folding = NULL")).await?;
        Ok(tables.into_iter().map(|table| format!("{}.{table}", self.schema)).collect())
    }

    async fn detach(&self, table: &str, on: &mut PgConnection) -> Result<(), LedgerError> {
        let sql = format!("ALTER TABLE {{s}}.entries DETACH PARTITION {{s}}.{table}");
        on.execute(self.sql(&sql)).await?;
        Ok(())
    }

    /// Old entries that lie in no month go into a table of their own.
    async fn take_undated(
        &self,
        before: Month,
        table: &str,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        on.execute("SET LOCAL farebox.folding = 'on'").await?;
        let sql = format!("CREATE TABLE {{s}}.{table} (LIKE {{s}}.entries INCLUDING INDEXES)");
        on.execute(self.sql(&sql)).await?;
        let sql = format!(
            "WITH gone AS (DELETE FROM {{s}}.entries_default WHERE created_at < $1 RETURNING *) \
             INSERT INTO {{s}}.{table} SELECT * FROM gone"
        );
        self.query(&sql).bind(before.start_ms()).execute(on).await?;
        Ok(())
    }

    /// Nobody else folds until the transaction ends; an error where another folding has begun since.
    async fn lock_folding(&self, name: &str, on: &mut PgConnection) -> Result<(), LedgerError> {
        self.lock("fold", on).await?;
        let at_work = self.query("SELECT folding FROM {s}.ledger").fetch_one(on).await?;
        if at_work.optional_text("folding")? == Some(name) {
            return Ok(());
        }
        let what = "another folding has begun; this one changed nothing".into();
        Err(LedgerError::Disagrees { what, hint: "wait for the other one" })
    }
}

/// Lets everybody through who waited behind an attempt that did not get its lock, before the next one.
async fn wait_for_the_lock(error: LedgerError, began: Instant) -> Result<(), LedgerError> {
    if !is_locked(&error) || began.elapsed() > LOCK_PATIENCE {
        return Err(error);
    }
    tracing::info!("folding waits for somebody who reads or writes entries for long");
    tokio::time::sleep(LOCK_EVERY).await;
    Ok(())
}

/// The table that has what was folded before a month.
fn openings(before: Month) -> String {
    format!("entries_before_{}", before.name())
}
