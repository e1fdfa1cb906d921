//! Searches: for accounts by a part of their id, and for an account's entries by time. The work of
//! each is limited, however large the ledger is.

use std::ops::Range;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::history::FoundAccounts;
use crate::ledger::operation::Entry;
use crate::store::sql::database::{Database, Value};
use crate::store::sql::rows::{Column, ENTRY, entry_with_usage_from};

/// Accounts whose ids contain `part` but do not begin with it. The search looks at `looked_at`
/// accounts after `after`.
pub(crate) async fn accounts_with<D: Database>(
    database: &D,
    part: &str,
    after: Option<&AccountId>,
    limit: u32,
    looked_at: u32,
) -> Result<FoundAccounts, LedgerError> {
    const LOOKED: &str = "SELECT id FROM {s}.accounts WHERE id > $1 ORDER BY id LIMIT $2";
    let after = Value::Text(after.map_or("", AccountId::as_str));
    let most = Value::Int(looked_at.into());
    // SQLite lacks `strpos`, and Postgres lacks `instr`. Both have `replace`, so the query uses that.
    let sql = format!(
        "{} WHERE id IN (SELECT id FROM ({LOOKED}) looked \
         WHERE replace(lower(id), lower($3), '') <> lower(id) \
         AND substr(id, 1, length($3)) <> $3 ORDER BY id LIMIT $4) ORDER BY id",
        D::ACCOUNTS
    );
    let values = [after, most, Value::Text(part), Value::Int(limit.into())];
    let rows = database.rows(&sql, &values).await?;
    let accounts = rows.iter().map(D::account_view).collect::<Result<Vec<_>, _>>()?;
    let mut looked_until = None;
    if accounts.len() < limit as usize {
        let sql = format!(
            "SELECT id FROM ({LOOKED}) looked ORDER BY id DESC LIMIT \
             (SELECT CASE WHEN count(*) = $2 THEN 1 ELSE 0 END FROM ({LOOKED}) counted)"
        );
        let last = database.rows(&sql, &[after, most]).await?;
        looked_until = last.first().map(|row| row.account("id")).transpose()?;
    }
    Ok(FoundAccounts { accounts, looked_until })
}

/// An account's entries in a range of time (milliseconds since 1970), newest first, below the
/// number `before`.
pub(crate) async fn entries_of(
    database: &impl Database,
    account: &AccountId,
    time: Range<i64>,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<Entry>, LedgerError> {
    let first = first_since(database, account, time.start).await?;
    let end = first_since(database, account, time.end).await?;
    let before = before.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT {ENTRY} FROM {{s}}.entries WHERE account = $1 AND seq >= $2 AND seq < $3 \
         ORDER BY seq DESC LIMIT $4"
    );
    let values = [
        Value::Text(account.as_str()),
        Value::Int(first),
        Value::Int(end.min(before)),
        Value::Int(limit.into()),
    ];
    let rows = database.rows(&sql, &values).await?;
    Ok(rows.iter().map(entry_with_usage_from).collect::<Result<_, _>>()?)
}

/// The number of an account's first entry that was made at `at_ms` or later; the number after the newest entry if there
/// is none. Entries are numbered in the order of their time, so a binary search finds the number with some twenty
/// reads, and no index over account and time is needed.
async fn first_since(
    database: &impl Database,
    account: &AccountId,
    at_ms: i64,
) -> Result<i64, LedgerError> {
    if at_ms == i64::MIN || at_ms == i64::MAX {
        return Ok(at_ms);
    }
    let account = Value::Text(account.as_str());
    let newest = "SELECT seq FROM {s}.entries WHERE account = $1 ORDER BY seq DESC LIMIT 1";
    let newest = database.rows(newest, &[account]).await?;
    let Some(newest) = newest.first() else { return Ok(0) };
    let (mut low, mut high) = (0, newest.int("seq")?.saturating_add(1));
    // All entries below `low` are older than `at_ms`, and all entries from `high` on are not. The numbers of folded
    // entries are missing.
    let next = "SELECT seq, created_at FROM {s}.entries WHERE account = $1 AND seq >= $2 \
        ORDER BY seq LIMIT 1";
    while low < high {
        let middle = low + (high - low) / 2;
        let rows = database.rows(next, &[account, Value::Int(middle)]).await?;
        match rows.first() {
            Some(row) if row.int("created_at")? < at_ms => low = row.int("seq")?.saturating_add(1),
            _ => high = middle,
        }
    }
    Ok(low)
}
