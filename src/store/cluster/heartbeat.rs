//! The heartbeat: renews the lease of this gateway, and follows the ledger from one epoch to the
//! next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::store::cluster::batch_log::Batch;
use crate::store::cluster::epoch::Epoch;
use crate::store::cluster::open_epoch::Loss;
use crate::store::cluster::postgres::{self, Checkpoint, LayoutUsers, REDIS_IS_REACHED_FOR};
use crate::store::cluster::recovery;
use crate::store::cluster::redis::script::{SHARD, Scripts};
use crate::store::cluster::redis_look::{self, Found};
use crate::store::cluster::shared::Shared;

/// The time between two renewals of the lease. Two renewals in a row may fail before the lease runs
/// out.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The time between two attempts to continue a recovery.
const RECOVER_EVERY: Duration = Duration::from_millis(100);

/// How long all gateways of another layout must have been without a lease, while Postgres replies,
/// before this gateway takes the ledger over. A gateway that is alive would have renewed its lease
/// several times in that time.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// How long this gateway may reach another Redis than the epoch's before it logs an alarm. After a failover, all
/// gateways notice it within that time, and the epoch ends.
const ELSEWHERE_FOR: Duration = REDIS_IS_REACHED_FOR.saturating_add(Duration::from_secs(1));

/// Runs until the task is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let epoch = &shared.epoch;
        let is_at_rest =
            epoch.scripts().is_some() || epoch.is_left_to_others() || epoch.is_elsewhere();
        let wait = if is_at_rest { RENEW_EVERY } else { RECOVER_EVERY };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.epoch.wake_heartbeat.notified() => {}
        }
        if let Err(error) = beat(&shared).await {
            tracing::debug!(%error, "the state of the ledger is not known");
        }
    }
}

/// Renews the lease once. Then closes, recovers or opens the epoch, depending on the state of the
/// ledger.
pub(crate) async fn beat(shared: &Shared) -> Result<(), LedgerError> {
    let result = renew(shared).await;
    if let Err(error) = &result {
        if !shared.store.is_up() && shared.epoch.waits_for_postgres() {
            tracing::error!(%error, "the recovery waits for Postgres: see that it runs and can be reached");
        }
        // The gateways of another layout may have been unable to reach Postgres, too.
        shared.epoch.forget_silence();
    }
    result
}

async fn renew(shared: &Shared) -> Result<(), LedgerError> {
    let (asked, known) = (Instant::now(), shared.redo.checkpoint());
    let reached = shared.watch.reached();
    let renewed =
        postgres::renew(&shared.store, shared.settings.incarnation, reached.as_deref()).await?;
    let (checkpoint, was_taken_back) = match renewed {
        Some(renewed) => {
            // A renewal counts even if its answer was lost, so the number may grow by more than
            // one.
            let before = shared.epoch.note_renewals(renewed.renewals);
            (renewed.checkpoint, renewed.renewals <= before)
        }
        None => {
            let checkpoint = rejoin(shared).await?;
            shared.epoch.note_renewals(0);
            (checkpoint, false)
        }
    };
    shared.note_failovers(checkpoint.failovers);
    if checkpoint.recovering {
        // The epoch is closed before the lease is extended, so that no reply from it is answered
        // under the new lease.
        shared.epoch.close();
        shared.epoch.forget_loss();
        shared.redo.close(checkpoint.epoch);
        shared.lease.extend(asked);
        return Box::pin(recover(shared, checkpoint.epoch)).await;
    }
    if checkpoint.layout != shared.settings.layout {
        return leave_to_others(shared, &checkpoint).await;
    }
    if known.0 == checkpoint.epoch && known.1 > checkpoint.seq {
        tracing::error!(
            known = known.1,
            checkpoint = checkpoint.seq,
            "Postgres was taken back to an earlier point, so a recovery replays what Redis and the gateways still have; \
             `farebox recover --dry-run` says what is lost"
        );
        shared.epoch.lose(checkpoint.epoch, Loss::Certain);
        postgres::note_failover(&shared.store, checkpoint.epoch, true).await?;
    } else if was_taken_back || is_another_postgres(shared, &checkpoint).await? {
        tracing::error!(
            epoch = checkpoint.epoch,
            "Postgres was failed over or restored: grants, purchases and keys of the last moments may be missing \
             there; what Redis has is built anew from it, and each gateway with a [stripe] section compares the last \
             day with Stripe"
        );
        shared.epoch.lose(checkpoint.epoch, Loss::Certain);
        postgres::note_failover(&shared.store, checkpoint.epoch, true).await?;
    }
    shared.redo.trim(checkpoint.epoch, checkpoint.seq);
    if shared.epoch.number() != Some(checkpoint.epoch) {
        // The epoch that this gateway served has ended without it. A master that was replaced may still run the scripts
        // of that epoch, so the gateway must leave it before its lease is extended.
        shared.epoch.close();
        if may_follow(shared, &checkpoint).await? {
            follow(shared, checkpoint);
        }
    }
    shared.lease.extend(asked);
    Ok(())
}

