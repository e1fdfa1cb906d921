//! The steps from one epoch to the next, after the data in Redis were lost.
//!
//! 1. [`give_up`]: a gateway that notices the loss marks the shard as recovering.
//! 2. [`check_in`]: each gateway stops answering and hands over the batches that it remembers. A
//!    gateway that does not check in loses its lease.
//! 3. [`begin_recovery`]: one gateway locks the shard's row, and the appends. In that transaction
//!    ([`Recovery`]) it replays the batches that survived, writes the owed charges, and opens the next epoch.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::append::{appends, lock_appends};
use crate::store::cluster::postgres::batches::write_contents;
use crate::store::cluster::postgres::claims::{self, ColdUntil};
use crate::store::cluster::postgres::compare::{StoredAccount, stored_in};
use crate::store::cluster::postgres::leases::{LayoutUsers, REACHING, count_layout_users, lease};
use crate::store::cluster::postgres::owed;
use crate::store::cluster::postgres::shard::{
    Checkpoint, NumberedBatch, SHARD, StreamBatch, read_checkpoint,
};
use crate::store::cluster::postgres::store::{LIMIT, Store};
use crate::store::cluster::postgres::transaction::Transaction;
use crate::store::sql::rows::Column as _;

/// An epoch that lasts less than this is short.
const SHORT: &str = "interval '30 seconds'";

/// How long after an epoch was opened the next one may be opened. After three short epochs in a row
/// this is a second, and after each further one twice as long, up to eight seconds.
const WAIT: &str = "CASE WHEN short_epochs < 3 THEN interval '0' \
     ELSE interval '1 second' * (1 << least(short_epochs - 3, 3)) END";

/// How long the transaction of a recovery may stay idle. During it, the recovery also works in
/// Redis.
const RECOVERY_IDLE_LIMIT: Duration = Duration::from_secs(5);

/// Records that the epoch's data in Redis are lost. No operation is decided until the next epoch
/// opens.
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

/// Like [`give_up`], for a gateway that reached a Redis without the epoch's data. `redis` is the identity of that
/// Redis. Returns false if it is not the epoch's Redis and another gateway still reaches the epoch's Redis.
pub(crate) async fn give_up_unless_reached(
    store: &Store,
    epoch: i64,
    incarnation: i64,
    redis: &str,
) -> Result<bool, LedgerError> {
    store
        .transact(async |on| {
            // If two gateways reach the same new Redis, each must see that the other does.
            store
                .query(
                    "UPDATE {s}.gateways SET redis = $2, redis_at = now() WHERE incarnation = $1",
                )
                .bind(incarnation)
                .bind(redis)
                .execute(&mut *on)
                .await?;
            let given_up = store
                .query(&lease(&format!(
                    "UPDATE {{s}}.shards s SET recovering = true WHERE id = $2 AND epoch = $3 \
                     AND (s.redis = '' OR s.redis = $4 OR {REACHING} = 0)"
                )))
                .bind(incarnation)
                .bind(SHARD)
                .bind(epoch)
                .bind(redis)
                .execute(on)
                .await?;
            Ok(given_up.rows_affected() > 0)
        })
        .await
}

/// Hands over some batches of a lost epoch that Redis acknowledged to this gateway. The gateway must no longer answer
/// from that epoch. With its last batches (`is_last`) the gateway has checked in. Returns false if the next epoch has
/// opened without this gateway.
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

/// A gateway that wants to open the next epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub incarnation: i64,
    pub layout: i32,
    /// The identities of the Redis and the Postgres that the gateway reaches.
    pub redis: &'a str,
    pub postgres: &'a str,
}

/// Begins to open the next epoch. Returns `None` in these cases: the ledger does not wait for an epoch; another gateway
/// is opening it; a gateway with a lease has not checked in; gateways still use the epoch's layout or its Redis, and
/// this gateway uses another; or the epochs before were so short that the next one has to wait.
pub(crate) async fn begin_recovery(
    store: &Store,
    candidate: Candidate<'_>,
) -> Result<Option<Recovery>, LedgerError> {
    let begin = async {
        let mut transaction = store.begin(RECOVERY_IDLE_LIMIT, Duration::ZERO).await?;
        let locked = lock_if_it_may_begin(store, candidate, transaction.connection()?).await;
        transaction.note_idle();
        let Some(checkpoint) = locked? else { return Ok(None) };
        Ok(Some(Recovery { store: store.clone(), transaction, checkpoint }))
    };
    let begun = tokio::time::timeout(LIMIT, begin).await;
    begun.unwrap_or(Err(LedgerError::Slow { what: "Postgres" }))
}

