//! Folds old entries into opening balances, while gateways serve.
//!
//! Whole months are folded first (`months.rs`): their partitions are detached, and no row is
//! deleted. The entries of the remaining month that are older than the given time are deleted row
//! by row, in this file. Both go through the accounts in slices. Each slice is a complete
//! transaction.

use sqlx::{Executor as _, Row as _};

use crate::ledger::report::{FoldReport, OldMonths};
use crate::ledger::{LedgerError, wall_ms};
use crate::store::cluster::postgres::months::fold_months;
use crate::store::cluster::postgres::partitions::Month;
use crate::store::cluster::postgres::slices::{
    BY_INDEX, FOLDABLE, SLICE, SLICE_LIMIT, Slice, Slices,
};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// Folds the entries older than `before_ms` (milliseconds since 1970) into one opening balance for each account, up to
/// the account's first entry that is not older. The ids of folded entries stay in `operations`; the ids of folded calls
/// are deleted together with whole months.
pub(crate) async fn fold(
    store: &Store,
    before_ms: i64,
    months: OldMonths,
) -> Result<FoldReport, LedgerError> {
    let before_ms = before_ms.min(wall_ms());
    let mut report = fold_months(store, Month::of(before_ms), months).await?;
    let mut rows = Slices::begin();
    while rows.add(fold_rows(store, before_ms, &rows.after).await?).await {}
    let rows = rows.report;
    report.accounts = report.accounts.max(rows.accounts);
    report.entries = report.entries.saturating_add(rows.entries);
    Ok(report)
}

/// Deletes the old entries of a slice of accounts, and writes an opening balance in their place.
async fn fold_rows(store: &Store, before_ms: i64, after: &str) -> Result<Slice, LedgerError> {
    store
        .transact_within(SLICE_LIMIT, async |on| {
            store.lock("fold", on).await?;
            on.execute(BY_INDEX).await?;
            on.execute("SET LOCAL farebox.folding = 'on'").await?;
            let sql = format!(
                "WITH {FOLDABLE}, old AS (SELECT * FROM newest WHERE NOT is_folded), \
             gone AS (DELETE FROM {{s}}.entries e USING old o \
             WHERE e.account = o.id AND e.seq <= o.seq RETURNING 1), \
             opened AS (INSERT INTO {{s}}.entries (account, seq, operation, kind, amount, \
             balance_after, created_at) SELECT id, seq, 'opening:' || id || ':' || seq, 'opening', \
             balance_after, balance_after, created_at + 1 FROM old RETURNING 1) \
             SELECT (SELECT max(id) FROM slice) AS upto, \
             (SELECT count(*) FROM opened) AS accounts, (SELECT count(*) FROM gone) AS entries"
            );
            let row =
                store.query(&sql).bind(after).bind(before_ms).bind(SLICE).fetch_one(on).await?;
            let (accounts, entries) = (row.count("accounts")?, row.count("entries")?);
            Ok((FoldReport { accounts, entries, months: Vec::new() }, row.try_get("upto")?))
        })
        .await
}
