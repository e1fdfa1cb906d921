//! The claims in memory: the claims of running calls, the claims that are not written to the tables yet, and the calls
//! that their clients left.
//!
//! A charged claim lasts for a day, so there may be millions. Memory therefore keeps a charged claim only until the
//! claim is written; after that, the claim is looked up in its table.

use std::collections::BTreeSet;

use ahash::HashMap;

use crate::ledger::claim::{ClaimId, RequestMark};
use crate::ledger::operation::HoldId;

/// A claim under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyClaim {
    /// The hold of the call that has the claim.
    pub hold: HoldId,
    /// Recognises the call's request; `None` if the request is not known.
    pub mark: Option<RequestMark>,
    /// The time after which the claim of a charged call is free, in milliseconds since 1970.
    pub until_ms: i64,
    /// False while the call runs.
    pub charged: bool,
}

/// An SDK's call whose client left before the head of the answer was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftCall {
    /// The hash of the scope and the request. A retry of the request has the same hash.
    pub id: ClaimId,
    /// The state of the call.
    pub state: LeftState,
    /// The time after which no retry is told of the call, in milliseconds since 1970.
    pub until_ms: i64,
}

/// The state of a call whose client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftState {
    /// The call is not settled yet.
    Running,
    /// The call was charged, and no retry has had its answer.
    Charged,
    /// A retry has had its answer.
    Used,
}

impl LeftState {
    /// The word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Charged => "charged",
            Self::Used => "used",
        }
    }

    /// Reads [`LeftState::as_str`] back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Charged, Self::Used].into_iter().find(|s| s.as_str() == text)
    }
}

/// A claim as memory knows it: `None` if memory knows nothing about it, `Some(None)` if the claim is free although the
/// table may still have a row.
pub(crate) type Slot = Option<Option<KeyClaim>>;

/// The claims in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    by_id: HashMap<ClaimId, Option<KeyClaim>>,
    /// The claim of each running call that has one.
    of_call: HashMap<HoldId, ClaimId>,
    left: HashMap<HoldId, LeftCall>,
    /// The calls that were left with each id, sorted by the end of their time, which is the order in which their
    /// clients left.
    left_with: HashMap<ClaimId, BTreeSet<(i64, HoldId)>>,
}

impl Claims {
    /// The claim under an id, as far as memory knows it (see [`Slot`]).
    pub fn get(&self, id: &ClaimId) -> Option<Option<&KeyClaim>> {
        self.by_id.get(id).map(Option::as_ref)
    }

    /// Whether a running call has the claim.
    pub fn is_running(&self, id: &ClaimId) -> bool {
        self.by_id.get(id).and_then(Option::as_ref).is_some_and(|claim| !claim.charged)
    }

    /// The claim of a running call.
    pub fn of_call(&self, hold: &HoldId) -> Option<ClaimId> {
        // Most ledgers have no claims at all, so their calls skip the lookup.
        if self.of_call.is_empty() { None } else { self.of_call.get(hold).copied() }
    }

    /// Sets what memory knows about a claim; returns the previous knowledge.
    pub fn set(&mut self, id: ClaimId, slot: Slot) -> Slot {
        let running = |slot: &Slot| {
            let claim = slot.as_ref()?.as_ref()?;
            (!claim.charged).then(|| claim.hold.clone())
        };
        let now_of = running(&slot);
        let before = match slot {
            Some(claim) => self.by_id.insert(id, claim),
            None => self.by_id.remove(&id),
        };
        if let Some(hold) = running(&before) {
            self.of_call.remove(&hold);
        }
        if let Some(hold) = now_of {
            self.of_call.insert(hold, id);
        }
        before
    }