/// Whether this Postgres differs from the one on which the epoch was opened: another server, or a promoted replica. An
/// asynchronous replica may lack batches that Redis believes to be stored, and would give their numbers again.
async fn is_another_postgres(
    shared: &Shared,
    checkpoint: &Checkpoint,
) -> Result<bool, LedgerError> {
    if checkpoint.postgres.is_empty() || shared.epoch.number() != Some(checkpoint.epoch) {
        return Ok(false);
    }
    let identity = postgres::server_identity(&shared.store).await?;
    Ok(!identity.is_empty() && identity != checkpoint.postgres)
}

/// Whether this gateway can serve the epoch. If Redis's data may be lost, this begins a recovery, unless other gateways
/// still reach the data and only this gateway reaches another Redis.
async fn may_follow(shared: &Shared, checkpoint: &Checkpoint) -> Result<bool, LedgerError> {
    let is_lost = shared.epoch.is_lost(checkpoint.epoch);
    let here = match redis_look::look(shared).await {
        Ok(Found::Master(identity)) => identity,
        Ok(Found::Replica) => {
            // This gateway has no part in the epoch. Its connections are opened anew, to find the master.
            shared.epoch.forget_loss();
            return Ok(false);
        }
        // Redis is unreachable. If data may be lost, this gateway waits for Redis. Otherwise the
        // first batch shows what is there.
        Err(_) => return Ok(!is_lost && !shared.redis.is_demoted()),
    };
    match redis_look::reaches_one(shared, &here).await {
        Ok(true) => {}
        Ok(false) => {
            // The data may be missing only on the server of one connection; the server of the other one may have them.
            shared.epoch.forget_loss();
            return Ok(false);
        }
        Err(_) => return Ok(!is_lost && !shared.redis.is_demoted()),
    }
    let is_home = checkpoint.redis.is_empty() || checkpoint.redis == *here;
    if is_home && !is_lost {
        return Ok(true);
    }
    if is_home && shared.epoch.may_have_data() && has_epoch(shared, checkpoint).await? {
        // The connection had led to another Redis for a moment.
        shared.epoch.forget_loss();
        return Ok(true);
    }
    let incarnation = shared.settings.incarnation;
    if postgres::give_up_unless_reached(&shared.store, checkpoint.epoch, incarnation, &here).await?
    {
        let epoch = checkpoint.epoch;
        tracing::error!(epoch, "Redis has lost the ledger's data; it is recovered from Postgres");
        shared.epoch.forget_loss();
        shared.epoch.wake_heartbeat.notify_one();
        return Ok(false);
    }
    // The other gateways have the data, so nothing is lost: this gateway had reached another Redis.
    shared.epoch.forget_loss();
    if shared.epoch.go_elsewhere() >= ELSEWHERE_FOR && shared.epoch.alarm() {
        tracing::error!(
            here = &*here,
            theirs = checkpoint.redis,
            "this gateway reaches another Redis than the gateways that serve the ledger: it answers 503 until \
             its `redis_url` leads to theirs, or none of them reaches theirs any more"
        );
    }
    Ok(false)
}

