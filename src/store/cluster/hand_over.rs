//! The hand-over: a gateway writes the batches that only it remembers into Postgres, for the
//! recovery.
//!
//! A gateway that stops while Redis has its batches, and Postgres only does not fold them in time, begins no recovery: it
//! [appends](append_if_stuck) them, as `strict` does with every batch. Another gateway folds them later.

use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::ledger::operation::Operation;
use crate::store::cluster::postgres;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{self, MAX_APPEND, MOST_APPENDED};
use crate::store::cluster::work::MAX_BATCH;

/// How long a hand-over of the redo log may run before it stops so that the lease can be renewed.
const HAND_OVER_FOR: Duration = Duration::from_secs(1);

/// How long a stop appends batches until it looks whether Postgres folds them by now.
const APPEND_FOR: Duration = Duration::from_secs(3);

/// Hands over the redo log of an epoch that has ended, in several transactions. The last one also
/// checks this gateway in, so that the recovery no longer waits for it.
///
/// Returns false if the next epoch has opened without this gateway, or if the hand-over stopped so
/// that the lease can be renewed.
pub(crate) async fn check_in(shared: &Shared, epoch: i64) -> Result<bool, LedgerError> {
    let began = Instant::now();
    while began.elapsed() < HAND_OVER_FOR {
        let (some, are_all) = shared.redo.oldest(epoch, shared.hand_over_size.get());
        let started = Instant::now();
        let incarnation = shared.settings.incarnation;
        match postgres::check_in(&shared.store, incarnation, epoch, &some, are_all).await {
            Ok(true) => shared.hand_over_size.grow(started.elapsed()),
            Ok(false) => return Ok(false),
            Err(error) => {
                shared.hand_over_size.shrink(some.iter().map(|batch| batch.text.len()).sum());
                return Err(error);
            }
        }
        if let Some(last) = some.last() {
            shared.redo.handed_over(epoch, last.seq);
        }
        if are_all {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Appends the redo log at a stop, if both servers answer, and either a locked row has kept it from being folded for a while
/// or the stop `is_late`. Returns whether there was only not enough time for all of it, so that the next turn goes on.
pub(crate) async fn append_if_stuck(shared: &Shared, is_late: bool) -> bool {
    let is_stuck = is_late || shared.stuck.are_left(shared.redo.checkpoint());
    if !is_stuck || shared.is_away() || shared.require_postgres().is_err() {
        return false;
    }
    match Box::pin(append_redo_log(shared)).await {
        Ok(are_all) => !are_all,
        Err(LedgerError::Behind) => true,
        Err(error) => {
            tracing::warn!(%error, "the batches cannot be appended either");
            false
        }
    }
}

/// Appends the redo log at a stop. Redis has these batches in its stream, from which another gateway folds them. If Redis
/// is lost before that, the recovery reads the appends.
///
/// Returns false if there was not enough time for all of it.
///
/// # Errors
/// Fails if the epoch ends, or the stream has forked: the recovery needs the redo log then.
async fn append_redo_log(shared: &Shared) -> Result<bool, LedgerError> {
    let scripts = shared.epoch.require()?;
    let (epoch, began, mut appended) = (scripts.epoch.number, Instant::now(), 0);
    while began.elapsed() < APPEND_FOR {
        let size = shared.hand_over_size.get().min(MAX_APPEND);
        let (mut some, _) = shared.redo.oldest(epoch, size);
        some.truncate(MOST_APPENDED);
        let Some(last) = some.last() else {
            // Nobody remembers the batches of repeated captures, but the stream has them.
            if let Some(seq) = shared.redo.repeated_up_to(epoch) {
                sync::append_stream(shared, &scripts, seq, APPEND_FOR).await?;
                shared.redo.forget_repeated();
            }
            if appended > 0 {
                tracing::warn!(
                    batches = appended,
                    "Postgres has the newest batches of this gateway only as texts: a locked row or a backlog keeps them \
                     out of its tables; another gateway, or the next one that starts, writes them there"
                );
            }
            return Ok(true);
        };
        let started = Instant::now();
        if let Err(error) = sync::append(shared, &scripts, &some).await {
            shared.hand_over_size.shrink(some.iter().map(|batch| batch.text.len()).sum());
            return Err(error);
        }
        shared.hand_over_size.grow(started.elapsed());
        // The pipeline has ended, so no batch with an earlier number has come meanwhile.
        shared.redo.handed_over(epoch, last.seq);
        appended += some.len();
    }
    Ok(false)
}

/// Hands over everything at a stop while Redis is unreachable, or decides nothing: the decisions of Redis, and the
/// charges that it has not decided. Releases are not handed over, because their holds expire once
/// this gateway is gone.
///
/// Only what is handed over begins a recovery: the other gateways may well reach Redis.
///
/// Returns whether Postgres now has all of it. If so, `unsettled` is empty.
pub(crate) async fn hand_over(shared: &Shared, unsettled: &mut Vec<Operation>) -> bool {
    let cause = cause(shared);
    let handed_over = async {
        let has_charges = hand_over_charges(shared, unsettled, cause).await?;
        if !has_charges && shared.redo.is_empty() {
            return Ok(true);
        }
        hand_over_redo_log(shared, cause).await
    };
    handed_over.await.unwrap_or_else(|error| {
        let holds = unsettled.len() + shared.debts.len();
        tracing::error!(
            %error,
            holds,
            "the batches that only this gateway has, and the ends of so many calls' holds, cannot be handed over to \
             Postgres yet; let it run until Postgres answers"
        );
        false
    })
}

/// The reason for a hand-over, for the log.
fn cause(shared: &Shared) -> &'static str {
    if !shared.redis.is_up() {
        "Redis is away"
    } else if shared.epoch.number().is_none() {
        "no epoch is open"
    } else if shared.require_postgres().is_err() {
        "Postgres is away"
    } else {
        "both servers answer: Redis does not decide all of it (its memory may be full), or Postgres does not take it (a \
         row may be locked)"
    }
}

/// Returns whether there were any charges.
async fn hand_over_charges(
    shared: &Shared,
    unsettled: &mut Vec<Operation>,
    cause: &str,
) -> Result<bool, LedgerError> {
    let owed = shared.debts.take_owed();
    let mut charges: Vec<_> = owed.iter().chain(&*unsettled).cloned().collect();
    let holds = charges.iter().filter(|end| !end.is_charge()).count();
    charges.extend(shared.redo.repeated());
    charges.retain(Operation::is_charge);
    for some in charges.chunks(MAX_BATCH) {
        if let Err(error) = postgres::leave_owed(&shared.store, some).await {
            shared.debts.owe(owed);
            return Err(error);
        }
    }
    if holds > 0 {
        tracing::warn!(
            holds,
            cause,
            "the releases of some calls are not written: their holds expire once this gateway counts as lost, after ten \
             seconds or more, or when it starts again under its `gateway_name`"
        );
    }
    if !charges.is_empty() {
        let charges = charges.len();
        tracing::warn!(
            charges,
            cause,
            "the charges of calls are handed over to Postgres, and the next recovery writes them"
        );
    }
    unsettled.clear();
    shared.redo.forget_repeated();
    Ok(!charges.is_empty())
}

async fn hand_over_redo_log(shared: &Shared, cause: &str) -> Result<bool, LedgerError> {
    let Some(epoch) = shared.epoch.number() else { return Ok(shared.redo.is_empty()) };
    shared.epoch.close();
    shared.redo.close(epoch);
    postgres::give_up(&shared.store, epoch).await?;
    let is_handed_over = check_in(shared, epoch).await?;
    if is_handed_over {
        tracing::warn!(
            cause,
            "the batches of this gateway are handed over to Postgres, and the next recovery writes them"
        );
    }
    Ok(is_handed_over)
}