/// Locks the shard's row and the appends, and returns the checkpoint. `None` if no recovery may begin now.
async fn lock_if_it_may_begin(
    store: &Store,
    candidate: Candidate<'_>,
    on: &mut PgConnection,
) -> Result<Option<Checkpoint>, LedgerError> {
    let locked = store
        .query(&lease(&format!(
            "SELECT clock_timestamp() >= opened_at \
             AND clock_timestamp() < opened_at + {WAIT} AS waits, \
             s.redis NOT IN ('', $3) AND {REACHING} > 0 AS is_reached FROM {{s}}.shards s \
             WHERE id = $2 AND recovering FOR UPDATE SKIP LOCKED"
        )))
        .bind(candidate.incarnation)
        .bind(SHARD)
        .bind(candidate.redis)
        .fetch_optional(&mut *on)
        .await?;
    let Some(shard) = locked else { return Ok(None) };
    if shard.flag("waits")? || shard.flag("is_reached")? {
        return Ok(None);
    }
    let checkpoint = read_checkpoint(store, "", on).await?;
    let serving = store
        .query(
            "SELECT count(*) AS serving FROM {s}.gateways \
             WHERE lease_until > clock_timestamp() AND checked_in < $1",
        )
        .bind(checkpoint.epoch)
        .fetch_one(&mut *on)
        .await?;
    if serving.count("serving")? > 0 {
        return Ok(None);
    }
    if checkpoint.layout != candidate.layout
        && count_layout_users(store, checkpoint.layout, on).await? == LayoutUsers::Serving
    {
        return Ok(None);
    }
    lock_appends(store, on).await?;
    Ok(Some(checkpoint))
}

/// A recovery. It is one transaction that has the shard's row locked, and either opens the next
/// epoch or changes nothing.
#[derive(Debug)]
pub(crate) struct Recovery {
    store: Store,
    transaction: Transaction,
    /// The checkpoint of the epoch that ends.
    pub checkpoint: Checkpoint,
}

impl Recovery {
    /// Runs an empty statement, so that Postgres does not end the transaction as idle.
    pub async fn keep_alive(&mut self) -> Result<(), LedgerError> {
        self.store.query("SELECT 1").execute(self.transaction.connection()?).await?;
        Ok(())
    }

    /// Whether a gateway has not checked in. It may have died, be stopped, or be unable to reach
    /// Postgres.
    pub async fn awaits_check_in(&mut self) -> Result<bool, LedgerError> {
        let row = self
            .store
            .query("SELECT count(*) AS silent FROM {s}.gateways WHERE checked_in < $1")
            .bind(self.checkpoint.epoch)
            .fetch_one(self.transaction.connection()?)
            .await?;
        Ok(row.count("silent")? > 0)
    }

    /// Reads accounts with the effects of everything that this recovery has written so far.
    pub async fn stored_accounts(
        &mut self,
        ids: &[String],
    ) -> Result<BTreeMap<String, StoredAccount>, LedgerError> {
        stored_in(&self.store, ids, self.transaction.connection()?).await
    }

