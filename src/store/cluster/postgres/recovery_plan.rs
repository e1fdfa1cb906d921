//! What a recovery would find here, read and not touched.

use sqlx::Executor as _;

use crate::ledger::LedgerError;
use crate::store::cluster::batch_log::Decided;
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::Store;
use crate::store::cluster::postgres::settle::{Checkpoint, NumberedBatch, SHARD};

/// What Postgres has, in one moment.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    pub checkpoint: Checkpoint,
    pub accounts: u64,
    pub gateways: Vec<Place>,
    /// What gateways have handed over of this epoch.
    pub redo: Vec<NumberedBatch>,
    /// Charges that gateways left when they stopped.
    pub owed: Vec<Decided>,
    pub live_holds: u64,
    /// In micro-credits.
    pub held: i64,
    pub deliveries: u64,
}

/// A gateway's place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub name: String,
    /// For how long it may still answer; below zero, for how long it has not been heard of.
    pub lease_ms: i64,
    pub checked_in: i64,
}

impl Store {
    /// Looks around.
    pub async fn survey(&self) -> Result<Survey, LedgerError> {
        self.transact(async |on| {
            on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let checkpoint = self.read_checkpoint("", on).await?;
            let counts = self
                .query(
                    "SELECT (SELECT count(*) FROM {s}.accounts) AS accounts, \
                     (SELECT count(*) FROM {s}.deliveries) AS deliveries, count(*) AS holds, \
                     coalesce(sum(amount), 0)::int8 AS held FROM {s}.holds WHERE state = 'live'",
                )
                .fetch_one(&mut *on)
                .await?;
            let rows = self
                .query(
                    "SELECT id, checked_in, \
                     (extract(epoch FROM lease_until - clock_timestamp()) * 1000)::int8 AS lease_ms \
                     FROM {s}.gateways ORDER BY id",
                )
                .fetch_all(&mut *on)
                .await?;
            let mut gateways = Vec::with_capacity(rows.len());
            for row in &rows {
                gateways.push(Place {
                    name: row.text("id")?.to_owned(),
                    lease_ms: row.int("lease_ms")?,
                    checked_in: row.int("checked_in")?,
                });
            }
            let handed = "SELECT seq, batch FROM {s}.redo WHERE shard = $1 AND epoch = $2";
            let rows =
                self.query(handed).bind(SHARD).bind(checkpoint.epoch).fetch_all(&mut *on).await?;
            let mut redo = Vec::with_capacity(rows.len());
            for row in &rows {
                redo.push(NumberedBatch { seq: row.int("seq")?, text: row.text("batch")?.to_owned() });
            }
            Ok(Survey {
                checkpoint,
                accounts: counts.count("accounts")?,
                gateways,
                redo,
                owed: self.owed(on).await?,
                live_holds: counts.count("holds")?,
                held: counts.int("held")?,
                deliveries: counts.count("deliveries")?,
            })
        })
        .await
    }
}