/// Whether the Redis that this gateway reaches has the scripts and the data of the epoch.
async fn has_epoch(shared: &Shared, checkpoint: &Checkpoint) -> Result<bool, LedgerError> {
    let epoch = Epoch { number: checkpoint.epoch, nonce: checkpoint.nonce.clone() };
    shared.redis.has_epoch(&Scripts::new(SHARD, epoch)).await
}

/// Adds this gateway again, after the other gateways removed it as lost. They have also ended the
/// holds of its calls, so captures of these calls are late.
async fn rejoin(shared: &Shared) -> Result<Checkpoint, LedgerError> {
    let settings = &shared.settings;
    let joined =
        postgres::rejoin(&shared.store, &settings.name, settings.incarnation, settings.layout);
    let (checkpoint, name) = joined.await?;
    if name == settings.name {
        tracing::warn!("this gateway was taken for gone; it serves again");
    } else {
        tracing::error!(
            taken = settings.name,
            name,
            "another gateway has the `gateway_name` of this one: give each its own, or each start of one \
             gives back the holds of the other's calls"
        );
    }
    Ok(checkpoint)
}

/// Leaves the ledger to gateways of another version, whose scripts and data in Redis have another
/// layout.
///
/// As long as one of these gateways is there, the epoch stays theirs, because only they can settle
/// the calls that they have begun. After that, this gateway ends the epoch, and an ordinary
/// recovery opens the next one in this gateway's layout. A gateway that is still registered gets
/// time to renew its lease, because it may have been unable to reach Postgres.
async fn leave_to_others(shared: &Shared, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
    shared.epoch.close();
    let (epoch, theirs, ours) = (checkpoint.epoch, checkpoint.layout, shared.settings.layout);
    let others = postgres::layout_users(&shared.store, theirs).await?;
    if others == LayoutUsers::Serving {
        if shared.epoch.leave_to_others() {
            tracing::error!(
                theirs,
                ours,
                "gateways of another version of Farebox serve this ledger, with another layout of Redis's \
                 data: this one answers 503 until they have been stopped, or it is replaced by their \
                 version"
            );
        }
        return Ok(());
    }
    let silent_for = shared.epoch.others_are_silent();
    if others == LayoutUsers::Gone && silent_for < SILENT_FOR {
        return Ok(());
    }
    tracing::warn!(epoch, theirs, ours, "the layout of Redis's data changes, by a recovery");
    shared.epoch.take_from_others();
    postgres::give_up(&shared.store, epoch).await
}

/// Recovers the ledger, together with the other gateways. If this gateway has opened the next epoch, it
/// serves that epoch from now on.
async fn recover(shared: &Shared, epoch: i64) -> Result<(), LedgerError> {
    if !recovery::recover(shared, epoch).await? {
        return Ok(());
    }
    let (incarnation, reached) = (shared.settings.incarnation, shared.watch.reached());
    let renewed = postgres::renew(&shared.store, incarnation, reached.as_deref()).await?;
    let Some(renewed) = renewed else { return Ok(()) };
    shared.epoch.note_renewals(renewed.renewals);
    let checkpoint = renewed.checkpoint;
    if !checkpoint.recovering && checkpoint.layout == shared.settings.layout {
        // The janitor loads the accounts into Redis, so that this task can go on renewing the
        // lease.
        shared.epoch.begin_warming(checkpoint.epoch);
        follow(shared, checkpoint);
        shared.wake_janitor.notify_one();
    }
    Ok(())
}

/// Serves an epoch that has opened. If the recovery did not wait for some batches of this gateway,
/// they are decided again.
fn follow(shared: &Shared, checkpoint: Checkpoint) {
    let left = shared.redo.begin(checkpoint.epoch);
    if !left.batches.is_empty() {
        tracing::warn!(
            batches = left.batches.len(),
            "the next epoch opened before this gateway had handed over its batches; it has them decided \
             again"
        );
    }
    let batches = left.batches.iter().filter_map(|batch| Batch::parse(&batch.text));
    shared.debts.owe(batches.flat_map(Batch::ends).chain(left.repeated));
    let epoch = Epoch { number: checkpoint.epoch, nonce: checkpoint.nonce };
    tracing::info!(epoch = epoch.number, "the ledger is open");
    shared.epoch.open(Scripts::new(SHARD, epoch));
}
