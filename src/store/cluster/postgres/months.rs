//! Folding whole months: their partitions are detached from the entries, and either stay as plain
//! tables for an archive or are dropped. No row is deleted, and the ledger does not read these
//! tables again.
//!
//! 1. The months are closed: a new entry whose time is in one of them goes into the first open month
//!    (`insert_entries`, `ChargeRows`). All transactions that wrote into these months have ended by then.
//! 2. The ledger is reconciled. Folding stops at the first difference.
//! 3. Slice by slice, a new table is filled with an opening balance for each account. It also gets the rare old entries
//!    that follow an entry which is not old (because a clock once went backwards).
//! 4. The new table replaces the months in one transaction, so at any moment the entries of an account
//!    add up to its balance. Only this step needs an exclusive lock on the entries. It changes only
//!    catalogues. It waits for the lock for a quarter of a second at a time, so queries that queue behind
//!    it wait no longer than that.
//! 5. The ids of the calls that were made in these months are removed (`calls.rs`).

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::report::{FoldReport, OldMonths};
use crate::store::cluster::postgres::calls::forget_calls_patiently;
use crate::store::cluster::postgres::partitions::{LOCK_LIMIT, Month, is_locked, partitions_of};
use crate::store::cluster::postgres::reconcile::reconcile;
use crate::store::cluster::postgres::slices::{
    BY_INDEX, FOLDABLE, SLICE, SLICE_LIMIT, Slice, Slices,
};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::{Column as _, ENTRY};

/// How long other queries may run before the next attempt to take the lock.
const LOCK_EVERY: Duration = Duration::from_millis(750);

/// How long the attempts to take the lock go on. A dump of the database may hold it for a long
/// time.
const LOCK_PATIENCE: Duration = Duration::from_secs(3600);

/// The partitions that a folding replaces.
#[derive(Debug, Default)]
struct OldPartitions {
    months: Vec<Month>,
    /// The first month that an earlier folding left as it was; `None` if there was none. The table of
    /// opening balances has the months before it.
    openings: Option<Month>,
}

/// Folds the months before `before`.
///
/// # Errors
/// [`LedgerError::Corrupt`] if the ledger does not add up; [`LedgerError::Disagrees`] if another
/// folding has begun in the meantime.
pub(crate) async fn fold_months(
    store: &Store,
    before: Month,
    months: OldMonths,
) -> Result<FoldReport, LedgerError> {
    let old = store.transact(async |on| old_partitions(store, before, on).await).await?;
    let undated = store.transact(async |on| has_undated(store, before, on).await).await?;
    if old.openings.is_some_and(|earlier| earlier >= before) || (old.months.is_empty() && !undated)
    {
        return Ok(FoldReport::default());
    }
    let name = uuid::Uuid::new_v4().simple().to_string();
    close_months(store, before, &name).await?;
    let found = reconcile(store).await?;
    if let Some(first) = found.differences.first() {
        let what = format!("nothing is folded: {}: {}", first.account, first.what);
        return Err(LedgerError::Corrupt { what });
    }
    store.transact(async |on| make_openings(store, before, &name, on).await).await?;
    let mut slices = Slices::begin();
    while slices.add(fill_openings(store, before, &name, &slices.after).await?).await {}
    let mut report = slices.report;
    let began = Instant::now();
    loop {
        let taken = store.transact_within(SLICE_LIMIT, async |on| {
            swap_in(store, before, &name, months, on).await
        });
        match taken.await {
            Ok(tables) => report.months = tables,
            Err(error) => {
                wait_for_the_lock(error, began).await?;
                continue;
            }
        }
        forget_calls_patiently(store).await?;
        return Ok(report);
    }
}

/// Closes the months before `before`. After this returns, no entry is written into them.
async fn close_months(store: &Store, before: Month, name: &str) -> Result<(), LedgerError> {
    store
        .transact(async |on| {
            store.lock("fold", on).await?;
            let sql =
                "UPDATE {s}.ledger SET closed_before = greatest(closed_before, $1), folding = $2";
            store.query(sql).bind(before.start_ms()).bind(name).execute(on).await?;
            Ok(())
        })
        .await?;
    // The lock is granted once all transactions that have written into these months have ended.
    let began = Instant::now();
    loop {
        let waited = store.transact(async |on| {
            on.execute(LOCK_LIMIT).await?;
            on.execute(store.sql("LOCK TABLE ONLY {s}.entries IN SHARE MODE")).await?;
            Ok(())
        });
        match waited.await {
            Err(error) => wait_for_the_lock(error, began).await?,
            Ok(()) => return Ok(()),
        }
    }
}

