//! Operations that Postgres decides: grants, refunds, keys and payments. The rows that they need
//! are locked, and the rules of `ledger/rules/` decide, as for the embedded ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::imports::ImportRow;
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Entry, HoldId, Operation, OperationId, Outcome};
use crate::ledger::rules;
use crate::ledger::rules::state::{Account, Changes, Known, Lookups, Now, State};
use crate::store::cluster::batch_log::storable;
use crate::store::cluster::postgres::calls::{OPERATIONS, ids_of_calls};
use crate::store::cluster::postgres::deliveries::{self, NewDeliveries};
use crate::store::cluster::postgres::entries::{
    EntryColumns, insert_entries, int, lock_accounts, write_accounts,
};
use crate::store::cluster::postgres::payments::{
    accounts_of_payments, concerns_payments, lock_payments, read_payments, write_freezes,
    write_payments,
};
use crate::store::cluster::postgres::store::{Store, is_race};
use crate::store::sql::rows::{Column as _, entry_from, key_from};

/// How often a transaction is attempted if other transactions make it fail.
const ATTEMPTS: usize = 5;

/// How long operations that are decided together wait for a row.
const TOGETHER: Duration = Duration::from_millis(20);

/// How long operations that are decided alone wait for a row. They may keep rows of other accounts locked meanwhile.
const ALONE: Duration = Duration::from_millis(100);

/// The way in which operations wait for rows that other transactions keep locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowWait {
    /// A short time, with the lock that all purchases share.
    Together,
    /// Longer, and without the lock that all purchases share. The rows may be free and that lock may not be; then the
    /// operations fail at once.
    Alone,
}

/// Decides operations in one transaction. Each operation sees the results of the operations before it. The changes that
/// Redis must apply are stored as deliveries.
///
/// # Errors
/// [`LedgerError::RowLocked`] if another transaction keeps a row locked for too long.
pub(crate) async fn decide(
    store: &Store,
    operations: &[Operation],
    now: Now,
    wait: RowWait,
) -> Result<Vec<Outcome>, LedgerError> {
    let mut attempt = 1;
    loop {
        let decide = store.transact(async |on| decide_in(store, operations, now, wait, on).await);
        let decided = decide.await;
        match decided {
            Err(error) if is_race(&error) && attempt < ATTEMPTS => attempt += 1,
            decided => return decided,
        }
    }
}

/// Locks the rows that the operations need, decides, and writes the changes. All transactions lock
/// in the same order (payments first, then accounts by id), so that no two of them deadlock. Operations that are decided
/// alone lock the rows first, but then they do not wait for the lock of the payments.
async fn decide_in(
    store: &Store,
    operations: &[Operation],
    now: Now,
    wait: RowWait,
    on: &mut PgConnection,
) -> Result<Vec<Outcome>, LedgerError> {
    let (mut state, mut known) = (State::default(), Known::default());
    let about_payments = operations.iter().any(concerns_payments);
    if wait == RowWait::Alone {
        limit_lock_waits(ALONE, on).await?;
    }
    if about_payments {
        if wait == RowWait::Alone {
            lock_rows_first(store, operations, on).await?;
        }
        lock_payments(store, &mut state, on).await?;
    }
    if about_payments || wait == RowWait::Together {
        limit_lock_waits(TOGETHER, on).await?;
    }
    let wanted = Lookups::of(operations, &state);
    let mut ids = accounts_to_lock(store, operations, &wanted, on).await?;
    if about_payments {
        read_payments(store, &wanted, &mut known, on).await?;
        ids.extend(accounts_of_payments(operations, &known));
    }
    let before = lock_accounts(store, &ids.into_iter().collect::<Vec<_>>(), on).await?;
    for (id, account) in &before {
        state.insert_account(id.clone(), *account);
    }
    read_known(store, &wanted, &mut known, on).await?;
    let mut changes = Changes::default();
    let outcomes = operations
        .iter()
        .map(|operation| rules::decide(operation, &mut state, &mut known, &mut changes, now))
        .collect();
    write_changes(store, &state, &before, &changes, now, on).await?;
    Ok(outcomes)
}

async fn limit_lock_waits(limit: Duration, on: &mut PgConnection) -> Result<(), LedgerError> {
    let limit = format!("SET LOCAL lock_timeout = {}", limit.as_millis());
    on.execute(AssertSqlSafe(limit)).await?;
    Ok(())
}

