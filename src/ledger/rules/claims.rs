//! The rules of claims: which call has the right to be forwarded and charged for a request.

use crate::account::AccountId;
use crate::ledger::claim::{
    Claim, ClaimId, ClaimState, Claimed, LATE_KEEP_MS, LEFT_MS, RequestMark,
};
use crate::ledger::operation::{HoldId, NewHold, OperationId, Origin, Outcome, Refusal};
use crate::ledger::rules::context::Rules;
use crate::ledger::rules::state::{KeyClaim, LeftCall, LeftState, Undo};

/// How a call's hold has ended, as far as its claim is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Without a charge.
    Released,
    /// With a charge.
    Charged,
    /// With a charge, after the hold had ended without one.
    ChargedLate,
}

impl End {
    /// The end of a hold that this outcome reports.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Captured { late: true, .. } => Self::ChargedLate,
            Outcome::Captured { .. } => Self::Charged,
            _ => Self::Released,
        }
    }
}

impl Rules<'_> {
    /// The call that has the claim which a new hold asks for, if another call has it. A retry that is told of a charged
    /// call uses that call up: no other retry is told of it.
    pub(super) fn claimed(&mut self, claim: &Claim) -> Option<Claimed> {
        match claim {
            Claim::Key { id, mark, .. } => {
                let taken = self.claim(id)?;
                let state = match (taken.mark, mark) {
                    (Some(first), Some(mark)) if first != *mark => ClaimState::Conflict,
                    _ if taken.charged => ClaimState::Charged,
                    _ => ClaimState::Running,
                };
                Some(Claimed { hold: taken.hold.clone(), state })
            }
            Claim::Retry { id } => {
                let now_ms = self.now.wall_ms;
                let is_open =
                    |left: &LeftCall| left.state != LeftState::Used && left.until_ms > now_ms;
                let left = self.state.claims.left_with(id).find(|(_, left)| is_open(left));
                let (hold, left) = left.map(|(hold, left)| (hold.clone(), *left))?;
                let state = if left.state == LeftState::Charged {
                    self.set_left(&hold, Some(LeftCall { state: LeftState::Used, ..left }));
                    ClaimState::Charged
                } else {
                    ClaimState::Running
                };
                Some(Claimed { hold, state })
            }
        }
    }

    /// Gives a claim under a key to the call whose credits were just set aside.
    pub(super) fn make_claim(&mut self, hold: &NewHold) {
        if let Some(Claim::Key { id, mark, keep_ms }) = hold.claim {
            let until_ms = self.in_ms(keep_ms);
            let hold = hold.id.clone();
            self.set_claim(id, Some(KeyClaim { hold, mark, until_ms, charged: false }));
        }
    }

    /// Stores the mark of the request that a claim is for, if the hold has the claim and no mark is stored yet.
    pub(super) fn mark_claim(
        &mut self,
        id: &ClaimId,
        hold: &HoldId,
        mark: RequestMark,
    ) -> Result<Outcome, Refusal> {
        if let Some(claim) = self.claim(id)
            && claim.hold == *hold
            && claim.mark.is_none()
        {
            let marked = KeyClaim { mark: Some(mark), ..claim.clone() };
            self.set_claim(*id, Some(marked));
        }
        Ok(Outcome::ClaimMarked)
    }

    /// Records that the client of a call left. A call that ended without a charge leaves no record.
    pub(super) fn leave(
        &mut self,
        id: ClaimId,
        hold: &HoldId,
        account: &AccountId,
    ) -> Result<Outcome, Refusal> {
        if self.state.claims.left(hold).is_some() {
            return Ok(Outcome::Left);
        }
        let live = self.state.holds.get(hold);
        let runs = live.is_some_and(|live| live.origin == Origin::Call && live.account == *account);
        let captured = || self.known.entries.get(&OperationId::capture(hold));
        let state = if runs {
            LeftState::Running
        } else if live.is_none() && captured().is_some_and(|entry| entry.account == *account) {
            LeftState::Charged
        } else {
            return Ok(Outcome::Left);
        };
        // Retries are told of the calls of one request in the order in which the clients left.
        let after_newest = self.state.claims.newest_left(&id).map_or(0, |ms| ms.saturating_add(1));
        let until_ms = self.in_ms(LEFT_MS).max(after_newest);
        self.set_left(hold, Some(LeftCall { id, state, until_ms }));
        Ok(Outcome::Left)
    }

    /// Settles the claim of a call whose hold has ended: a charged call keeps the claim, any other call gives it up.
    /// `named` is the claim that the operation names. Memory knows the claims of running calls.
    pub(super) fn settle_claim(&mut self, hold: &HoldId, named: Option<ClaimId>, end: End) {
        let charged = end != End::Released;
        if let Some(id) = named.or_else(|| self.state.claims.of_call(hold)) {
            match self.claim(&id) {
                Some(claim) if claim.hold != *hold || claim.charged && charged => {}
                Some(claim) => {
                    let claim = charged.then(|| KeyClaim { charged, ..claim.clone() });
                    self.set_claim(id, claim);
                }
                // The claim was removed when the hold expired.
                None if end == End::ChargedLate => {
                    let (hold, until_ms) = (hold.clone(), self.in_ms(LATE_KEEP_MS));
                    self.set_claim(id, Some(KeyClaim { hold, mark: None, until_ms, charged }));
                }
                None => {}
            }
        }
        if let Some(left) = self.state.claims.left(hold)
            && (left.state == LeftState::Running || !charged)
        {
            let state = LeftState::Charged;
            self.set_left(hold, charged.then_some(LeftCall { state, ..left }));
        }
    }

    /// The claim under an id; `None` if the id is free.
    fn claim(&self, id: &ClaimId) -> Option<&KeyClaim> {
        let claim = match self.state.claims.get(id) {
            Some(claim) => claim?,
            // Memory has the claims of all running calls, so a claim that only the table has must be charged.
            None => self.known.claims.get(id).filter(|claim| claim.charged)?,
        };
        (!claim.charged || claim.until_ms > self.now.wall_ms).then_some(claim)
    }

    /// Sets or removes a claim, and records the step that undoes this.
    fn set_claim(&mut self, id: ClaimId, claim: Option<KeyClaim>) {
        match claim.clone() {
            Some(claim) => drop(self.known.claims.insert(id, claim)),
            None => drop(self.known.claims.remove(&id)),
        }
        let before = self.state.claims.set(id, Some(claim.clone()));
        self.changes.undo.push(Undo::Claim(id, before));
        self.changes.claims.insert(id, claim);
    }

    /// Sets or removes the record of a call that was left, and records the step that undoes this.
    fn set_left(&mut self, hold: &HoldId, left: Option<LeftCall>) {
        let before = self.state.claims.set_left(hold, left);
        self.changes.undo.push(Undo::Left(hold.clone(), before));
        self.changes.left.insert(hold.clone(), left);
    }

    /// The moment `ms` milliseconds from now, in milliseconds since 1970.
    fn in_ms(&self, ms: u64) -> i64 {
        self.now.wall_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX))
    }
}
