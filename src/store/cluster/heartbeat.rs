//! The heartbeat: renews the lease of this gateway, and follows the ledger from epoch to epoch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::store::cluster::batch_log::Batch;
use crate::store::cluster::epoch::Epoch;
use crate::store::cluster::postgres::{self, Checkpoint, LayoutUsers};
use crate::store::cluster::recovery;
use crate::store::cluster::redis::script::{SHARD, Scripts};
use crate::store::cluster::shared::Shared;

/// The time between two renewals of the lease. Two renewals in a row may fail before the lease runs
/// out.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The time between two attempts to go on with a recovery.
const RECOVER_EVERY: Duration = Duration::from_millis(100);

/// How long all gateways of another layout must have been without a lease, while Postgres replies,
/// before this gateway takes the ledger. In that time each of them that is alive would have renewed its
/// lease several times.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// Runs until it is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let is_at_rest = shared.epoch.scripts().is_some() || shared.epoch.is_left_to_others();
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

/// Renews the lease once. Then closes, recovers or opens the epoch, as the state of the ledger
/// requires.
pub(crate) async fn beat(shared: &Shared) -> Result<(), LedgerError> {
    let result = renew(shared).await;
    if result.is_err() {
        // Postgres may have been unreachable for the gateways of another layout too.
        shared.epoch.forget_silence();
    }
    result
}

async fn renew(shared: &Shared) -> Result<(), LedgerError> {
    let (asked, known) = (Instant::now(), shared.redo.checkpoint());
    let checkpoint = match postgres::renew(&shared.store, shared.settings.incarnation).await? {
        Some(checkpoint) => checkpoint,
        None => rejoin(shared).await?,
    };
    if checkpoint.recovering {
        // The epoch is closed before the lease is extended: replies from it must not be answered under
        // the new lease.
        shared.epoch.close();
        shared.redo.close(checkpoint.epoch);
        shared.lease.extend(asked);
        return recover(shared, checkpoint.epoch).await;
    }
    if checkpoint.layout != shared.settings.layout {
        return leave_to_others(shared, &checkpoint).await;
    }
    if known.0 == checkpoint.epoch && known.1 > checkpoint.seq {
        tracing::error!(
            known = known.1,
            checkpoint = checkpoint.seq,
            "Postgres was taken back to an earlier point"
        );
        shared.epoch_lost(checkpoint.epoch).await;
        return Ok(());
    }
    if shared.epoch.number() != Some(checkpoint.epoch) {
        follow(shared, checkpoint);
    }
    shared.lease.extend(asked);
    Ok(())
}

/// Adds this gateway again, after the others counted it as gone. They have also given up the holds of
/// its calls, so captures of these calls are late.
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
/// As long as one of them is there, the epoch stays theirs: only they can settle the calls that they
/// have begun. After that this gateway gives the epoch up, and an ordinary recovery opens the next one
/// in this gateway's layout. A gateway that is still registered gets time to renew its lease, since
/// Postgres may have been unreachable for it too.
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
    let Some(checkpoint) = postgres::renew(&shared.store, shared.settings.incarnation).await?
    else {
        return Ok(());
    };
    if !checkpoint.recovering && checkpoint.layout == shared.settings.layout {
        // The janitor loads the accounts into Redis, so that this task can renew the lease meanwhile.
        shared.epoch.begin_warming(checkpoint.epoch);
        follow(shared, checkpoint);
        shared.wake_janitor.notify_one();
    }
    Ok(())
}

/// Serves an epoch that has opened. Batches of this gateway that the recovery did not wait for are
/// decided again.
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
