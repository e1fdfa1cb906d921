//! The election of the syncer, the one gateway that writes batches into the tables: several writers would only wait for
//! each other and read the same stream. The election uses a row, because a session lock would stay with a connection of
//! PgBouncer.

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::leases::lease;
use crate::store::cluster::postgres::shard::SHARD;
use crate::store::cluster::postgres::store::Store;

/// Takes the place of the syncer, or keeps it, for as long as a lease lasts. Returns whether this gateway has the
/// place. The place counts as free if it was taken before Postgres's clock was set back, or if its gateway has left.
pub(crate) async fn elect(store: &Store, incarnation: i64) -> Result<bool, LedgerError> {
    let sql = lease(
        "INSERT INTO {s}.syncers AS s (shard, syncer, until) \
         VALUES ($1, $2, clock_timestamp() + {lease}) \
         ON CONFLICT (shard) DO UPDATE SET syncer = excluded.syncer, until = excluded.until \
         WHERE s.syncer = $2 OR s.until < clock_timestamp() OR s.until > clock_timestamp() + {lease} \
         OR NOT EXISTS (SELECT 1 FROM {s}.gateways WHERE incarnation = s.syncer)",
    );
    store
        .transact(async |on| {
            let elected = store.query(&sql).bind(SHARD).bind(incarnation).execute(on).await?;
            Ok(elected.rows_affected() > 0)
        })
        .await
}

/// Gives up the place of the syncer, if this gateway has it.
pub(crate) async fn step_down(store: &Store, incarnation: i64) -> Result<(), LedgerError> {
    let sql = "DELETE FROM {s}.syncers WHERE shard = $1 AND syncer = $2";
    store
        .transact(async |on| {
            store.query(sql).bind(SHARD).bind(incarnation).execute(on).await?;
            Ok(())
        })
        .await
}
