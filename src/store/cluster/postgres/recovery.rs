//! The way from one epoch to the next, after the data in Redis were lost.
//!
//! 1. [`give_up`]: a gateway that notices the loss marks the shard as recovering.
//! 2. [`check_in`]: each gateway stops answering and hands over the batches that it remembers. A
//!    gateway that does not check in loses its lease.
//! 3. [`begin_recovery`]: one gateway locks the shard's row. In that transaction ([`Recovery`]) it
//!    replays the batches that survived, writes the owed charges, and opens the next epoch.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Postgres, Row as _, Transaction};

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::batches::write_contents;
use crate::store::cluster::postgres::leases::{LayoutUsers, count_layout_users};
use crate::store::cluster::postgres::owed;
use crate::store::cluster::postgres::shard::{Checkpoint, NumberedBatch, SHARD, read_checkpoint};
use crate::store::cluster::postgres::store::{LIMIT, Store};
use crate::store::sql::rows::Column as _;

/// How long the transaction of a recovery may stay idle. It waits for Redis in between.
const RECOVERY_IDLE_LIMIT: Duration = Duration::from_secs(5);

/// Records that the epoch's data in Redis are lost. Nothing is decided until the next epoch opens.
pub(crate) async fn give_up(store: &Store, epoch: i64) -> Result<(), LedgerError> {
    store
        .transact(async |on| {
            store
                .query("UPDATE {s}.shards SET recovering = true WHERE id = $1 AND epoch = $2")
                .bind(SHARD)
                .bind(epoch)
                .execute(on)
                .await?;
            Ok(())
        })
        .await
}

/// Hands over some of the batches of a lost epoch that Redis acknowledged to this gateway. By now the
/// gateway must not answer any call from that epoch. The last batches (`is_last`) check the gateway in.
/// Returns false where the next epoch has opened without it.
pub(crate) async fn check_in(
    store: &Store,
    incarnation: i64,
    epoch: i64,
    redo: &[NumberedBatch],
    is_last: bool,
) -> Result<bool, LedgerError> {
    store
        .transact(async |on| {
            let shard = read_checkpoint(store, "FOR SHARE", on).await?;
            if shard.epoch != epoch || !shard.recovering {
                return Ok(false);
            }
            let (seqs, texts): (Vec<_>, Vec<_>) =
                redo.iter().map(|batch| (batch.seq, batch.text.clone())).unzip();
            store
                .query(
                    "INSERT INTO {s}.redo (shard, epoch, seq, batch) SELECT $1, $2, seq, batch \
             FROM UNNEST($3::int8[], $4::text[]) AS n (seq, batch) ON CONFLICT DO NOTHING",
                )
                .bind(SHARD)
                .bind(epoch)
                .bind(seqs)
                .bind(texts)
                .execute(&mut *on)
                .await?;
            if is_last {
                store
                    .query("UPDATE {s}.gateways SET checked_in = $2 WHERE incarnation = $1")
                    .bind(incarnation)
                    .bind(epoch)
                    .execute(on)
                    .await?;
            }
            Ok(true)
        })
        .await
}

/// Begins to open the next epoch. Returns `None` where no epoch has to be opened, where another gateway
/// is opening it, where a gateway with a lease has not checked in, or where gateways still use the
/// epoch's layout and this gateway has another layout.
pub(crate) async fn begin_recovery(
    store: &Store,
    layout: i32,
) -> Result<Option<Recovery>, LedgerError> {
    let begin = async {
        let mut transaction = store.begin(RECOVERY_IDLE_LIMIT, Duration::ZERO).await?;
        let locked = store
            .query("SELECT 1 FROM {s}.shards WHERE id = $1 AND recovering FOR UPDATE SKIP LOCKED")
            .bind(SHARD)
            .fetch_optional(&mut *transaction)
            .await?;
        if locked.is_none() {
            return Ok(None);
        }
        let checkpoint = read_checkpoint(store, "", &mut transaction).await?;
        let serving = store
            .query(
                "SELECT count(*) AS serving FROM {s}.gateways \
                 WHERE lease_until > clock_timestamp() AND checked_in < $1",
            )
            .bind(checkpoint.epoch)
            .fetch_one(&mut *transaction)
            .await?;
        if serving.count("serving")? > 0 {
            return Ok(None);
        }
        if checkpoint.layout != layout
            && count_layout_users(store, checkpoint.layout, &mut transaction).await?
                == LayoutUsers::Serving
        {
            return Ok(None);
        }
        Ok(Some(Recovery { store: store.clone(), transaction, checkpoint }))
    };
    let begun = tokio::time::timeout(LIMIT, begin).await;
    begun.unwrap_or(Err(LedgerError::Slow { what: "Postgres" }))
}

