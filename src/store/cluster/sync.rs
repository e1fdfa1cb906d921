//! The sync between the stores: it writes the batches that Redis decided into Postgres, and applies
//! decisions of Postgres in Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::types::Value;
use futures_util::future::join_all;

use crate::ledger::LedgerError;
use crate::ledger::config::Durability;
use crate::store::cluster::adaptive::fitting;
use crate::store::cluster::postgres::{self, Checkpoint, Delivery, NumberedBatch, Written, digest};
use crate::store::cluster::redis::connection::args;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;

/// The time between two rounds of the syncer. It is half of the promised lag, so that there is time
/// left for the write.
const SYNC_EVERY: Duration = Duration::from_millis(50);

/// How often the syncer delivers decisions of Postgres to Redis. Usually the gateway that made a
/// decision has delivered it at once. The syncer does it if that gateway died, or if Redis was
/// unreachable.
const DELIVER_EVERY: Duration = Duration::from_millis(500);

/// The number of batches that are read from the stream at once.
const BATCHES: u64 = 128;

/// The number of deliveries that are read from Postgres at once.
const DELIVERIES: i64 = 500;

/// How long the syncer writes batches before it does its other work.
const SYNC_FOR: Duration = Duration::from_secs(1);

/// The time limit of a sync that no call waits for.
pub(crate) const NO_HURRY: Duration = Duration::from_secs(60);

/// The time limit of a sync that all calls of this gateway wait for.
pub(crate) const IN_TIME: Duration = Duration::from_millis(500);

/// How long a batch that must be durable waits for the batches before it.
pub(crate) const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// Makes all decisions of Redis so far durable. With a long backlog this may take long.
pub(crate) async fn sync(shared: &Shared) -> Result<(), LedgerError> {
    sync_within(shared, NO_HURRY).await
}

/// Makes all decisions of Redis so far durable.
///
/// # Errors
/// [`LedgerError::Behind`] if there was not enough time. The batches that were written stay
/// written.
pub(crate) async fn sync_within(shared: &Shared, limit: Duration) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    let known = shared.redo.durable();
    let (newest, durable) = announce_checkpoint(shared, &scripts, known).await?;
    if newest > durable { sync_up_to(shared, &scripts, newest, limit).await } else { Ok(()) }
}

/// Makes durable the batches of this epoch up to `seq`. No step begins after `limit`.
///
/// # Errors
/// [`LedgerError::Behind`] if there was not enough time. The batches that were written stay
/// written.
pub(crate) async fn sync_up_to(
    shared: &Shared,
    scripts: &Scripts,
    seq: i64,
    limit: Duration,
) -> Result<(), LedgerError> {
    let began = Instant::now();
    while began.elapsed() < limit {
        let checkpoint = postgres::checkpoint(&shared.store).await?;
        if checkpoint.epoch != scripts.epoch.number || checkpoint.recovering {
            shared.epoch.wake_heartbeat.notify_one();
            return Err(LedgerError::Slow { what: "the next epoch of Redis" });
        }
        if checkpoint.seq >= seq {
            shared.redo.trim(scripts.epoch.number, checkpoint.seq);
            return Ok(());
        }
        let batches = read_stream(shared, scripts, &checkpoint).await?;
        let mut rest = &batches[..];
        while !rest.is_empty() && began.elapsed() < limit {
            let fit = fitting(rest, shared.write_size.get(), |batch| batch.text.len());
            let (some, others) = rest.split_at(fit);
            let started = Instant::now();
            match write_batches(shared, scripts, some).await {
                Ok(true) => shared.write_size.grow(started.elapsed()),
                // Another syncer has written, so the checkpoint is read again.
                Ok(false) => break,
                Err(error) => {
                    shared.write_size.shrink(some.iter().map(|batch| batch.text.len()).sum());
                    return Err(error);
                }
            }
            rest = others;
        }
    }
    let (epoch, durable) = shared.redo.checkpoint();
    let is_done = epoch == scripts.epoch.number && durable >= seq;
    if is_done { Ok(()) } else { Err(LedgerError::Behind) }
}

/// Writes batches into Postgres, if they continue the checkpoint. Returns whether they are durable.
pub(crate) async fn write_batches(
    shared: &Shared,
    scripts: &Scripts,
    batches: &[NumberedBatch],
) -> Result<bool, LedgerError> {
    let Some(last) = batches.last() else { return Ok(true) };
    let started = Instant::now();
    match postgres::write_batches(&shared.store, scripts.epoch.number, batches).await? {
        Written::Upto(seq) => {
            shared.metrics.ledger_commit_seconds.observe(started.elapsed().as_secs_f64());
            shared.redo.trim(scripts.epoch.number, seq);
            Ok(seq >= last.seq)
        }
        Written::ByAnother => Ok(false),
    }
}

/// Reads the batches after the checkpoint. The batch of the checkpoint itself is usually still in
/// the stream. If it has another text there, the stream and Postgres have forked.
async fn read_stream(
    shared: &Shared,
    scripts: &Scripts,
    checkpoint: &Checkpoint,
) -> Result<Vec<NumberedBatch>, LedgerError> {
    let mut batches = shared.redis.batches(scripts, checkpoint.seq, BATCHES).await?;
    let own = batches.first().filter(|batch| batch.seq == checkpoint.seq);
    if own.is_some_and(|batch| digest(&batch.text) != checkpoint.digest) {
        let what = "it has another batch than Postgres under one number";
        return Err(forked(shared, scripts, what));
    }
    batches.retain(|batch| batch.seq > checkpoint.seq);
    let follows = batches.first().is_none_or(|batch| batch.seq == checkpoint.seq + 1);
    if !follows && postgres::checkpoint(&shared.store).await? == *checkpoint {
        let what = "it lacks a batch that Postgres does not have";
        return Err(forked(shared, scripts, what));
    }
    Ok(batches)
}