    /// Writes, in order, the batches that were appended, the batches that survived in the stream, and the batches that
    /// gateways handed over. The stream may have batches of later epochs than Postgres knows, which follow the batches
    /// of Postgres's epoch.
    pub async fn replay(&mut self, survived: Vec<StreamBatch>) -> Result<Replayed, LedgerError> {
        let epoch = self.checkpoint.epoch;
        let rows = self
            .store
            .query("SELECT seq, batch FROM {s}.redo WHERE shard = $1 AND epoch = $2")
            .bind(SHARD)
            .bind(epoch)
            .fetch_all(self.transaction.connection()?)
            .await?;
        let on = self.transaction.connection()?;
        let mut batches: Vec<_> = appends(&self.store, epoch, self.checkpoint.seq, on)
            .await?
            .into_iter()
            .map(|batch| StreamBatch { epoch, batch })
            .collect();
        let place = |batch: &StreamBatch| (batch.epoch, batch.batch.seq);
        let newest = survived.iter().map(place).max();
        batches.extend(survived);
        for row in &rows {
            let batch = NumberedBatch { seq: row.int("seq")?, text: row.try_get("batch")? };
            batches.push(StreamBatch { epoch, batch });
        }
        // If batches have the same number, the appended one counts, because it may have been answered, and after it the
        // one in the stream: they come in that order, and the sort is stable.
        batches.sort_by_key(place);
        batches.dedup_by_key(|batch| place(batch));
        let after_stream =
            batches.iter().filter(|batch| Some(place(batch)) > newest).cloned().collect();
        batches.retain(|batch| place(batch) > (epoch, self.checkpoint.seq));
        let lost: Vec<_> = batches.iter().map(|batch| &batch.batch).collect();
        let on = self.transaction.connection()?;
        write_contents(&self.store, &lost, true, on).await?;
        let missing = missing(&batches, (epoch, self.checkpoint.seq));
        Ok(Replayed { batches: batches.len(), missing, after_stream })
    }

    /// After all batches, writes the charges that stopping gateways left. Returns how many it
    /// wrote.
    pub async fn charge_owed(&mut self, at_ms: i64) -> Result<usize, LedgerError> {
        owed::charge_owed(&self.store, at_ms, self.transaction.connection()?).await
    }

    /// Reads until when the next epoch has to ask Postgres for claims.
    pub async fn cold_until(&mut self) -> Result<ColdUntil, LedgerError> {
        claims::cold_until(&self.store, self.transaction.connection()?).await
    }

    /// Opens the epoch with this number (the next one or a later one), and commits.
    pub async fn open(
        mut self,
        number: i64,
        nonce: &str,
        by: Candidate<'_>,
    ) -> Result<BackOff, LedgerError> {
        let opened = self
            .store
            .query(&format!(
                "UPDATE {{s}}.shards SET epoch = $3, nonce = $2, checkpoint = 0, digest = '', \
                 recovering = false, failed_over = false, layout = $4, redis = $5, postgres = $6, opened_at = clock_timestamp(), \
                 short_epochs = CASE WHEN opened_at > clock_timestamp() - {SHORT} \
                 THEN least(short_epochs + 1, 1000) ELSE 0 END WHERE id = $1 \
                 RETURNING short_epochs::int8, extract(epoch FROM {WAIT})::int8 AS seconds"
            ))
            .bind(SHARD)
            .bind(nonce)
            .bind(number)
            .bind(by.layout)
            .bind(by.redis)
            .bind(by.postgres)
            .fetch_one(self.transaction.connection()?)
            .await?;
        for table in ["redo", "appends"] {
            self.store
                .query(&format!("DELETE FROM {{s}}.{table} WHERE shard = $1"))
                .bind(SHARD)
                .execute(self.transaction.connection()?)
                .await?;
        }
        self.transaction.commit().await?;
        Ok(BackOff { short_epochs: opened.int("short_epochs")?, seconds: opened.int("seconds")? })
    }
}

/// The batches that a recovery wrote.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// The number of batches that the recovery wrote.
    pub batches: usize,
    /// The number of batches that are missing between them.
    pub missing: i64,
    /// Batches that only gateways had remembered, or that were only appended, newer than all batches in the stream, in order.
    pub after_stream: Vec<StreamBatch>,
}

/// Counts the gaps between batches of the stream, in order, which follow `from`.
fn missing(batches: &[StreamBatch], from: (i64, i64)) -> i64 {
    let (mut before, mut missing) = (from, 0_i64);
    for StreamBatch { epoch, batch } in batches {
        let newest = if *epoch == before.0 { before.1 } else { 0 };
        missing = missing.saturating_add(batch.seq - newest - 1);
        before = (*epoch, batch.seq);
    }
    missing
}

/// The slow-down of repeated recoveries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackOff {
    /// The number of short epochs in a row.
    pub short_epochs: i64,
    /// The seconds after the opening of this epoch before the next one may be opened.
    pub seconds: i64,
}
