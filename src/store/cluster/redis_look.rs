//! Checks Redis twice a second: which server it is, the time on its clock, and whether it still has the live holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::{LedgerError, wall_ms};
use crate::store::cluster::shared::Shared;

/// The time between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The server that a check found at the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A master, with its identity.
    Master(Arc<str>),
    /// A replica, which decides nothing.
    Replica,
}

/// Makes one check: asks for the time and the identity.
///
/// # Errors
/// Fails if Redis is unreachable.
pub(crate) async fn look(shared: &Shared) -> Result<Found, LedgerError> {
    read_clock(shared).await?;
    let info = shared.redis.who().await?;
    if info.is_replica {
        shared.redis.note_demoted();
        shared.watch.note_reached(None);
        return Ok(Found::Replica);
    }
    let identity: Arc<str> = info.identity().into();
    shared.watch.note_reached(Some(identity.clone()));
    Ok(Found::Master(identity))
}

/// Whether the connection for the batches leads to the master `here` as well. If not, both connections are opened anew:
/// one may have been open since before the address changed, so it says nothing about the epoch's data.
///
/// # Errors
/// Fails if Redis is unreachable.
pub(crate) async fn reaches_one(shared: &Shared, here: &str) -> Result<bool, LedgerError> {
    let hot = shared.redis.hot_who().await?;
    if hot.is_replica {
        shared.redis.note_demoted();
        return Ok(false);
    }
    let is_one = hot.identity() == here;
    if !is_one {
        tracing::warn!("the two connections to Redis lead to two servers; both are opened anew");
        shared.redis.reopen();
    }
    Ok(is_one)
}

/// Asks for the time.
///
/// # Errors
/// Fails if Redis is unreachable.
pub(crate) async fn read_clock(shared: &Shared) -> Result<(), LedgerError> {
    let asked = Instant::now();
    let redis_ms = shared.redis.time_ms().await?;
    let half = asked.elapsed() / 2;
    let half_ms = i64::try_from(half.as_millis()).unwrap_or(i64::MAX);
    shared.watch.note_time(redis_ms, wall_ms().saturating_sub(half_ms), asked + half);
    Ok(())
}

/// Checks that Redis still has the key of the live holds. If only this key was deleted or evicted, the scripts still run,
/// but no hold of a call that runs can be captured or renewed.
///
/// # Errors
/// Fails if Redis is unreachable.
async fn check_live_holds(shared: &Shared) -> Result<(), LedgerError> {
    let Some(scripts) = shared.epoch.scripts() else { return Ok(()) };
    if shared.redis.has_live_mark(&scripts).await? {
        return Ok(());
    }
    // If the other data of the epoch are missing too, or if the epoch has just ended, the scripts find that out.
    let meta = shared.redis.meta(&scripts).await?;
    if meta.is_marked && meta.epoch == scripts.epoch.name() {
        tracing::error!(
            key = scripts.live_key(),
            "Redis has lost the key of the live holds, and has the others: somebody deleted it, or Redis evicted it. A \
             recovery brings the holds back from Postgres. Set `maxmemory-policy noeviction`, and see who else uses \
             this Redis"
        );
        shared.data_lost(scripts.epoch.number);
    }
    Ok(())
}

/// Runs until the task is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let looked = match look(&shared).await {
            Ok(Found::Master(_)) => check_live_holds(&shared).await,
            looked => looked.map(drop),
        };
        if let Err(error) = looked {
            tracing::debug!(%error, "it is not known which Redis is reached");
        }
    }
}
