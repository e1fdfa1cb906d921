//! The rules of claims, as plainly as they can be written. They share no code with the ledger and know no time:
//! claims, and the records of calls whose clients left, never expire.

use std::collections::BTreeMap;

use farebox::ledger::{Claim, ClaimId, ClaimState, Claimed, HoldId, RequestMark};

use crate::test_ledger::Kind;

/// A claim under a key.
#[derive(Clone, Debug)]
struct Taken {
    hold: HoldId,
    mark: Option<RequestMark>,
    charged: bool,
}

/// A call that its client left.
#[derive(Clone, Debug)]
struct Left {
    id: ClaimId,
    hold: HoldId,
    charged: bool,
    used: bool,
    expired: bool,
}

/// Every claim, and every call that was left, in the order in which they were left.
#[derive(Default)]
pub struct Claims {
    taken: BTreeMap<ClaimId, Taken>,
    left: Vec<Left>,
    /// Whether a retry is told of a call whose client left and that was charged late, after its hold had expired. The
    /// embedded ledger has forgotten the call by then.
    left_outlive_expiry: bool,
}

impl Claims {
    pub fn of(kind: Kind) -> Self {
        Self { left_outlive_expiry: !kind.is_embedded(), ..Self::default() }
    }

    /// The call that has the claim already, if one has.
    pub fn claimed(&mut self, claim: &Claim) -> Option<Claimed> {
        match claim {
            Claim::Key { id, mark, .. } => {
                let taken = self.taken.get(id)?;
                let differs = mark.is_some() && taken.mark.is_some() && taken.mark != *mark;
                let state = match (differs, taken.charged) {
                    (true, _) => ClaimState::Conflict,
                    (false, true) => ClaimState::Charged,
                    (false, false) => ClaimState::Running,
                };
                Some(Claimed { hold: taken.hold.clone(), state })
            }
            Claim::Retry { id } => {
                let left = self
                    .left
                    .iter_mut()
                    .find(|left| left.id == *id && !left.used && (left.charged || !left.expired))?;
                left.used = left.charged;
                let state = if left.charged { ClaimState::Charged } else { ClaimState::Running };
                Some(Claimed { hold: left.hold.clone(), state })
            }
        }
    }

    /// The claim is this call's from now on.
    pub fn take(&mut self, claim: &Claim, hold: &HoldId) {
        if let Claim::Key { id, mark, .. } = *claim {
            self.taken.insert(id, Taken { hold: hold.clone(), mark, charged: false });
        }
    }

    pub fn mark(&mut self, id: &ClaimId, hold: &HoldId, mark: RequestMark) {
        if let Some(taken) = self.taken.get_mut(id).filter(|taken| taken.hold == *hold) {
            taken.mark.get_or_insert(mark);
        }
    }

    /// The client of this call left. `charged`: whether the call is charged already.
    pub fn leave(&mut self, id: ClaimId, hold: &HoldId, charged: bool) {
        if self.left.iter().all(|left| left.hold != *hold) {
            self.left.push(Left { id, hold: hold.clone(), charged, used: false, expired: false });
        }
    }

    /// The call is charged; `late`: after its hold had ended without a charge.
    pub fn charge(&mut self, hold: &HoldId, claim: Option<ClaimId>, late: bool) {
        for taken in self.taken.values_mut().filter(|taken| taken.hold == *hold) {
            taken.charged = true;
        }
        if let Some(id) = claim.filter(|_| late) {
            let taken = Taken { hold: hold.clone(), mark: None, charged: true };
            self.taken.entry(id).or_insert(taken);
        }
        self.left.iter_mut().filter(|left| left.hold == *hold).for_each(|left| left.charged = true);
    }

    /// The time of the call's hold has run out.
    pub fn expire(&mut self, hold: &str) {
        if self.left_outlive_expiry {
            self.taken.retain(|_, taken| taken.hold.as_str() != hold);
            self.left
                .iter_mut()
                .filter(|left| left.hold.as_str() == hold)
                .for_each(|left| left.expired = true);
        } else {
            self.release(hold);
        }
    }

    /// The call is not charged.
    pub fn release(&mut self, hold: &str) {
        self.taken.retain(|_, taken| taken.hold.as_str() != hold);
        self.left.retain(|left| left.hold.as_str() != hold);
    }
}
