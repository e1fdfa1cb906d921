//! The hand-over: a gateway writes the batches that only it remembers into Postgres, for the
//! recovery.

use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::ledger::operation::Operation;
use crate::store::cluster::postgres;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::work::MAX_BATCH;

/// How long a hand-over of the redo log may run before it stops so that the lease can be renewed.
const HAND_OVER_FOR: Duration = Duration::from_secs(1);

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

/// Hands over everything at a stop while Redis is unreachable: the decisions of Redis, and the
/// charges that it has not decided. Releases are not handed over, because their holds expire once
/// this gateway is gone.
///
/// Returns whether Postgres now has all of it. If so, `unsettled` is empty. A gateway that has nothing to hand over
/// does not end the epoch, because the other gateways may still reach Redis.
pub(crate) async fn hand_over(shared: &Shared, unsettled: &mut Vec<Operation>) -> bool {
    let handed_over = async {
        let has_charges = hand_over_charges(shared, unsettled).await?;
        if !has_charges && shared.redo.is_empty() {
            return Ok(true);
        }
        hand_over_redo_log(shared).await
    };
    handed_over.await.unwrap_or_else(|error| {
        tracing::error!(
            %error,
            "the batches and charges that only this gateway has cannot be handed over to Postgres yet; let it run until \
             Postgres answers"
        );
        false
    })
}

/// Hands over the charges that Redis has not decided. Returns whether there were any.
async fn hand_over_charges(
    shared: &Shared,
    unsettled: &mut Vec<Operation>,
) -> Result<bool, LedgerError> {
    let owed = shared.debts.take_owed();
    let mut charges: Vec<_> = owed.iter().chain(&*unsettled).cloned().collect();
    charges.extend(shared.redo.repeated());
    charges.retain(Operation::is_charge);
    for some in charges.chunks(MAX_BATCH) {
        if let Err(error) = postgres::leave_owed(&shared.store, some).await {
            shared.debts.owe(owed);
            return Err(error);
        }
    }
    if !charges.is_empty() {
        let charges = charges.len();
        tracing::warn!(
            charges,
            "Redis is away; the charges of calls are handed over to Postgres, and the next recovery writes them"
        );
    }
    unsettled.clear();
    shared.redo.forget_repeated();
    Ok(!charges.is_empty())
}

async fn hand_over_redo_log(shared: &Shared) -> Result<bool, LedgerError> {
    let Some(epoch) = shared.epoch.number() else { return Ok(shared.redo.is_empty()) };
    shared.epoch.close();
    shared.redo.close(epoch);
    postgres::give_up(&shared.store, epoch).await?;
    let is_handed_over = check_in(shared, epoch).await?;
    if is_handed_over {
        tracing::warn!(
            "Redis is away; its batches are handed over to Postgres, and the next recovery writes them"
        );
    }
    Ok(is_handed_over)
}
