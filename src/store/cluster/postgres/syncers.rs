//! The election of the syncer: one gateway writes the batches into the tables, since several would only wait for each
//! other and read the same stream. It is elected by a row, not by a lock of the session, which would stay with a connection
//! of PgBouncer.

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::leases::lease;
use crate::store::cluster::postgres::shard::SHARD;
use crate::store::cluster::postgres::store::Store;

/// Takes the place of the syncer, or keeps it, for as long as a lease lasts. Returns whether this gateway has it. A place
/// that was taken before Postgres's clock was set back is free, as is that of a gateway that has left.
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

/// Gives the place up, if this gateway has it.
pub(crate) async fn step_down(store: &Store, incarnation: i64) -> Result<(), LedgerError> {
    let sql = "DELETE FROM {s}.syncers WHERE shard = $1 AND syncer = $2";
    store
        .transact(async |on| {
            store.query(sql).bind(SHARD).bind(incarnation).execute(on).await?;
            Ok(())
        })
        .await
}
