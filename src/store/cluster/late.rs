//! Ends of the API's holds that had ended before. The scripts know how a hold ended, and neither tell whose
//! it was nor make a hold that expired one that was released; Postgres does both, beside them.

use std::collections::HashMap;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, HoldId, Operation, Origin, Outcome, Refusal};
use crate::store::cluster::postgres::{self, Fate};

use crate::store::cluster::ledger::IN_TIME;
use crate::store::cluster::shared::Shared;

/// An end of a hold that was answered out of what is known of its id.
struct Late<'a> {
    hold: &'a HoldId,
    account: Option<&'a AccountId>,
    /// The caller is told that the hold is released.
    is_release: bool,
    outcome: &'a mut Outcome,
}

impl Late<'_> {
    /// The answer that Postgres gives instead, if it has one.
    fn correct(&mut self, fate: &Fate) {
        let owner = match fate {
            Fate::Live(account) | Fate::Captured { account, .. } | Fate::Ended { account, .. } => {
                Some(account)
            }
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

    /// Whether the hold has expired, and is to be released.
    fn is_to_be_released(&self, fate: &Fate) -> bool {
        let expired = Ending::Expired;
        self.is_release
            && matches!(fate, Fate::Ended { origin: Origin::Api, ending, .. } if *ending == expired)
    }
}

/// True for an operation behind which no other may stand in a batch: what it says about a hold that has
/// expired is recorded first.
pub(crate) fn ends_its_batch(operation: &Operation) -> bool {
    match operation {
        Operation::Release { origin, .. } => *origin == Origin::Api,
        Operation::Capture { origin, amount, .. } => *origin == Origin::Api && amount.is_zero(),
        _ => false,
    }
}

impl Shared {
    /// Goes over the answers to ends of the API's holds: to a service key that names another account
    /// there is no such hold; and a release is recorded before it is acknowledged, also where the hold had
    /// expired, so that no capture counts after it.
    pub async fn look_over_ends(&self, operations: &[Operation], outcomes: &mut [Outcome]) {
        let mut late: Vec<_> = operations.iter().zip(outcomes).filter_map(late).collect();
        if late.is_empty() {
            return;
        }
        if let Err(error) = self.correct_ends(&mut late).await {
            tracing::warn!(%error, "what became of a hold is not known");
            for late in late {
                *late.outcome = Outcome::Refused(Refusal::Unavailable);
            }
        }
    }

    async fn correct_ends(&self, late: &mut [Late<'_>]) -> Result<(), LedgerError> {
        self.need_postgres()?;
        let fates = self.fates_of(late).await?;
        let mut expired = Vec::new();
        for late in late.iter_mut() {
            let Some(fate) = fates.get(late.hold) else { continue };
            late.correct(fate);
            if late.is_to_be_released(fate) {
                expired.push(late.hold.clone());
            }
        }
        if expired.is_empty() {
            return Ok(());
        }
        postgres::release_expired(&self.store, &expired).await?;
        let scripts = self.open_scripts()?;
        // Later requests are answered from Postgres; a request that has read the hold before asks again.
        self.redis.forget_endings(&scripts, &expired).await?;
        // Redis may have taken a late capture until then: that one counts.
        let fates = self.fates_of(late).await?;
        for late in late.iter_mut() {
            if let Some(fate) = fates.get(late.hold) {
                late.correct(fate);
            }
        }
        let captured = fates.into_iter().filter(|(_, fate)| matches!(fate, Fate::Captured { .. }));
        let captured: Vec<_> = captured.map(|(id, _)| id).collect();
        if !captured.is_empty() {
            postgres::expire_released(&self.store, &captured).await?;
        }
        Ok(())
    }

    async fn fates_of(&self, late: &[Late<'_>]) -> Result<HashMap<HoldId, Fate>, LedgerError> {
        let ids: Vec<_> = late.iter().map(|late| late.hold.clone()).collect();
        self.drain_within(IN_TIME).await?;
        let fates = postgres::fates(&self.store, &ids).await?;
        Ok(ids.into_iter().zip(fates).collect())
    }
}

/// An end of an API hold whose answer says too little.
fn late<'a>((operation, outcome): (&'a Operation, &'a mut Outcome)) -> Option<Late<'a>> {
    let (hold, account) = match operation {
        Operation::Capture { hold, account, origin: Origin::Api, .. }
        | Operation::Release { hold, account, origin: Origin::Api } => (hold, account.as_ref()),
        _ => return None,
    };
    let is_release = matches!(outcome, Outcome::Released { end: None, .. });
    let refused = matches!(
        outcome,
        Outcome::Refused(Refusal::Conflict | Refusal::Ended | Refusal::AboveHold { .. })
    );
    (is_release || refused && account.is_some()).then_some(Late {
        hold,
        account,
        is_release,
        outcome,
    })
}
