//! The slices of accounts in which a folding goes through the ledger. Each slice is one transaction.

use std::time::{Duration, Instant};

use crate::ledger::report::FoldReport;

/// How many accounts a slice has.
pub(crate) const SLICE: i64 = 500;

/// How long a slice may take.
pub(crate) const SLICE_LIMIT: Duration = Duration::from_secs(600);

/// Settings that make a slice look up its accounts one by one. Otherwise the planner, when it
/// expects too many accounts, would read all entries for each slice.
pub(crate) const BY_INDEX: &str = "SET LOCAL enable_hashjoin = off; \
    SET LOCAL enable_mergejoin = off; SET LOCAL enable_sort = off; SET LOCAL jit = off";

/// Subqueries that find the entries of each account that can be folded. `$1` is the last account of
/// the slice before, `$2` the time before which entries count as old, `$3` the number of accounts.
///
/// An account is folded up to its first entry that is not old (`kept`), so that a clock which was once set back leaves
/// no gap. `first` is the account's oldest entry, `newest` the last entry that is folded. Entries are numbered without
/// gaps, so the entries in between need not be read.
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

/// The report of a slice, and its last account; `None` after the last slice.
pub(crate) type Slice = (FoldReport, Option<String>);

/// The progress of a folding through all accounts.
#[derive(Debug)]
pub(crate) struct Slices {
    /// The sum of the slices so far.
    pub report: FoldReport,
    /// The last account of the slice before; empty at first.
    pub after: String,
    started: Instant,
}

impl Slices {
    /// Begins before the first account.
    pub fn begin() -> Self {
        Self { report: FoldReport::default(), after: String::new(), started: Instant::now() }
    }

    /// Adds a slice that was folded, and sleeps for as long as the slice took. Returns false after
    /// the last slice.
    pub async fn add(&mut self, (report, upto): Slice) -> bool {
        self.report.accounts = self.report.accounts.saturating_add(report.accounts);
        self.report.entries = self.report.entries.saturating_add(report.entries);
        let Some(upto) = upto else { return false };
        self.after = upto;
        tokio::time::sleep(self.started.elapsed()).await;
        self.started = Instant::now();
        true
    }
}
