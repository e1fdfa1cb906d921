//! The table `replays`: how often the kept answers of calls were sent again.

use std::collections::HashMap;

use crate::ledger::operation::HoldId;
use crate::ledger::{LedgerError, Replays, wall_ms};
use crate::store::cluster::postgres::store::Store;
use crate::store::replays::{Counts, KEEP_MS};
use crate::store::sql::rows::replays_from;

/// The most rows that one statement deletes.
const SLICE: i64 = 500;

/// Adds replays to their rows, in one transaction. All gateways write rows in the order of their calls, so two gateways
/// never deadlock.
pub(crate) async fn write_replays(store: &Store, counts: &Counts) -> Result<(), LedgerError> {
    let calls: Vec<_> = counts.keys().map(|call| call.as_str().to_owned()).collect();
    let times = counts.values().map(|all| i64::try_from(all.times).unwrap_or(i64::MAX));
    let (times, last): (Vec<_>, Vec<_>) = times.zip(counts.values().map(|all| all.last_ms)).unzip();
    store
        .transact(async |on| {
            store
                .query(
                    "INSERT INTO {s}.replays AS r (call, times, last) SELECT * FROM \
                     UNNEST($1::text[], $2::int8[], $3::int8[]) ON CONFLICT (call) DO UPDATE \
                     SET times = r.times + excluded.times, last = greatest(r.last, excluded.last)",
                )
                .bind(calls)
                .bind(times)
                .bind(last)
                .execute(on)
                .await?;
            Ok(())
        })
        .await
}

/// Reads the replays of calls.
pub(crate) async fn read_replays(
    store: &Store,
    calls: &[HoldId],
) -> Result<HashMap<HoldId, Replays>, LedgerError> {
    if calls.is_empty() {
        return Ok(HashMap::new());
    }
    let calls: Vec<_> = calls.iter().map(|call| call.as_str().to_owned()).collect();
    let rows = store.transact(async |on| {
        let sql = "SELECT call, times, last FROM {s}.replays WHERE call = ANY($1)";
        Ok(store.query(sql).bind(calls).fetch_all(on).await?)
    });
    Ok(rows.await?.iter().map(replays_from).collect::<Result<_, _>>()?)
}

/// Deletes some of the rows whose time is up.
pub(crate) async fn purge(store: &Store) -> Result<(), LedgerError> {
    store
        .transact(async |on| {
            store
                .query(
                    "DELETE FROM {s}.replays WHERE call IN \
                     (SELECT call FROM {s}.replays WHERE last < $1 LIMIT $2)",
                )
                .bind(wall_ms().saturating_sub(KEEP_MS))
                .bind(SLICE)
                .execute(on)
                .await?;
            Ok(())
        })
        .await
}
