//! Reads the state of Postgres for a plan of a recovery, and changes nothing.

use sqlx::Executor as _;

use crate::ledger::LedgerError;
use crate::store::cluster::batch_log::Decided;
use crate::store::cluster::postgres::append::appends;
use crate::store::cluster::postgres::owed::read_owed;
use crate::store::cluster::postgres::shard::{Checkpoint, NumberedBatch, SHARD, read_checkpoint};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// The state of Postgres at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub checkpoint: Checkpoint,
    pub accounts: u64,
    pub gateways: Vec<Gateway>,
    /// The gateway that writes the batches of the stream; `None` if none was elected.
    pub syncer: Option<Syncer>,
    /// The batches of this epoch that gateways have handed over.
    pub redo: Vec<NumberedBatch>,
    /// The batches of this epoch that were appended (in `strict`, or at a stop), and not folded yet.
    pub appends: Vec<NumberedBatch>,
    /// Charges that gateways left when they stopped, not written yet.
    pub owed: Vec<Decided>,
    pub live_holds: u64,
    /// The sum of the live holds, in micro-credits.
    pub held: i64,
    /// How many deliveries Redis has not applied yet.
    pub deliveries: u64,
}

/// A gateway and its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub name: String,
    /// How long the lease still lasts, in milliseconds. A negative value says how long ago the lease ended.
    pub lease_ms: i64,
    /// The newest epoch whose batches the gateway has handed over.
    pub checked_in: i64,
    /// The identity of the Redis that the gateway reached last; empty if it has reached none.
    pub redis: String,
}

/// The elected syncer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Syncer {
    /// The name of its gateway; `None` if that gateway has left.
    pub name: Option<String>,
    /// How long the syncer keeps its place, in milliseconds. A negative value says how long ago the place became free.
    pub lease_ms: i64,
}

/// Reads the state of Postgres.
pub(crate) async fn snapshot(store: &Store) -> Result<Snapshot, LedgerError> {
    store
        .transact(async |on| {
            on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let checkpoint = read_checkpoint(store, "", on).await?;
            let counts = store
                .query(
                    "SELECT (SELECT count(*) FROM {s}.accounts) AS accounts, \
                 (SELECT count(*) FROM {s}.deliveries) AS deliveries, count(*) AS holds, \
                 coalesce(sum(amount), 0)::int8 AS held FROM {s}.holds WHERE state = 'live'",
                )
                .fetch_one(&mut *on)
                .await?;
            let rows = store
                .query(
                    "SELECT id, checked_in, redis, \
                 (extract(epoch FROM lease_until - clock_timestamp()) * 1000)::int8 AS lease_ms \
                 FROM {s}.gateways ORDER BY id",
                )
                .fetch_all(&mut *on)
                .await?;
            let mut gateways = Vec::with_capacity(rows.len());
            for row in &rows {
                gateways.push(Gateway {
                    name: row.text("id")?.to_owned(),
                    lease_ms: row.int("lease_ms")?,
                    checked_in: row.int("checked_in")?,
                    redis: row.text("redis")?.to_owned(),
                });
            }
            let syncer = store
                .query(
                    "SELECT g.id, (extract(epoch FROM s.until - clock_timestamp()) * 1000)::int8 AS lease_ms \
                     FROM {s}.syncers s LEFT JOIN {s}.gateways g ON g.incarnation = s.syncer \
                     WHERE s.shard = $1",
                )
                .bind(SHARD)
                .fetch_optional(&mut *on)
                .await?;
            let syncer = match syncer {
                Some(row) => Some(Syncer {
                    name: row.optional_text("id")?.map(str::to_owned),
                    lease_ms: row.int("lease_ms")?,
                }),
                None => None,
            };
            let handed = "SELECT seq, batch FROM {s}.redo WHERE shard = $1 AND epoch = $2";
            let rows =
                store.query(handed).bind(SHARD).bind(checkpoint.epoch).fetch_all(&mut *on).await?;
            let mut redo = Vec::with_capacity(rows.len());
            for row in &rows {
                redo.push(NumberedBatch {
                    seq: row.int("seq")?,
                    text: row.text("batch")?.to_owned(),
                });
            }
            let appends = appends(store, checkpoint.epoch, checkpoint.seq, on).await?;
            Ok(Snapshot {
                checkpoint,
                accounts: counts.count("accounts")?,
                gateways,
                syncer,
                redo,
                appends,
                owed: read_owed(store, on).await?,
                live_holds: counts.count("holds")?,
                held: counts.int("held")?,
                deliveries: counts.count("deliveries")?,
            })
        })
        .await
}
