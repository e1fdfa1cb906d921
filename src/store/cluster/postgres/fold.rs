//! Folding old entries into opening balances, under running gateways.
//!
//! Whole months go first (`months.rs`): their partitions are detached, and nothing is deleted. What is
//! older than the given moment in the month that remains is deleted row by row, here. Both go through
//! the accounts in slices, each a transaction of its own that leaves nothing half done.

use std::time::{Duration, Instant};

use sqlx::Executor as _;
use sqlx::Row as _;

use crate::ledger::report::{FoldReport, OldMonths};
use crate::ledger::{LedgerError, wall_ms};
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::Store;
use crate::store::cluster::postgres::partitions::Month;

/// How many accounts a slice looks at.
pub(crate) const SLICE: i64 = 500;

/// How long a slice may take.
pub(crate) const SLICE_LIMIT: Duration = Duration::from_secs(600);

/// A slice looks its accounts up one by one, also where the planner expects more of them than there are:
/// anything else reads all entries for each slice.
pub(crate) const BY_INDEX: &str = "SET LOCAL enable_hashjoin = off; \
    SET LOCAL enable_mergejoin = off; SET LOCAL enable_sort = off; SET LOCAL jit = off";

/// What of each account can be folded, for the two ways of doing it. `$1` is the account that the slice
/// before ended with, `$2` the moment, `$3` how many accounts.
///
/// An account is folded up to its first entry that is not old (`kept`): a clock that once went backwards
/// must not tear a gap. `first` is its oldest entry, `newest` the last one that goes. Numbers have no
/// gaps, so no entry in between is looked at.
pub(crate) const FOLDABLE: &str = "\
    slice AS (SELECT id FROM {s}.accounts WHERE id > $1 ORDER BY id LIMIT $3), \
    cut AS (SELECT id, coalesce((SELECT e.seq FROM {s}.entries e WHERE e.account = slice.id \
     AND e.created_at >= $2 ORDER BY e.seq LIMIT 1), 9223372036854775807) AS kept FROM slice), \
    newest AS (SELECT c.id, n.seq, n.balance_after, n.created_at, f.seq AS first, \
     f.seq = n.seq AND f.kind = 'opening' AS is_folded FROM cut c \
     CROSS JOIN LATERAL (SELECT seq, balance_after, created_at FROM {s}.entries e \
      WHERE e.account = c.id AND e.created_at < $2 AND e.seq < c.kept ORDER BY e.seq DESC LIMIT 1) n \
     CROSS JOIN LATERAL (SELECT seq, kind FROM {s}.entries e \
      WHERE e.account = c.id AND e.created_at < $2 AND e.seq < c.kept ORDER BY e.seq LIMIT 1) f)";

/// What is done slice by slice.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slices<'a> {
    /// Old entries are deleted, and an opening balance takes their place.
    Rows { before_ms: i64 },
    /// A table of opening balances is filled, for the folding of this name.
    Openings { before: Month, name: &'a str },
}

/// What a slice came to, and the last account of it.
pub(crate) type Slice = (FoldReport, Option<String>);

impl Store {
    /// Folds the entries older than `before_ms` into one opening balance an account, up to the first
    /// that is not older. Their ids stay in `operations`.
    pub async fn fold(&self, before_ms: i64, months: OldMonths) -> Result<FoldReport, LedgerError> {
        let before_ms = before_ms.min(wall_ms());
        let mut report = self.fold_months(Month::of(before_ms), months).await?;
        let rows = self.in_slices(&Slices::Rows { before_ms }).await?;
        report.accounts = report.accounts.max(rows.accounts);
        report.entries = report.entries.saturating_add(rows.entries);
        Ok(report)
    }

    /// Goes through all accounts, and rests after each slice for as long as it took.
    pub(crate) async fn in_slices(&self, slices: &Slices<'_>) -> Result<FoldReport, LedgerError> {
        let (mut all, mut after) = (FoldReport::default(), String::new());
        loop {
            let started = Instant::now();
            let (report, upto) = match *slices {
                Slices::Rows { before_ms } => self.fold_rows(before_ms, &after).await?,
                Slices::Openings { before, name } => {
                    self.open_accounts(before, name, &after).await?
                }
            };
            all.accounts = all.accounts.saturating_add(report.accounts);
            all.entries = all.entries.saturating_add(report.entries);
            match upto {
                Some(upto) => after = upto,
                None => return Ok(all),
            }
            tokio::time::sleep(started.elapsed()).await;
        }
    }

    async fn fold_rows(&self, before_ms: i64, after: &str) -> Result<Slice, LedgerError> {
        self.transact_within(SLICE_LIMIT, async |on| {
            self.lock("fold", on).await?;
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
            let row = self.query(&sql).bind(after).bind(before_ms).bind(SLICE).fetch_one(on).await?;
            let (accounts, entries) = (row.count("accounts")?, row.count("entries")?);
            Ok((FoldReport { accounts, entries, months: Vec::new() }, row.try_get("upto")?))
        })
        .await
    }
}