/// Finds the partitions that end before a month begins.
async fn old_partitions(
    store: &Store,
    before: Month,
    on: &mut PgConnection,
) -> Result<OldPartitions, LedgerError> {
    let mut old = OldPartitions::default();
    for name in partitions_of(store, "entries", on).await? {
        let Some(name) = name.strip_prefix("entries_") else { continue };
        if let Some(month) = name.strip_prefix("before_").and_then(Month::parse) {
            old.openings = Some(month);
        } else if let Some(month) = Month::parse(name).filter(|month| *month < before) {
            old.months.push(month);
        }
    }
    Ok(old)
}

/// Whether the default partition has entries from before a month. Such entries exist if a clock was wrong, or if the
/// month's partition was made too late.
async fn has_undated(
    store: &Store,
    before: Month,
    on: &mut PgConnection,
) -> Result<bool, LedgerError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM {s}.entries_default WHERE created_at < $1) AS found";
    Ok(store.query(sql).bind(before.start_ms()).fetch_one(on).await?.try_get("found")?)
}

/// Makes the table that will replace the months. It has a check on its times, so Postgres can
/// attach it without reading its rows.
async fn make_openings(
    store: &Store,
    before: Month,
    name: &str,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    lock_folding(store, name, on).await?;
    let (table, upto) = (openings(before), before.start_ms());
    // An interrupted folding may have left a table of this name.
    on.execute(store.sql(&format!("DROP TABLE IF EXISTS {{s}}.{table}"))).await?;
    let sql = format!(
        "CREATE TABLE {{s}}.{table} (LIKE {{s}}.entries INCLUDING DEFAULTS INCLUDING CONSTRAINTS \
         INCLUDING INDEXES, CHECK (created_at IS NOT NULL AND created_at < {upto}))"
    );
    on.execute(store.sql(&sql)).await?;
    Ok(())
}

/// Fills the table of opening balances for a slice of accounts.
pub(crate) async fn fill_openings(
    store: &Store,
    before: Month,
    name: &str,
    after: &str,
) -> Result<Slice, LedgerError> {
    let sql = format!(
        "WITH {FOLDABLE}, \
         opened AS (INSERT INTO {{s}}.{table} (account, seq, operation, kind, amount, balance_after, \
         created_at) SELECT id, seq, 'opening:' || id || ':' || seq, 'opening', balance_after, \
         balance_after, created_at FROM newest), \
         behind AS (INSERT INTO {{s}}.{table} ({ENTRY}) SELECT e.account, e.seq, e.operation, e.kind, \
         e.amount, e.balance_after, e.route, e.reason, e.created_at, e.held, e.model, e.usage, \
         e.prices FROM cut c JOIN {{s}}.entries e \
         ON e.account = c.id AND e.seq > c.kept AND e.created_at < $2) \
         SELECT (SELECT max(id) FROM slice) AS upto, \
         count(*) FILTER (WHERE NOT is_folded) AS accounts, \
         coalesce(sum(seq - first + 1) FILTER (WHERE NOT is_folded), 0)::int8 AS entries FROM newest",
        table = openings(before),
    );
    store
        .transact_within(SLICE_LIMIT, async |on| {
            lock_folding(store, name, on).await?;
            on.execute(BY_INDEX).await?;
            let query = store.query(&sql).bind(after).bind(before.start_ms()).bind(SLICE);
            let row = query.fetch_one(on).await?;
            let (accounts, entries) = (row.count("accounts")?, row.count("entries")?);
            Ok((FoldReport { accounts, entries, months: Vec::new() }, row.try_get("upto")?))
        })
        .await
}

