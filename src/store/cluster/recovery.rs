//! The recovery: opens the next epoch after Redis has lost data.
//!
//! Every gateway hands over its redo log. One of them then writes into Postgres the batches that are left in the
//! stream, in the redo logs and among the appends, and opens the next epoch, first in Redis and then in
//! Postgres.

use std::time::{Duration, Instant};

use crate::ledger::{Durability, LedgerError, wall_ms};
use crate::store::cluster::epoch::Epoch;
use crate::store::cluster::hand_over;
use crate::store::cluster::kept_stream;
use crate::store::cluster::locked_row;
use crate::store::cluster::lost_grants;
use crate::store::cluster::postgres::{
    self, Candidate, Checkpoint, Recovery, Replayed, StreamBatch, digest,
};
use crate::store::cluster::redis::meta::CLOSED;
use crate::store::cluster::redis::script::{SHARD, Scripts};
use crate::store::cluster::shared::Shared;

/// The least time that a recovery takes if a gateway has not checked in.
pub(crate) const RECOVERY_TAKES: Duration = Duration::from_secs(1);

/// How long Redis must not have heard from the gateways of another ledger before this ledger takes its place there.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);

/// How often a recovery sends Postgres a statement while it reads from Redis, so that Postgres does
/// not end its transaction as idle.
const STAY_EVERY: Duration = Duration::from_secs(1);

/// The number of batches that are read from the stream at once.
const BATCHES: u64 = 128;

/// Hands over the redo log of this gateway, then opens the next epoch unless another gateway does.
/// Returns whether this gateway has opened it.
pub(crate) async fn recover(shared: &Shared, epoch: i64) -> Result<bool, LedgerError> {
    Ok(hand_over::check_in(shared, epoch).await? && open_next_epoch(shared).await?)
}

/// Opens the next epoch. Returns false if another gateway leads the recovery, if a gateway with a lease has not checked
/// in yet, or if this gateway must not lead it.
async fn open_next_epoch(shared: &Shared) -> Result<bool, LedgerError> {
    let info = shared.redis.info().await?;
    info.check()?;
    if info.is_replica {
        shared.redis.note_demoted();
        return Ok(false);
    }
    shared.intake.note_fitness(true);
    let redis = info.identity();
    shared.watch.note_reached(Some(redis.as_str().into()));
    if serves_another_ledger(shared).await? {
        return Ok(false);
    }
    let postgres = postgres::server_identity(&shared.store).await?;
    let candidate = Candidate {
        incarnation: shared.settings.incarnation,
        layout: shared.settings.layout,
        redis: &redis,
        postgres: &postgres,
    };
    let Some(recovery) = postgres::begin_recovery(&shared.store, candidate).await? else {
        return Ok(false);
    };
    // The future is boxed, so that the heartbeat's future stays small.
    let led = shared.store.while_it_answers(Box::pin(lead(shared, recovery, candidate)));
    tokio::select! {
        led = led => led.map(|()| true),
        never = Box::pin(locked_row::tell_of_recovery(shared)) => match never {},
    }
}

/// Whether gateways of another ledger serve theirs in this Redis. Then this ledger stays out of it: two ledgers in one
/// Redis would end each other's epochs without end.
async fn serves_another_ledger(shared: &Shared) -> Result<bool, LedgerError> {
    let checkpoint = postgres::checkpoint(&shared.store).await?;
    let epoch = Epoch { number: checkpoint.epoch, nonce: checkpoint.nonce.clone() };
    let meta = shared.redis.meta(&Scripts::new(SHARD, epoch)).await?;
    let ours = postgres::ledger_id(&shared.store).await?;
    // An import brings the ledger's id along, and leaves an epoch without a nonce. So the data are those of the empty
    // ledger before it.
    let is_just_moved = checkpoint.epoch > 0 && checkpoint.nonce.is_empty();
    if !meta.is_of_another(&ours)
        || is_just_moved
        || shared.redis.served_ago(&meta).await?.is_none_or(|ago| ago >= ABANDONED_AFTER)
    {
        return Ok(false);
    }
    if shared.epoch.alarm() {
        tracing::error!(
            theirs = meta.ledger,
            ours,
            "this Redis has another ledger, whose gateways serve it: this gateway answers 503 until its `redis_url` leads \
             to a Redis of its own, or those gateways have been gone for ten seconds"
        );
    }
    Ok(true)
}

