//! The rounds of a gateway's sync: the task that brings the decisions of each store to the other one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::ledger::config::Durability;
use crate::store::cluster::election;
use crate::store::cluster::kept_stream;
use crate::store::cluster::lost_grants;
use crate::store::cluster::postgres;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync;

/// The time between two rounds of the syncer. It is short against the promised lag of a quarter of a second, so that
/// there is time left for the write. In `strict` there are fewer calls to write.
const SYNC_EVERY_RELAXED: Duration = Duration::from_millis(25);
const SYNC_EVERY_STRICT: Duration = Duration::from_millis(50);

/// The time until the next round after one that failed. A store that is unreachable is asked less often.
const SYNC_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// How often a gateway tries to take or keep the place of the syncer. The place becomes free after three times as long.
const ELECT_EVERY: Duration = Duration::from_secs(1);

/// How often the syncer delivers decisions of Postgres to Redis. Usually the gateway that made the decision delivers it
/// at once; the syncer covers a gateway that died, and times when Redis was unreachable.
const DELIVER_EVERY: Duration = Duration::from_millis(500);

/// How long the syncer writes batches before it does its other work.
const SYNC_FOR: Duration = Duration::from_secs(1);

/// Sets the metric that says whether a new call would be taken. `strict` needs both stores.
/// `relaxed` goes on without Postgres until the backlog is too long, provided that it has a lease
/// or that no other Redis can take over.
fn note_health(shared: &Shared, error: Option<&LedgerError>) {
    let is_relaxed = shared.settings.durability == Durability::Relaxed;
    let takes_appends = shared.store.is_up() && shared.writes.takes_appends();
    let has_stores = match error {
        // A gateway that is not the syncer does not learn the state of Postgres from the round.
        None => is_relaxed || takes_appends,
        // Postgres answers. `strict` appends, which waits for no row.
        Some(error) if is_backlog(error) => is_relaxed || takes_appends,
        Some(LedgerError::Redis(_)) => false,
        Some(_) => is_relaxed,
    };
    let may_answer =
        shared.epoch.scripts().is_some() && shared.lease.may_answer(shared.lease.sending());
    let may_answer = may_answer && shared.redis.is_up();
    let takes_calls = may_answer && shared.takes_holds() && !shared.intake.fails_to_decide();
    shared.metrics.ledger_up.set(i64::from(has_stores && takes_calls));
}

/// Whether Postgres answers, but does not take the batches now: there are too many, or a row is locked.
fn is_backlog(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Behind | LedgerError::RowLocked)
}

/// Runs the rounds until the task is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut round = Round::default();
    let every = match shared.settings.durability {
        Durability::Relaxed => SYNC_EVERY_RELAXED,
        Durability::Strict => SYNC_EVERY_STRICT,
    };
    loop {
        let is_asked = tokio::select! {
            () = shared.wake_rounds.notified() => true,
            () = tokio::time::sleep(every) => false,
        };
        note_lag(&shared);
        if shared.epoch.scripts().is_none() {
            note_health(&shared, None);
            continue;
        }
        let synced = round.run(&shared, is_asked).await;
        note_health(&shared, synced.as_ref().err());
        match synced {
            Ok(()) => {}
            Err(error) if is_backlog(&error) => {}
            Err(error) => {
                tracing::debug!(%error, "nothing was synced");
                if error.is_of_full_redis()
                    && let Err(error) = kept_stream::give_back(&shared).await
                {
                    tracing::debug!(%error, "the stream is not trimmed");
                }
                tokio::time::sleep(SYNC_AGAIN_AFTER.saturating_sub(every)).await;
            }
        }
    }
}

/// Sets the metric of the lag. While Redis is unreachable, only the lag of this gateway's redo log is known.
fn note_lag(shared: &Shared) {
    let behind = if shared.redis.is_up() { shared.syncer.lag().as_secs_f64() } else { 0.0 };
    shared.metrics.ledger_sync_lag_seconds.set(shared.redo.lag().max(behind));
}

/// The rounds of the syncer, with the times of its periodic work.
#[derive(Debug, Default)]
struct Round {
    elected: Option<Instant>,
    delivered: Option<Instant>,
}

impl Round {
    /// Runs one round. The syncer writes the decisions of Redis into Postgres, and applies the decisions of Postgres in
    /// Redis, as does a gateway that `is_asked` for it, because an operation waits. Any other gateway only reads how far
    /// the syncer has come.
    async fn run(&mut self, shared: &Shared, is_asked: bool) -> Result<(), LedgerError> {
        let mut elected = Ok(());
        if is_due(&mut self.elected, ELECT_EVERY) {
            elected = election::elect(shared).await;
        }
        if !is_asked && !shared.syncer.writes() {
            let scripts = shared.epoch.require()?;
            return sync::announce_durable(shared, &scripts).await.and(elected);
        }
        let mut synced = sync::sync_within(shared, SYNC_FOR).await;
        // Deliveries do not wait for a backlog of batches, nor for the row of an account.
        if synced.as_ref().err().is_none_or(is_backlog)
            && is_due(&mut self.delivered, DELIVER_EVERY)
        {
            synced = lost_grants::deliver(shared).await.and(synced);
            // In `relaxed` these are batches of gateways that stopped while a row was locked.
            let (epoch, durable) = shared.redo.checkpoint();
            synced = postgres::remove_folded(&shared.store, epoch, durable).await.and(synced);
        }
        synced.and(elected)
    }
}

/// Whether at least `every` has passed since the work was due last. If so, `last` becomes the present time.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let is_due = last.is_none_or(|last| last.elapsed() >= every);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}
