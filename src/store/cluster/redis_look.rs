//! Checks Redis twice a second: which server it is, and the time on its clock.

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

/// Runs until the task is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(error) = look(&shared).await {
            tracing::debug!(%error, "it is not known which Redis is reached");
        }
    }
}
