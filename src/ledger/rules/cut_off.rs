//! The rules of calls that were cut off by a crash or a stop.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::claim::ClaimId;
use crate::ledger::crash::{AfterCrash, CRASH_REASON, CrashOutcome, CrashedCall};
use crate::ledger::operation::{
    Balance, Ending, Entry, EntryKind, HoldId, OperationId, Origin, Outcome, Refusal,
};
use crate::ledger::rules::claims::End;
use crate::ledger::rules::context::Rules;
use crate::ledger::rules::state::LiveHold;

/// The reason of the refund that corrects a capture which was made for a crash.
const CORRECTED_REASON: &str = "corrected";

impl Rules<'_> {
    /// Ends the hold of a call that was cut off. A hold that has ended, or was never granted, is not charged. `claim`
    /// is the claim of the call, if it is known.
    pub(super) fn abandon(
        &mut self,
        id: &HoldId,
        account: &AccountId,
        after: AfterCrash,
        claim: Option<ClaimId>,
    ) -> Result<Outcome, Refusal> {
        let ended = self.end_cut_off(id, account, after)?;
        self.settle_claim(id, claim, End::of(&ended));
        Ok(ended)
    }

    fn end_cut_off(
        &mut self,
        id: &HoldId,
        account: &AccountId,
        after: AfterCrash,
    ) -> Result<Outcome, Refusal> {
        let is_ours = |live: &&LiveHold| live.origin == Origin::Call && live.account == *account;
        let Some(live) = self.state.holds.get(id).filter(is_ours).cloned() else {
            // This operation was decided before, and is repeated because its outcome was lost.
            if let Some(charged) = self.captured_for_a_crash(id, Some(account), Origin::Call) {
                let after = self.balance(&charged.account);
                return Ok(Outcome::Captured { after, late: false, end: None });
            }
            return self.end(id, Some(account), Origin::Call, Ending::Released);
        };
        let (outcome, became) = match after {
            AfterCrash::Charge => {
                let reason = Some(CRASH_REASON.into());
                let charged = self.charge(id, live.clone(), live.amount, reason, None)?;
                (charged, CrashOutcome::Charged)
            }
            AfterCrash::Release => {
                let released = self.end(id, Some(account), Origin::Call, Ending::Released)?;
                (released, CrashOutcome::Released)
            }
        };
        self.list(id, account, &live.route, live.amount, became);
        Ok(outcome)
    }

    /// The entry that captured this call's hold for a crash, if there is such an entry.
    pub(super) fn captured_for_a_crash(
        &self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
    ) -> Option<Entry> {
        let entry = self.known.capture_of(id)?;
        let is_crash = entry.reason.as_deref() == Some(CRASH_REASON);
        let is_its_call = origin == Origin::Call && account == Some(&entry.account);
        (is_crash && is_its_call).then(|| entry.clone())
    }

    /// Corrects a capture that was made for a crash. The call's gateway had only been paused, and
    /// now reports that the call `used` less. Gives the difference back once, less the refunds of
    /// this capture that an operator has made.
    pub(super) fn correct(
        &mut self,
        id: &HoldId,
        capture: &Entry,
        used: Credits,
    ) -> Result<Balance, Refusal> {
        let charged = (-capture.amount).spendable();
        let operation = OperationId::corrected(id);
        if let Some(corrected) = self.known.entries.get(&operation) {
            let given = charged.checked_sub(used).unwrap_or_default();
            let limited = corrected.amount < given.signed() && self.left_of(id, capture).is_zero();
            let same = corrected.amount == given.signed() || limited;
            return if same { Ok(self.balance(&capture.account)) } else { Err(Refusal::Conflict) };
        }
        let too_much = charged.checked_sub(used).ok_or(Refusal::AboveHold { held: charged })?;
        let given = too_much.min(self.left_of(id, capture));
        if !given.is_zero() {
            self.add_entry(
                &capture.account,
                operation,
                EntryKind::Refund,
                given.signed(),
                capture.route.clone(),
                Some(CORRECTED_REASON.into()),
            )?;
        }
        let route = capture.route.clone().unwrap_or_default();
        self.list(id, &capture.account, &route, used, CrashOutcome::Corrected);
        Ok(self.balance(&capture.account))
    }

    /// Adds a call to the list of calls that were cut off, or replaces its entry there.
    fn list(
        &mut self,
        id: &HoldId,
        account: &AccountId,
        route: &Arc<str>,
        amount: Credits,
        outcome: CrashOutcome,
    ) {
        let (account, route) = (account.clone(), route.clone());
        let at_ms = self.now.wall_ms;
        let call = CrashedCall { id: id.clone(), account, route, amount, outcome, at_ms };
        self.changes.crashed.insert(id.clone(), call);
    }
}