/// Waits for the rows of the accounts that the operations need, and then takes the lock of the payments if it is free.
async fn lock_rows_first(
    store: &Store,
    operations: &[Operation],
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let (wanted, mut known) = (Lookups::of(operations, &State::default()), Known::default());
    let mut ids = accounts_to_lock(store, operations, &wanted, on).await?;
    read_payments(store, &wanted, &mut known, on).await?;
    ids.extend(accounts_of_payments(operations, &known));
    lock_accounts(store, &ids.into_iter().collect::<Vec<_>>(), on).await?;
    if store.try_lock("payments", on).await? { Ok(()) } else { Err(LedgerError::RowLocked) }
}

/// The accounts whose balances these operations may change.
async fn accounts_to_lock(
    store: &Store,
    operations: &[Operation],
    wanted: &Lookups,
    on: &mut PgConnection,
) -> Result<BTreeSet<AccountId>, LedgerError> {
    let mut ids = BTreeSet::new();
    for operation in operations {
        match operation {
            Operation::Open { account, .. } => drop(ids.insert(account.clone())),
            Operation::Post(posting) => drop(ids.insert(posting.account.clone())),
            Operation::PutKeys(keys) => ids.extend(keys.iter().map(|key| key.account.clone())),
            Operation::Import(import) => ids.extend(import.rows.iter().map(|row| match row {
                ImportRow::Grant { posting, .. } => posting.account.clone(),
                ImportRow::Key(key) => key.account.clone(),
            })),
            _ => {}
        }
    }
    // A refund names its capture but not its account.
    let named = texts(&wanted.operations);
    let calls = ids_of_calls(&named);
    let rows = store
        .query(&format!("SELECT DISTINCT account FROM {OPERATIONS} o"))
        .bind(named)
        .bind(calls)
        .fetch_all(on)
        .await?;
    for row in &rows {
        ids.insert(row.account("account")?);
    }
    Ok(ids)
}

/// Reads the rows that the rules need.
async fn read_known(
    store: &Store,
    wanted: &Lookups,
    known: &mut Known,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if !wanted.operations.is_empty() {
        let named = texts(&wanted.operations);
        let calls = ids_of_calls(&named);
        // The row of an operation may stay after its entry was folded.
        let rows = store
            .query(&format!(
                "SELECT o.id AS operation, o.account, o.seq, o.kind, o.amount, \
                 coalesce(e.balance_after, 0) AS balance_after, e.route, e.reason, \
                 coalesce(e.created_at, 0) AS created_at FROM {OPERATIONS} o \
                 LEFT JOIN {{s}}.entries e ON e.account = o.account AND e.seq = o.seq \
                 AND e.created_at = o.created_at AND e.operation = o.id"
            ))
            .bind(named)
            .bind(calls)
            .fetch_all(&mut *on)
            .await?;
        for row in &rows {
            let entry = entry_from(row)?;
            known.entries.insert(entry.operation.clone(), entry);
        }
    }
    for hold in &wanted.refunds {
        read_refunds(store, hold, known, on).await?;
    }
    if !wanted.key_ids.is_empty() || !wanted.key_hashes.is_empty() {
        let ids: Vec<_> = wanted.key_ids.iter().map(|id| (**id).to_owned()).collect();
        let hashes: Vec<_> = wanted.key_hashes.iter().map(|h| h.as_bytes().to_vec()).collect();
        let rows = store
            .query("SELECT * FROM {s}.api_keys WHERE id = ANY($1) OR hash = ANY($2)")
            .bind(ids)
            .bind(hashes)
            .fetch_all(on)
            .await?;
        for row in &rows {
            known.keys.insert(key_from(row)?);
        }
    }
    Ok(())
}

/// Reads the partial refunds of a capture. The rules need only their amounts. Both ends of the
/// range are parameters of the statement, so that the index is used however large the table is.
async fn read_refunds(
    store: &Store,
    hold: &HoldId,
    known: &mut Known,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    // A partial refund's id is the full refund's id, a space, and an id of its own. In ASCII, `!`
    // follows the space. So the ids between the full refund's id with a space and the same id with
    // a `!` are those of all partial refunds.
    let whole = OperationId::refund(hold);
    let rows = store
        .query(
            "SELECT id AS operation, account, seq, kind, amount, 0::int8 AS balance_after, \
             NULL::text AS route, NULL::text AS reason, 0::int8 AS created_at \
             FROM {s}.operations WHERE id > $1 AND id < $2",
        )
        .bind(format!("{} ", whole.as_str()))
        .bind(format!("{}!", whole.as_str()))
        .fetch_all(on)
        .await?;
    for row in &rows {
        let entry = entry_from(row)?;
        known.entries.entry(entry.operation.clone()).or_insert(entry);
    }
    Ok(())
}