/// Leads the recovery to the next epoch.
async fn lead(
    shared: &Shared,
    mut recovery: Recovery,
    candidate: Candidate<'_>,
) -> Result<(), LedgerError> {
    let Checkpoint { epoch, ref nonce, .. } = recovery.checkpoint;
    let ending = Scripts::new(SHARD, Epoch { number: epoch, nonce: nonce.clone() });
    // Postgres may have been restored to an earlier epoch. The keys that later epochs left in Redis
    // must never be read again.
    let meta = shared.redis.meta(&ending).await?;
    let (seen, ledger) = (meta.number, postgres::ledger_id(&shared.store).await?);
    // If Redis still has the old scripts, this stops a gateway that does not know of the recovery
    // yet.
    shared.redis.fence(&ending).await?;
    if epoch > 0 && recovery.awaits_check_in().await? {
        // A silent gateway may have a reply of Redis that it has not passed on yet. After this time
        // it must not pass the reply on.
        tokio::time::sleep(RECOVERY_TAKES).await;
    }
    let survived = if meta.is_of_another(&ledger) {
        // The epochs of another ledger may have the same numbers, so none of its batches may be read.
        Vec::new()
    } else {
        let is_ours = meta.ledger == ledger;
        let survived = surviving_batches(shared, &ending, &mut recovery, is_ours).await?;
        // The connection may have been led to another Redis since `meta` was read.
        let now = shared.redis.meta(&ending).await?;
        if now.epoch != CLOSED || now.ledger != meta.ledger {
            return Err(LedgerError::Slow { what: "Redis" });
        }
        survived
    };
    let Replayed { batches: replayed, missing, after_stream } = recovery.replay(survived).await?;
    kept_stream::add(shared, &ending, &after_stream).await;
    let charged = recovery.charge_owed(wall_ms()).await?;
    if recovery.checkpoint.failed_over {
        lost_grants::report(shared, &ending, &mut recovery).await?;
    }
    // In `strict` a missing batch was never acknowledged.
    if missing > 0 && shared.settings.durability == Durability::Relaxed {
        tracing::error!(
            epoch,
            batches = missing,
            "batches are lost: Redis and a gateway were lost at once (at most the unsynced cap of each \
             account is lost), or Postgres was taken back to an earlier point"
        );
    }
    let number = epoch.max(seen).saturating_add(1);
    let next = Epoch { number, nonce: uuid::Uuid::new_v4().simple().to_string() };
    let scripts = Scripts::new(SHARD, next);
    let cold_until = recovery.cold_until().await?;
    shared.redis.begin_epoch(&scripts, &ledger, cold_until).await?;
    let back_off = recovery.open(scripts.epoch.number, &scripts.epoch.nonce, candidate).await?;
    if epoch > 0 {
        shared.metrics.ledger_recoveries.inc();
        tracing::warn!(epoch = number, replayed, charged, "the ledger is recovered");
    }
    if back_off.seconds > 0 {
        tracing::warn!(
            times = back_off.short_epochs,
            seconds = back_off.seconds,
            "the ledger is recovered again and again; the next recovery waits until so many seconds after this \
             one: see that Redis keeps its data, and that one server alone is behind `redis_url`"
        );
    }
    Ok(())
}

/// The batches that Redis still has and Postgres does not; empty if the two have forked. With `later`, the batches of
/// later epochs are included. Postgres does not know these epochs if it was failed over or restored.
async fn surviving_batches(
    shared: &Shared,
    scripts: &Scripts,
    recovery: &mut Recovery,
    later: bool,
) -> Result<Vec<StreamBatch>, LedgerError> {
    let mut survived: Vec<StreamBatch> = Vec::new();
    let epoch = recovery.checkpoint.epoch;
    let (mut from, mut stayed) = ((epoch, recovery.checkpoint.seq), Instant::now());
    loop {
        if stayed.elapsed() >= STAY_EVERY {
            recovery.keep_alive().await?;
            stayed = Instant::now();
        }
        let checkpoint = &recovery.checkpoint;
        let batches = shared.redis.all_batches(scripts, from, BATCHES).await?;
        let Some(last) = batches.last() else { return Ok(survived) };
        from = (last.epoch, last.batch.seq + 1);
        for StreamBatch { epoch, batch } in batches {
            if epoch > checkpoint.epoch {
                if later {
                    survived.push(StreamBatch { epoch, batch });
                }
            } else if batch.seq == checkpoint.seq && digest(&batch.text) != checkpoint.digest {
                tracing::error!(
                    "the stream of Redis has another batch than Postgres under one number; Postgres counts, \
                     and nothing of the stream is used"
                );
                return Ok(Vec::new());
            } else if batch.seq > checkpoint.seq {
                survived.push(StreamBatch { epoch, batch });
            }
        }
    }
}