/// A recovery: one transaction that has the shard's row locked, and opens the next epoch or changes
/// nothing.
#[derive(Debug)]
pub(crate) struct Recovery {
    store: Store,
    transaction: Transaction<'static, Postgres>,
    /// The checkpoint of the epoch that ends.
    pub checkpoint: Checkpoint,
}

impl Recovery {
    /// Runs an empty statement, so that Postgres does not end the transaction as idle.
    pub async fn keep_alive(&mut self) -> Result<(), LedgerError> {
        self.store.query("SELECT 1").execute(&mut *self.transaction).await?;
        Ok(())
    }

    /// True where a gateway has not checked in: it may have died, be stopped, or be unable to reach
    /// Postgres.
    pub async fn awaits_check_in(&mut self) -> Result<bool, LedgerError> {
        let row = self
            .store
            .query("SELECT count(*) AS silent FROM {s}.gateways WHERE checked_in < $1")
            .bind(self.checkpoint.epoch)
            .fetch_one(&mut *self.transaction)
            .await?;
        Ok(row.count("silent")? > 0)
    }

    /// Writes, in order, the batches that survived in the stream and those that gateways handed over.
    /// Returns how many it wrote, and how many are missing between them.
    pub async fn replay(
        &mut self,
        survived: Vec<NumberedBatch>,
    ) -> Result<(usize, i64), LedgerError> {
        let epoch = self.checkpoint.epoch;
        let rows = self
            .store
            .query("SELECT seq, batch FROM {s}.redo WHERE shard = $1 AND epoch = $2")
            .bind(SHARD)
            .bind(epoch)
            .fetch_all(&mut *self.transaction)
            .await?;
        let mut batches = survived;
        for row in &rows {
            let text: String = row.try_get("batch")?;
            batches.push(NumberedBatch { seq: row.int("seq")?, text });
        }
        // The sort is stable, so the stream's batch stays before a gateway's copy of the same
        // number.
        batches.sort_by_key(|batch| batch.seq);
        batches.dedup_by_key(|batch| batch.seq);
        let lost: Vec<_> = batches.iter().filter(|b| b.seq > self.checkpoint.seq).collect();
        let newest = lost.last().map_or(self.checkpoint.seq, |batch| batch.seq);
        let replayed = lost.len();
        let on: &mut PgConnection = &mut self.transaction;
        write_contents(&self.store, &lost, true, on).await?;
        let missing = newest - self.checkpoint.seq - i64::try_from(replayed).unwrap_or(i64::MAX);
        Ok((replayed, missing))
    }

    /// Writes the charges that stopping gateways left, after all batches. Returns how many.
    pub async fn charge_owed(&mut self, at_ms: i64) -> Result<usize, LedgerError> {
        owed::charge_owed(&self.store, at_ms, &mut self.transaction).await
    }

    /// Opens the epoch with this number and commits. The number may be above the next one.
    pub async fn open(mut self, number: i64, nonce: &str, layout: i32) -> Result<(), LedgerError> {
        self.store
            .query(
                "UPDATE {s}.shards SET epoch = $3, nonce = $2, checkpoint = 0, digest = '', \
                 recovering = false, layout = $4 WHERE id = $1",
            )
            .bind(SHARD)
            .bind(nonce)
            .bind(number)
            .bind(layout)
            .execute(&mut *self.transaction)
            .await?;
        self.store
            .query("DELETE FROM {s}.redo WHERE shard = $1")
            .bind(SHARD)
            .execute(&mut *self.transaction)
            .await?;
        Ok(self.transaction.commit().await?)
    }
}
