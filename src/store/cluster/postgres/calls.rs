//! The ids of calls' charges. They are stored in the table `calls`, in a partition for each month in which calls were
//! made, and are deleted with the entries of that month. The ids of all other operations stay in `operations` for ever.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};
use uuid::Uuid;

use crate::ledger::operation::OperationId;
use crate::ledger::{LedgerError, retention, wall_ms};
use crate::store::cluster::postgres::partitions::{
    LOCK_LIMIT, Month, begin_partition, has_table, is_locked, made_or_locked, months_ahead,
    partitions_of,
};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// A table expression for operations by their ids: `$1` has all ids, and `$2` those that [`ids_of_calls`] returns.
pub(crate) const OPERATIONS: &str = "(SELECT id, account, seq, kind, amount, created_at \
     FROM {s}.operations WHERE id = ANY($1) \
     UNION ALL SELECT 'capture:' || id, account, seq, 'capture', amount, created_at \
     FROM {s}.calls WHERE id = ANY($2::text[]::uuid[]))";

/// The prefix of the ids of charges.
const CAPTURE: &str = "capture:";

/// The time limit for deleting from the default partition, which is nearly empty.
const FORGET_LIMIT: Duration = Duration::from_secs(60);

/// The time between two attempts to take the lock.
const LOCK_EVERY: Duration = Duration::from_millis(750);

/// How long a fold tries to take the lock. After that, the janitor continues.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// The ids of calls in those of `operations` that may be charges of calls.
pub(crate) fn ids_of_calls(operations: &[String]) -> Vec<String> {
    let calls = operations.iter().filter_map(|id| id.strip_prefix(CAPTURE));
    calls.filter(|id| is_of_a_call(id)).map(str::to_owned).collect()
}

/// Whether a hold's id has the form that a gateway gives to a call: a UUID of version 7, in lower case. A caller of the
/// API may choose such an id too.
pub(crate) fn is_of_a_call(hold: &str) -> bool {
    let digits = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    hold.len() == 36
        && hold.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'7',
            _ => digits(byte),
        })
}

/// Returns the charges among `operations` that took effect before, and the charges of calls so old that their ids have
/// been deleted.
pub(crate) async fn known_charges(
    store: &Store,
    operations: Vec<String>,
    on: &mut PgConnection,
) -> Result<Vec<String>, LedgerError> {
    let calls = ids_of_calls(&operations);
    let rows = store
        .query(
            "SELECT id FROM {s}.operations WHERE id = ANY($1) \
             UNION ALL SELECT 'capture:' || id FROM {s}.calls WHERE id = ANY($2::text[]::uuid[]) \
             UNION ALL SELECT 'capture:' || id FROM UNNEST($2::text[]) AS n (id) \
             WHERE id::uuid < (SELECT calls_from FROM {s}.ledger)",
        )
        .bind(operations)
        .bind(calls)
        .fetch_all(on)
        .await?;
    rows.iter().map(|row| Ok(row.text("id")?.to_owned())).collect()
}

/// Whether the id of a charged call may be forgotten by now: the call is older than the least time that ids are kept.
pub(crate) fn may_be_forgotten(charge: &OperationId, now_ms: i64) -> bool {
    let call = charge.as_str().strip_prefix(CAPTURE).and_then(|id| Uuid::parse_str(id).ok());
    call.is_some_and(|call| call < first_id(now_ms.saturating_sub(kept_ms())))
}

/// The least time that the ids of calls are kept, in milliseconds.
fn kept_ms() -> i64 {
    i64::try_from(retention::ENDED_CALLS.as_millis()).unwrap_or(i64::MAX)
}

/// The smallest id of a call that is made at this time, in milliseconds since 1970.
fn first_id(at_ms: i64) -> Uuid {
    let at_ms = u128::try_from(at_ms).unwrap_or(0);
    Uuid::from_u128(at_ms << 80)
}

/// Makes the partitions of this month and of the months after it.
pub(crate) async fn make_call_partitions(store: &Store) -> Result<(), LedgerError> {
    for month in months_ahead() {
        let made = store.transact(async |on| {
            begin_partition(store, on).await?;
            make_call_partition(store, month, on).await
        });
        made_or_locked("calls", month, made.await)?;
    }
    Ok(())
}