    /// Forgets those of the `written` claims whose calls do not run: the table has them now.
    pub fn forget_written<'a>(&mut self, written: impl Iterator<Item = &'a ClaimId>) {
        for id in written {
            if !self.is_running(id) {
                self.by_id.remove(id);
            }
        }
    }

    /// The claims of running calls, in no order.
    pub fn running(&self) -> impl Iterator<Item = (&ClaimId, &KeyClaim)> {
        let running = |(id, claim)| Some((id, Option::as_ref(claim)?));
        self.by_id.iter().filter_map(running).filter(|(_, claim)| !claim.charged)
    }

    /// The record of a call that was left.
    pub fn left(&self, hold: &HoldId) -> Option<LeftCall> {
        if self.left.is_empty() { None } else { self.left.get(hold).copied() }
    }

    /// The calls that were left with this id, in the order in which they were left.
    pub fn left_with(&self, id: &ClaimId) -> impl Iterator<Item = (&HoldId, &LeftCall)> {
        let holds = self.left_with.get(id).into_iter().flatten();
        holds.filter_map(|(_, hold)| self.left.get_key_value(hold))
    }

    /// The end of the time of the newest call that was left with this id, in milliseconds since 1970.
    pub fn newest_left(&self, id: &ClaimId) -> Option<i64> {
        self.left_with.get(id)?.last().map(|(until_ms, _)| *until_ms)
    }

    /// Sets or removes the record of a call that was left; returns the previous record.
    pub fn set_left(&mut self, hold: &HoldId, left: Option<LeftCall>) -> Option<LeftCall> {
        let before = match left {
            Some(left) => self.left.insert(hold.clone(), left),
            None => self.left.remove(hold),
        };
        if let Some(before) = before
            && let Some(holds) = self.left_with.get_mut(&before.id)
        {
            holds.remove(&(before.until_ms, hold.clone()));
            if holds.is_empty() {
                self.left_with.remove(&before.id);
            }
        }
        if let Some(left) = left {
            self.left_with.entry(left.id).or_default().insert((left.until_ms, hold.clone()));
        }
        before
    }

    /// Forgets the calls that were left so long ago that no retry is told of them.
    pub fn forget_left(&mut self, wall_ms: i64) {
        let late =
            |(hold, left): (&HoldId, &LeftCall)| (left.until_ms <= wall_ms).then(|| hold.clone());
        let late: Vec<_> = self.left.iter().filter_map(late).collect();
        for hold in late {
            self.set_left(&hold, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(hold: &str, charged: bool) -> KeyClaim {
        KeyClaim { hold: hold.parse().unwrap(), mark: None, until_ms: 0, charged }
    }

    #[test]
    fn memory_keeps_the_claims_of_running_calls_alone_once_they_are_written() {
        let mut claims = Claims::default();
        let ids = [1, 2, 3].map(|n| ClaimId::new([n; 32]));
        claims.set(ids[0], Some(Some(claim("runs", false))));
        claims.set(ids[1], Some(Some(claim("charged", true))));
        claims.set(ids[2], Some(None));
        claims.forget_written(ids.iter());
        assert_eq!(claims.by_id.len(), 1);
        assert_eq!(claims.of_call(&"runs".parse().unwrap()), Some(ids[0]));
        let before = claims.set(ids[0], Some(Some(claim("runs", true))));
        assert_eq!(before, Some(Some(claim("runs", false))));
        assert_eq!(claims.of_call(&"runs".parse().unwrap()), None);
        claims.forget_written(ids.iter());
        assert_eq!(claims, Claims::default());
    }

    #[test]
    fn calls_that_were_left_are_told_in_their_order_and_forgotten_with_time() {
        let mut claims = Claims::default();
        let id = ClaimId::new([7; 32]);
        let holds: Vec<HoldId> = ["b", "a", "c"].iter().map(|id| id.parse().unwrap()).collect();
        for (n, hold) in holds.iter().enumerate() {
            let left = LeftCall { id, state: LeftState::Running, until_ms: n as i64 };
            claims.set_left(hold, Some(left));
        }
        assert!(claims.left_with(&id).map(|(hold, _)| hold).eq(holds.iter()));
        claims.forget_left(1);
        assert!(claims.left_with(&id).map(|(hold, _)| hold).eq(&holds[2..]));
        claims.forget_left(2);
        assert_eq!(claims, Claims::default());
    }
}
