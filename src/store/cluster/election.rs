//! This gateway's part in the election of the syncer, the gateway that writes batches into Postgres.

use std::time::Instant;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::{self, LEASE};
use crate::store::cluster::shared::Shared;

/// Takes or keeps the place of the syncer, if this gateway can do the syncer's work; otherwise gives the place up.
pub(crate) async fn elect(shared: &Shared) -> Result<(), LedgerError> {
    let (asked, incarnation) = (Instant::now(), shared.settings.incarnation);
    if shared.epoch.scripts().is_some() && shared.redis.is_up() {
        let is_elected = postgres::elect(&shared.store, incarnation).await?;
        shared.syncer.elect(is_elected.then(|| asked + LEASE));
        return Ok(());
    }
    step_down(shared).await
}

/// Takes the place of the syncer at a start. An earlier start of this gateway, which no longer runs, loses it.
pub(crate) async fn start(shared: &Shared, replaced: Option<i64>) -> Result<(), LedgerError> {
    if let Some(earlier) = replaced {
        postgres::step_down(&shared.store, earlier).await?;
    }
    elect(shared).await
}

/// Gives the place of the syncer up at a stop, so that another gateway need not wait for it.
pub(crate) async fn leave(shared: &Shared) {
    if let Err(error) = step_down(shared).await {
        tracing::debug!(%error, "the place of the syncer is free within seconds");
    }
}

async fn step_down(shared: &Shared) -> Result<(), LedgerError> {
    match shared.syncer.elect(None) {
        true => postgres::step_down(&shared.store, shared.settings.incarnation).await,
        false => Ok(()),
    }
}