fn forked(shared: &Shared, scripts: &Scripts, what: &str) -> LedgerError {
    tracing::error!(what, "the stream of Redis contradicts Postgres");
    shared.epoch_lost(scripts.epoch.number);
    LedgerError::Corrupt { what: format!("the stream of Redis: {what}") }
}

/// Tells Redis which batch is the newest that Postgres is known to have.
pub(crate) async fn announce_durable(
    shared: &Shared,
    scripts: &Scripts,
) -> Result<(), LedgerError> {
    announce_checkpoint(shared, scripts, shared.redo.durable()).await.map(drop)
}

/// Tells Redis that Postgres has the batches up to `durable`, and that this gateway is alive.
/// Returns the newest batch and the newest durable one.
async fn announce_checkpoint(
    shared: &Shared,
    scripts: &Scripts,
    durable: i64,
) -> Result<(i64, i64), LedgerError> {
    let (durable, owner) = (durable.to_string(), shared.settings.incarnation.to_string());
    let reply = shared.maintain(scripts, args(["durable", &durable, &owner])).await?;
    let (newest, durable) = reply.convert()?;
    shared.redo.trim(scripts.epoch.number, durable);
    Ok((newest, durable))
}

/// Applies the decisions of Postgres in Redis: grants, refunds, freezes. Each takes effect once,
/// however often it is delivered.
pub(crate) async fn deliver(shared: &Shared) -> Result<(), LedgerError> {
    loop {
        let waiting = postgres::deliveries(&shared.store, DELIVERIES).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let scripts = shared.epoch.require()?;
        // All deliveries are sent in order before the first reply is read. If a delivery arrives
        // before an earlier one of the same account, it is not applied, and is sent again later.
        let sent = waiting.iter().map(|delivery| deliver_one(shared, &scripts, delivery));
        let mut applied: Vec<Delivery> = Vec::new();
        for (delivery, is_applied) in waiting.iter().zip(join_all(sent).await) {
            if is_applied? {
                applied.push(delivery.clone());
            }
        }
        postgres::remove_deliveries(&shared.store, &applied).await?;
        if applied.len() < waiting.len() {
            // The remaining deliveries wait for an earlier one of their account, which another
            // gateway is sending.
            return Ok(());
        }
    }
}

/// Returns false if the account lacks an earlier delivery.
async fn deliver_one(
    shared: &Shared,
    scripts: &Scripts,
    delivery: &Delivery,
) -> Result<bool, LedgerError> {
    let (number, amount) = (delivery.grant_seq.to_string(), delivery.amount.to_string());
    let frozen = if delivery.frozen { "1" } else { "0" };
    let words = args(["deliver", &delivery.account, &number, &amount, frozen]);
    Ok(shared.maintain(scripts, words).await? == Value::Integer(1))
}

/// Sets the metric that says whether a new call would be taken. `strict` needs both stores.
/// `relaxed` goes on without Postgres until the backlog is too long, provided that it has a lease
/// or that no other Redis can take over.
fn note_health(shared: &Shared, error: Option<&LedgerError>) {
    let has_stores = match error {
        None => true,
        Some(LedgerError::Redis(_)) => false,
        Some(_) => shared.settings.durability == Durability::Relaxed,
    };
    let may_answer =
        shared.epoch.scripts().is_some() && shared.lease.may_answer(shared.lease.sending());
    let may_answer = may_answer && shared.redis.is_up();
    let takes_calls = may_answer && shared.takes_holds() && !shared.intake.fails_to_decide();
    shared.metrics.ledger_up.set(i64::from(has_stores && takes_calls));
}

/// The syncer: keeps each store close to what the other one decides.
pub(crate) async fn run(shared: Arc<Shared>) {
    let (mut delivered, mut behind_since) = (Instant::now(), None);
    loop {
        tokio::time::sleep(SYNC_EVERY).await;
        let behind = behind_since.map_or(0.0, |since: Instant| since.elapsed().as_secs_f64());
        shared.metrics.ledger_sync_lag_seconds.set(shared.redo.lag().max(behind));
        if shared.epoch.scripts().is_none() {
            note_health(&shared, None);
            continue;
        }
        let mut synced = sync_within(&shared, SYNC_FOR).await;
        if delivered.elapsed() >= DELIVER_EVERY {
            // Deliveries do not wait for the backlog of batches.
            if matches!(synced, Ok(()) | Err(LedgerError::Behind)) {
                synced = deliver(&shared).await.and(synced);
            }
            delivered = Instant::now();
        }
        note_health(&shared, synced.as_ref().err());
        // In `strict` the redo log is empty, so the lag is measured here. It is unknown while Redis
        // is unreachable.
        behind_since = match &synced {
            Ok(()) | Err(LedgerError::Redis(_)) => None,
            Err(_) if shared.settings.durability == Durability::Relaxed => None,
            Err(_) => Some(behind_since.unwrap_or_else(Instant::now)),
        };
        match synced {
            Ok(()) | Err(LedgerError::Behind) => {}
            Err(error) => {
                tracing::debug!(%error, "nothing was synced");
                // A store that is unreachable is asked less often.
                tokio::time::sleep(SYNC_EVERY * 4).await;
            }
        }
    }
}
