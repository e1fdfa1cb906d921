//! Captures and releases of API holds that have already ended.
//!
//! The scripts in Redis know how such a hold ended. They do not know its account, and they cannot
//! turn an expired hold into a released one. Postgres can do both, and does so before the caller is
//! answered.

use std::collections::{HashMap, HashSet};

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, HoldId, Operation, Origin, Outcome, Refusal};
use crate::store::cluster::postgres::{self, Fate};
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{self, WRITTEN_WITHIN};
use crate::store::cluster::work::MAX_BATCH;

/// A capture or release that Redis answered from its record of ended holds.
struct RepeatedEnd<'a> {
    hold: &'a HoldId,
    account: Option<&'a AccountId>,
    /// True if the outcome says that the hold is released.
    is_release: bool,
    outcome: &'a mut Outcome,
}

impl<'a> RepeatedEnd<'a> {
    /// The end of an API hold, if its outcome may have to be corrected.
    fn of((operation, outcome): (&'a Operation, &'a mut Outcome)) -> Option<Self> {
        let (hold, account) = match operation {
            Operation::Capture { hold, account, origin: Origin::Api, .. }
            | Operation::Release { hold, account, origin: Origin::Api, .. } => {
                (hold, account.as_ref())
            }
            _ => return None,
        };
        let is_release = matches!(outcome, Outcome::Released { end: None, .. });
        let refused = matches!(
            outcome,
            Outcome::Refused(Refusal::Conflict | Refusal::Ended | Refusal::AboveHold { .. })
        );
        let is_open = is_release || refused && account.is_some();
        is_open.then_some(Self { hold, account, is_release, outcome })
    }

    /// Replaces an outcome that contradicts the hold's state in Postgres.
    fn correct(&mut self, fate: &Fate) {
        let owner = match fate {
            Fate::Live { account, .. }
            | Fate::Captured { account, .. }
            | Fate::Ended { account, .. } => Some(account),
            Fate::Unknown => None,
        };
        let refusal = match (owner, self.account) {
            (Some(owner), Some(named)) if owner != named => Refusal::UnknownHold,
            _ if self.is_release && matches!(fate, Fate::Captured { .. }) => Refusal::Ended,
            _ => return,
        };
        *self.outcome = Outcome::Refused(refusal);
        self.is_release = false;
    }

    /// Whether the hold has expired and is now to be released.
    fn releases_expired(&self, fate: &Fate) -> bool {
        let expired = Ending::Expired;
        self.is_release
            && matches!(fate, Fate::Ended { origin: Origin::Api, ending, .. } if *ending == expired)
    }
}

/// Splits operations into the parts in which Redis may decide them. If an API hold is released that has expired, the
/// release must be recorded before any later operation on the same hold is decided, so those begin another part.
pub(crate) fn parts(mut operations: &[Operation]) -> Vec<&[Operation]> {
    let mut parts = Vec::new();
    let mut released = HashSet::new();
    let mut at = 0;
    while let Some(operation) = operations.get(at) {
        let hold = BatchItem::Operation(operation).hold();
        if at == MAX_BATCH || hold.is_some_and(|hold| released.contains(hold)) {
            let (part, rest) = operations.split_at(at);
            parts.push(part);
            released.clear();
            (operations, at) = (rest, 0);
            continue;
        }
        if may_release_expired(operation) {
            released.extend(hold);
        }
        at += 1;
    }
    parts.push(operations);
    parts
}

/// Whether the operation may release an API hold that has expired.
fn may_release_expired(operation: &Operation) -> bool {
    match operation {
        Operation::Release { origin, .. } => *origin == Origin::Api,
        Operation::Capture { origin, amount, .. } => *origin == Origin::Api && amount.is_zero(),
        _ => false,
    }
}

/// Corrects the outcomes of captures and releases of API holds. A caller that names another account
/// than the hold's learns only that there is no such hold. A release is recorded before it is
/// acknowledged, even if the hold had expired, so that no later capture counts.
pub(crate) async fn correct_outcomes(
    shared: &Shared,
    operations: &[Operation],
    outcomes: &mut [Outcome],
) {
    let mut ends: Vec<_> = operations.iter().zip(outcomes).filter_map(RepeatedEnd::of).collect();
    if ends.is_empty() {
        return;
    }
    // Boxed, because it is rare and would make the future of every batch larger.
    if let Err(error) = Box::pin(correct(shared, &mut ends)).await {
        tracing::warn!(%error, "Postgres cannot say how a hold ended; the request gets 503");
        for end in ends {
            *end.outcome = Outcome::Refused(Refusal::Unavailable);
        }
    }
}

async fn correct(shared: &Shared, ends: &mut [RepeatedEnd<'_>]) -> Result<(), LedgerError> {
    shared.require_postgres()?;
    let fates = fates_of(shared, ends).await?;
    let mut expired = Vec::new();
    for end in ends.iter_mut() {
        let Some(fate) = fates.get(end.hold) else { continue };
        end.correct(fate);
        if end.releases_expired(fate) {
            expired.push(end.hold.clone());
        }
    }
    if expired.is_empty() {
        return Ok(());
    }
    postgres::release_expired(&shared.store, &expired).await?;
    let scripts = shared.epoch.require()?;
    // From now on Redis asks Postgres about these holds. A batch that has already read the old
    // records asks again.
    shared.redis.forget_endings(&scripts, &expired).await?;
    // Redis may have decided a late capture just before. If so, the capture counts and the release
    // does not.
    let fates = fates_of(shared, ends).await?;
    for end in ends.iter_mut() {
        if let Some(fate) = fates.get(end.hold) {
            end.correct(fate);
        }
    }
    let captured = fates.into_iter().filter(|(_, fate)| matches!(fate, Fate::Captured { .. }));
    let captured: Vec<_> = captured.map(|(id, _)| id).collect();
    if !captured.is_empty() {
        postgres::expire_released(&shared.store, &captured).await?;
    }
    Ok(())
}

async fn fates_of(
    shared: &Shared,
    ends: &[RepeatedEnd<'_>],
) -> Result<HashMap<HoldId, Fate>, LedgerError> {
    let ids: Vec<_> = ends.iter().map(|end| end.hold.clone()).collect();
    sync::catch_up_unless_stuck(shared, WRITTEN_WITHIN).await?;
    let fates = postgres::fates(&shared.store, &ids).await?;
    Ok(ids.into_iter().zip(fates).collect())
}