/// Writes the changes that the rules made, and a delivery for each account whose balance moved.
async fn write_changes(
    store: &Store,
    state: &State,
    before: &BTreeMap<AccountId, Account>,
    changes: &Changes,
    now: Now,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if !changes.entries.is_empty() {
        insert_entries(store, columns(&changes.entries)?, on).await?;
    }
    let mut accounts = BTreeMap::new();
    for id in &changes.touched {
        accounts.insert(id.clone(), state.account(id).copied().unwrap_or_default());
    }
    let mut amounts: HashMap<&str, i64> = HashMap::new();
    for entry in &changes.entries {
        let amount = amounts.entry(entry.account.as_str()).or_default();
        *amount = amount.saturating_add(entry.amount.micros());
    }
    let rows = write_accounts(store, before, &accounts, 1, now.wall_ms, on).await?;
    let mut queued = NewDeliveries::default();
    for row in &rows {
        queued.push(row, amounts.get(row.text("id")?).copied().unwrap_or(0))?;
    }
    deliveries::queue(store, queued, on).await?;
    write_payments(store, changes, on).await?;
    write_freezes(store, state, changes, on).await?;
    write_keys(store, changes, now, on).await
}

async fn write_keys(
    store: &Store,
    changes: &Changes,
    now: Now,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if changes.keys_added.is_empty() && changes.keys_revoked.is_empty() {
        return Ok(());
    }
    let counted = "UPDATE {s}.ledger SET key_changes = key_changes + 1 RETURNING key_changes";
    let changed: i64 = store.query(counted).fetch_one(&mut *on).await?.try_get("key_changes")?;
    insert_keys(store, &changes.keys_added, changed, on).await?;
    let revoked: Vec<_> = changes.keys_revoked.iter().map(|id| (**id).to_owned()).collect();
    store
        .query(
            "UPDATE {s}.api_keys SET revoked_at = $2, changed = $3 \
         WHERE id = ANY($1) AND revoked_at IS NULL",
        )
        .bind(revoked)
        .bind(now.wall_ms)
        .bind(changed)
        .execute(on)
        .await?;
    Ok(())
}

async fn insert_keys(
    store: &Store,
    keys: &[KeyRecord],
    changed: i64,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    store
        .query(
            "INSERT INTO {s}.api_keys (id, hash, account, name, service, hint, created_at, \
         revoked_at, changed) SELECT *, $9 FROM UNNEST($1::text[], $2::bytea[], $3::text[], \
         $4::text[], $5::bool[], $6::text[], $7::int8[], $8::int8[])",
        )
        .bind(each(keys, |key| (*key.id).to_owned()))
        .bind(each(keys, |key| key.hash.as_bytes().to_vec()))
        .bind(each(keys, |key| key.account.as_str().to_owned()))
        .bind(each(keys, |key| storable(&key.name)))
        .bind(each(keys, |key| key.service))
        .bind(each(keys, |key| storable(&key.hint)))
        .bind(each(keys, |key| key.created_at_ms))
        .bind(each(keys, |key| key.revoked_at_ms))
        .bind(changed)
        .execute(on)
        .await?;
    Ok(())
}

fn each<T>(keys: &[KeyRecord], column: impl Fn(&KeyRecord) -> T) -> Vec<T> {
    keys.iter().map(column).collect()
}

fn texts(ids: &[OperationId]) -> Vec<String> {
    ids.iter().map(|id| id.as_str().to_owned()).collect()
}

fn columns(entries: &[Entry]) -> Result<EntryColumns, LedgerError> {
    let mut columns = EntryColumns::default();
    for entry in entries {
        columns.accounts.push(entry.account.as_str().to_owned());
        columns.seqs.push(int(entry.seq)?);
        columns.operations.push(entry.operation.as_str().to_owned());
        columns.kinds.push(entry.kind.as_str());
        columns.amounts.push(entry.amount.micros());
        columns.balances.push(entry.balance_after.micros());
        columns.routes.push(entry.route.as_deref().map(str::to_owned));
        columns.reasons.push(entry.reason.as_deref().map(storable));
        columns.times.push(entry.created_at_ms);
        columns.push_usage(entry.usage.as_deref());
    }
    Ok(columns)
}