/// Makes the partition of a month, unless it exists, or the month began without it. In the latter case the month's rows
/// are in the default partition, which works as well.
async fn make_call_partition(
    store: &Store,
    month: Month,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let name = table(month);
    if has_table(store, &name, on).await? {
        return Ok(());
    }
    let (from, upto) = (first_id(month.start_ms()), first_id(month.later(1).start_ms()));
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM {{s}}.calls_default WHERE id >= '{from}' AND id < '{upto}') AS found"
    );
    if store.query(&sql).fetch_one(&mut *on).await?.try_get("found")? {
        return Ok(());
    }
    let sql = format!(
        "CREATE TABLE {{s}}.{name} PARTITION OF {{s}}.calls FOR VALUES FROM ('{from}') TO ('{upto}')"
    );
    on.execute(store.sql(&sql)).await?;
    Ok(())
}

/// Deletes the ids of the calls of folded months, once no caller repeats these calls any more. A fold does this, and
/// the janitor does it if a fold could not.
pub(crate) async fn forget_calls(store: &Store) -> Result<(), LedgerError> {
    let newest = Month::of(wall_ms().saturating_sub(kept_ms()));
    store
        .transact_within(FORGET_LIMIT, async |on| {
            store.lock("partitions", on).await?;
            let closed = "SELECT closed_before FROM {s}.ledger";
            let closed = store.query(closed).fetch_one(&mut *on).await?.int("closed_before")?;
            let from = Month::of(closed).min(newest);
            let first = first_id(from.start_ms());
            let moved = format!(
                "UPDATE {{s}}.ledger SET calls_from = '{first}' WHERE calls_from < '{first}'"
            );
            on.execute(LOCK_LIMIT).await?;
            on.execute(store.sql(&moved)).await?;
            for month in months(store, on).await? {
                if month < from {
                    let sql = format!("DROP TABLE {{s}}.{}", table(month));
                    on.execute(store.sql(&sql)).await?;
                }
            }
            let sql = format!("DELETE FROM {{s}}.calls_default WHERE id < '{first}'");
            on.execute(store.sql(&sql)).await?;
            Ok(())
        })
        .await
}

/// Like [`forget_calls`], with several attempts if a long transaction has the table locked.
pub(crate) async fn forget_calls_patiently(store: &Store) -> Result<(), LedgerError> {
    let began = Instant::now();
    loop {
        match forget_calls(store).await {
            Err(error) if is_locked(&error) && began.elapsed() < LOCK_PATIENCE => {
                tokio::time::sleep(LOCK_EVERY).await;
            }
            Err(error) if is_locked(&error) => {
                tracing::warn!(
                    "a long transaction reads the table `calls`; the ids of the folded months are removed later, by a \
                     gateway"
                );
                return Ok(());
            }
            result => return result,
        }
    }
}

/// The months that have a partition.
async fn months(store: &Store, on: &mut PgConnection) -> Result<Vec<Month>, LedgerError> {
    let names = partitions_of(store, "calls", on).await?;
    Ok(names.iter().filter_map(|name| name.strip_prefix("calls_").and_then(Month::parse)).collect())
}

fn table(month: Month) -> String {
    format!("calls_{}", month.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::operation::HoldId;

    #[test]
    fn the_ids_of_calls_are_told_from_all_others() {
        let call = HoldId::for_call();
        assert!(is_of_a_call(call.as_str()));
        let upper = call.as_str().to_uppercase();
        let random = Uuid::new_v4().to_string();
        let short = &call.as_str()[1..];
        for other in ["job-1", &upper, &random, short, ""] {
            assert!(!is_of_a_call(other), "{other}");
        }
        let operations =
            [format!("capture:{call}"), format!("refund:{call}"), "capture:job-1".to_owned()];
        assert_eq!(ids_of_calls(&operations), [call.as_str()]);
    }

    #[test]
    fn ids_are_in_the_order_of_their_times() {
        let now = wall_ms();
        let made = Uuid::parse_str(HoldId::for_call().as_str()).unwrap();
        assert!(first_id(now - 10_000) < made && made < first_id(now + 10_000));
        assert_eq!(first_id(-1), Uuid::nil());
        let charge = OperationId::capture(&made.to_string().parse().unwrap());
        assert!(!may_be_forgotten(&charge, now));
        assert!(may_be_forgotten(&charge, now + 3 * 24 * 3_600_000));
    }
}
