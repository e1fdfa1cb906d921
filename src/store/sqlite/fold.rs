//! Folds old entries into opening balances, so that the file does not grow for ever.
//!
//! A folding goes through the accounts in slices of [`SLICE`] entries. Each slice is a complete
//! transaction, so a crash between two slices does no harm. An account with more entries than a
//! slice gets an opening balance from each slice, which the next slice folds again.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use crate::account::AccountId;
use crate::credits::SignedCredits;
use crate::ledger::operation::EntryKind;
use crate::ledger::report::{FoldCursor, FoldReport};
use crate::store::sql::rows::Column as _;
use crate::store::sqlite::json_rows::Rows;

/// How many entries a slice has: tens of milliseconds of work.
const SLICE: usize = 2000;

/// Folds the next slice of the entries older than `before_ms` (milliseconds since 1970). Returns
/// its report, and where the next slice begins; `None` if this was the last one.
pub(crate) async fn fold_slice(
    connection: &mut SqliteConnection,
    before_ms: i64,
    from: Option<&FoldCursor>,
) -> Result<(FoldReport, Option<FoldCursor>), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let lines = read(&mut transaction, before_ms, from).await?;
    let plan = Plan::of(&lines, from);
    if !plan.openings.is_empty() {
        write(&mut transaction, before_ms, &plan.openings).await?;
    }
    transaction.commit().await?;
    Ok((plan.report, plan.next))
}

/// The columns of an entry that folding reads.
struct Line {
    account: AccountId,
    seq: u64,
    is_opening: bool,
    balance_after: SignedCredits,
    is_old: bool,
}

/// Reads the entries of a slice.
async fn read(
    connection: &mut SqliteConnection,
    before_ms: i64,
    from: Option<&FoldCursor>,
) -> Result<Vec<Line>, sqlx::Error> {
    let (account, seq) = from.map_or(("", 0), |from| (from.account.as_str(), from.seq));
    let rows = sqlx::query(
        "SELECT account, seq, kind, balance_after, created_at FROM entries \
         WHERE (account, seq) >= (?1, ?2) ORDER BY account, seq LIMIT ?3",
    )
    .bind(account)
    .bind(i64::try_from(seq).unwrap_or(i64::MAX))
    .bind(SLICE as i64)
    .fetch_all(connection)
    .await?;
    let line = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Line {
            account: row.account("account")?,
            seq: row.count("seq")?,
            is_opening: row.parsed("kind", EntryKind::parse)? == EntryKind::Opening,
            balance_after: row.signed("balance_after")?,
            is_old: row.try_get::<i64, _>("created_at")? < before_ms,
        })
    };
    rows.iter().map(line).collect()
}

/// The plan for folding one slice.
struct Plan {
    /// The last folded entry of each account, whose balance is the account's opening balance.
    openings: Vec<Opening>,
    report: FoldReport,
    next: Option<FoldCursor>,
}

struct Opening {
    account: AccountId,
    seq: u64,
    balance: SignedCredits,
}

impl Plan {
    /// Plans a slice. An account is folded up to its first entry that is not old, so that a clock which was once set
    /// back leaves no gap. An account whose only old entry is its opening balance does not change.
    fn of(lines: &[Line], from: Option<&FoldCursor>) -> Self {
        let mut plan = Self { openings: Vec::new(), report: FoldReport::default(), next: None };
        for account in lines.chunk_by(|a, b| a.account == b.account) {
            let old = account.iter().take_while(|line| line.is_old).count();
            let Some(last) = account[..old].last() else { continue };
            if old == 1 && last.is_opening {
                continue;
            }
            let goes_on = from.is_some_and(|from| from.is_own && from.account == last.account);
            plan.report.accounts += u64::from(!goes_on);
            plan.report.entries += old as u64 - u64::from(goes_on);
            let Line { account, seq, balance_after, .. } = last;
            plan.openings.push(Opening {
                account: account.clone(),
                seq: *seq,
                balance: *balance_after,
            });
        }
        plan.next = lines.last().filter(|_| lines.len() == SLICE).map(|last| plan.after(last));
        plan
    }

    /// The start of the slice after `last`. It is the opening balance that this slice writes for
    /// the account of `last`, or the next account if the rest of this account is not old.
    fn after(&self, last: &Line) -> FoldCursor {
        let is_own = self
            .openings
            .last()
            .is_some_and(|opening| opening.account == last.account && opening.seq == last.seq);
        let seq = if last.is_old { last.seq } else { u64::MAX };
        FoldCursor { account: last.account.clone(), seq, is_own }
    }
}

/// Replaces the folded entries with opening balances.
async fn write(
    connection: &mut SqliteConnection,
    before_ms: i64,
    openings: &[Opening],
) -> Result<(), sqlx::Error> {
    let mut rows = Rows::default();
    for Opening { account, seq, balance } in openings {
        rows.row().text(account.as_str()).count(*seq).int(balance.micros()).end();
    }
    let openings = rows.finish();
    sqlx::query(
        "INSERT INTO folded_operations (operation, account, seq, kind, amount) \
         SELECT e.operation, e.account, e.seq, e.kind, e.amount FROM json_each(?1) o \
         CROSS JOIN entries e ON e.account = o.value->>0 AND e.seq <= o.value->>1 \
         WHERE e.kind <> 'opening'",
    )
    .bind(&openings)
    .execute(&mut *connection)
    .await?;
    sqlx::raw_sql("DROP TRIGGER entries_are_never_deleted").execute(&mut *connection).await?;
    sqlx::query(
        "DELETE FROM entries WHERE (account, seq) IN (SELECT e.account, e.seq \
         FROM json_each(?1) o \
         CROSS JOIN entries e ON e.account = o.value->>0 AND e.seq <= o.value->>1)",
    )
    .bind(&openings)
    .execute(&mut *connection)
    .await?;
    sqlx::raw_sql(
        "CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries \
         BEGIN SELECT RAISE(ABORT, 'ledger entries are immutable'); END",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO entries (account, seq, operation, kind, amount, balance_after, created_at) \
         SELECT value->>0, value->>1, 'opening:' || (value->>0) || ':' || (value->>1), 'opening', \
         value->>2, value->>2, ?2 - 1 FROM json_each(?1)",
    )
    .bind(&openings)
    .bind(before_ms)
    .execute(&mut *connection)
    .await
    .map(drop)
}