/// Replaces the months with the table of opening balances. Returns the names of the tables that the
/// months have become, without those that were dropped.
async fn swap_in(
    store: &Store,
    before: Month,
    name: &str,
    months: OldMonths,
    on: &mut PgConnection,
) -> Result<Vec<String>, LedgerError> {
    lock_folding(store, name, on).await?;
    store.lock("partitions", on).await?;
    let old = old_partitions(store, before, &mut *on).await?;
    let mut tables = Vec::new();
    // This step comes before the lock, because it may take a while. No query waits for these rows.
    if has_undated(store, before, &mut *on).await? {
        let table = format!("entries_undated_before_{}_detached", before.name());
        move_undated(store, before, &table, &mut *on).await?;
        tables.push(table);
    }
    on.execute(LOCK_LIMIT).await?;
    on.execute(store.sql("LOCK TABLE ONLY {s}.entries IN ACCESS EXCLUSIVE MODE")).await?;
    for month in old.months {
        let table = format!("entries_{}", month.name());
        detach(store, &table, &mut *on).await?;
        let detached = format!("{table}_detached");
        let sql = format!("ALTER TABLE {{s}}.{table} RENAME TO {detached}");
        on.execute(store.sql(&sql)).await?;
        tables.push(detached);
    }
    if let Some(earlier) = old.openings {
        // The new table has the same opening balances, or later ones.
        detach(store, &openings(earlier), &mut *on).await?;
        let sql = format!("DROP TABLE {{s}}.{}", openings(earlier));
        on.execute(store.sql(&sql)).await?;
    }
    let sql = format!(
        "ALTER TABLE {{s}}.entries ATTACH PARTITION {{s}}.{} FOR VALUES FROM (MINVALUE) TO ({})",
        openings(before),
        before.start_ms(),
    );
    on.execute(store.sql(&sql)).await?;
    if months == OldMonths::Drop {
        for table in tables.drain(..) {
            on.execute(store.sql(&format!("DROP TABLE {{s}}.{table}"))).await?;
        }
    }
    on.execute(store.sql("UPDATE {s}.ledger SET folding = NULL")).await?;
    Ok(tables.into_iter().map(|table| format!("{}.{table}", store.schema())).collect())
}

/// Detaches a partition from the table `entries`.
async fn detach(store: &Store, table: &str, on: &mut PgConnection) -> Result<(), LedgerError> {
    let sql = format!("ALTER TABLE {{s}}.entries DETACH PARTITION {{s}}.{table}");
    on.execute(store.sql(&sql)).await?;
    Ok(())
}

/// Moves the old entries of the default partition into a table of their own.
async fn move_undated(
    store: &Store,
    before: Month,
    table: &str,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    on.execute("SET LOCAL farebox.folding = 'on'").await?;
    let sql = format!("CREATE TABLE {{s}}.{table} (LIKE {{s}}.entries INCLUDING INDEXES)");
    on.execute(store.sql(&sql)).await?;
    let sql = format!(
        "WITH gone AS (DELETE FROM {{s}}.entries_default WHERE created_at < $1 RETURNING *) \
         INSERT INTO {{s}}.{table} SELECT * FROM gone"
    );
    store.query(&sql).bind(before.start_ms()).execute(on).await?;
    Ok(())
}

/// Takes the lock for foldings, which ends with the transaction.
///
/// # Errors
/// [`LedgerError::Disagrees`] if another folding than `name` has begun.
async fn lock_folding(store: &Store, name: &str, on: &mut PgConnection) -> Result<(), LedgerError> {
    store.lock("fold", on).await?;
    let current = store.query("SELECT folding FROM {s}.ledger").fetch_one(on).await?;
    if current.optional_text("folding")? == Some(name) {
        return Ok(());
    }
    let what = "another folding has begun; this one changed nothing".into();
    Err(LedgerError::Disagrees { what, hint: "wait until the other one has ended" })
}

/// Sleeps after an attempt that did not get the lock, so that the queries that waited behind it can
/// run before the next attempt.
///
/// # Errors
/// Returns `error` itself if it is not about the lock, or if the attempts have gone on for too
/// long.
async fn wait_for_the_lock(error: LedgerError, began: Instant) -> Result<(), LedgerError> {
    if !is_locked(&error) || began.elapsed() > LOCK_PATIENCE {
        return Err(error);
    }
    tracing::info!("folding waits for its lock: a long transaction reads or writes entries");
    tokio::time::sleep(LOCK_EVERY).await;
    Ok(())
}

/// The name of the table that has the opening balances of the months before `before`.
fn openings(before: Month) -> String {
    format!("entries_before_{}", before.name())
}
