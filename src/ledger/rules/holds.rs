//! The rules of holds: make, extend, renew, capture and release.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::operation::{
    Ending, EntryKind, HoldEnd, HoldId, NewHold, OperationId, Origin, Outcome, Refusal,
};
use crate::ledger::rules::context::{NewEntry, Rules};
use crate::ledger::rules::state::{Account, EndedHold, LiveHold};
use crate::usage::UsageRecord;

/// The parameters of a capture.
#[derive(Clone, Copy)]
pub(super) struct Charge<'a> {
    pub amount: Credits,
    pub route: &'a Arc<str>,
    /// Whether the charge may be above the hold.
    pub may_overrun: bool,
    pub usage: Option<&'a Arc<UsageRecord>>,
}

impl Rules<'_> {
    /// Sets credits aside.
    pub(super) fn hold(&mut self, hold: &NewHold) -> Result<Outcome, Refusal> {
        if let Some(live) = self.state.holds.get(&hold.id) {
            let same = live.account == hold.account
                && live.amount == hold.amount
                && live.origin == hold.origin;
            return if same { Ok(self.held(&hold.account)) } else { Err(Refusal::Conflict) };
        }
        if self.has_ended(&hold.id) {
            return Err(Refusal::Ended);
        }
        if hold.amount.is_zero() {
            return Err(Refusal::Zero);
        }
        if self.state.is_frozen(&hold.account) {
            return Err(Refusal::Frozen);
        }
        let claim = hold.claim.as_ref().filter(|_| hold.origin == Origin::Call);
        match claim.and_then(|claim| self.claimed(claim)) {
            Some(claimed) if claimed.hold == hold.id => return Err(Refusal::Ended),
            Some(claimed) => return Ok(Outcome::Claimed(claimed)),
            None => {}
        }
        self.set_aside(&hold.account, hold.amount)?;
        let live = LiveHold {
            account: hold.account.clone(),
            amount: hold.amount,
            route: hold.route.clone(),
            origin: hold.origin,
            expires_ms: self.now.ledger_ms.saturating_add(hold.ttl_ms),
            commit: self.now.commit,
        };
        self.changes.holds_added.insert(hold.id.clone(), live.clone());
        self.set_hold(&hold.id, Some(live));
        if claim.is_some() {
            self.make_claim(hold);
        }
        Ok(self.held(&hold.account))
    }

    /// Sets more credits aside under the live hold of a call, up to `amount` in total.
    pub(super) fn extend(
        &mut self,
        id: &HoldId,
        account: &AccountId,
        amount: Credits,
    ) -> Result<Outcome, Refusal> {
        let Some(live) = self.state.holds.get(id).cloned() else {
            return Err(if self.has_ended(id) { Refusal::Ended } else { Refusal::UnknownHold });
        };
        if live.origin != Origin::Call || live.account != *account {
            return Err(Refusal::UnknownHold);
        }
        let more = amount.checked_sub(live.amount).unwrap_or_default();
        if !more.is_zero() {
            self.set_aside(account, more)?;
            self.replace_hold(id, LiveHold { amount, ..live });
        }
        Ok(self.held(account))
    }

    /// Whether the ledger knows that the hold has ended.
    fn has_ended(&self, id: &HoldId) -> bool {
        self.known.ended.contains_key(id)
            || self.state.early_releases.contains_key(id)
            || self.known.capture_of(id).is_some()
    }

    /// Moves credits of an account from available to held.
    fn set_aside(&mut self, id: &AccountId, amount: Credits) -> Result<(), Refusal> {
        if self.state.is_frozen(id) {
            return Err(Refusal::Frozen);
        }
        let available = self.balance(id).available();
        if amount.signed() > available {
            return Err(Refusal::Insufficient { available });
        }
        let account = self.state.accounts.get(id).copied().unwrap_or_default();
        let held = account.held.checked_add(amount).ok_or(Refusal::OutOfRange)?;
        self.set_account(id, Account { held, ..account });
        Ok(())
    }

    fn held(&self, account: &AccountId) -> Outcome {
        Outcome::Held { after: self.balance(account) }
    }

    /// Moves a hold's deadline to `ttl_ms` from now.
    pub(super) fn renew(&mut self, id: &HoldId, ttl_ms: u64) -> Result<Outcome, Refusal> {
        let mut hold = self.state.holds.get(id).cloned().ok_or(Refusal::UnknownHold)?;
        hold.expires_ms = self.now.ledger_ms.saturating_add(ttl_ms);
        match (self.changes.holds_added.get_mut(id), hold.origin) {
            (Some(added), _) => added.expires_ms = hold.expires_ms,
            (None, Origin::Api) => {
                self.changes.holds_renewed.insert(id.clone(), hold.expires_ms);
            }
            // A call's hold does not outlive the process, so its deadline is not stored.
            (None, Origin::Call) => {}
        }
        self.set_hold(id, Some(hold));
        Ok(Outcome::Renewed)
    }

    /// Charges a hold, in part or whole, and gives the rest back.
    pub(super) fn capture(
        &mut self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
        charge: Charge<'_>,
    ) -> Result<Outcome, Refusal> {
        let amount = charge.amount;
        self.check_owner(id, account, origin)?;
        if let Some(entry) = self.known.capture_of(id) {
            if let Some(crash) = self.captured_for_a_crash(id, account, origin) {
                // The whole hold was charged before. The part of the charge that exceeds the hold is not charged.
                let held = (-entry.amount).spendable();
                let used = if charge.may_overrun { amount.min(held) } else { amount };
                let after = self.correct(id, &crash, used)?;
                return Ok(Outcome::Captured { after, late: false, end: None });
            }
            let same = entry.amount == -amount.signed()
                && account.is_none_or(|account| *account == entry.account);
            let after = self.balance(&entry.account);
            let again = Outcome::Captured { after, late: false, end: None };
            return if same { Ok(again) } else { Err(Refusal::Conflict) };
        }
        if let Some(live) = self.state.holds.get(id).cloned() {
            if live.origin != origin || account.is_some_and(|account| *account != live.account) {
                return Err(Refusal::UnknownHold);
            }
            if amount > live.amount && !charge.may_overrun {
                return Err(Refusal::AboveHold { held: live.amount });
            }
            if amount.is_zero() {
                return self.end(id, account, origin, Ending::Released);
            }
            return self.charge(id, live, amount, None, charge.usage.cloned());
        }
        self.capture_late(id, account, origin, charge)
    }

    /// Charges `amount` and, if there is a live hold, gives its rest back.
    pub(super) fn charge(
        &mut self,
        id: &HoldId,
        live: LiveHold,
        amount: Credits,
        reason: Option<Arc<str>>,
        usage: Option<Arc<UsageRecord>>,
    ) -> Result<Outcome, Refusal> {
        let new = NewEntry {
            operation: OperationId::capture(id),
            kind: EntryKind::Capture,
            amount: -amount.signed(),
            route: Some(live.route.clone()),
            reason,
            usage,
        };
        self.add(&live.account, new)?;
        self.remove_hold(id, &live);
        let after = self.balance(&live.account);
        let released = live.amount.checked_sub(amount).unwrap_or_default();
        let LiveHold { account, route, origin, .. } = live;
        let end = HoldEnd { account, route, captured: amount, released };
        Ok(Outcome::Captured { after, late: false, end: for_api(origin, end) })
    }

    /// Refuses an API caller that names another account than the hold's, as if the hold did not
    /// exist.
    fn check_owner(
        &self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let Some(account) = account.filter(|_| origin == Origin::Api) else { return Ok(()) };
        let live = self.state.holds.get(id).map(|live| &live.account);
        let ended = || self.known.ended.get(id).and_then(|ended| ended.account.as_ref());
        let captured = || Some(&self.known.capture_of(id)?.account);
        match live.or_else(captured).or_else(ended) {
            Some(owner) if owner != account => Err(Refusal::UnknownHold),
            _ => Ok(()),
        }
    }

    /// Charges without a live hold: the hold has expired, or it belonged to a call and was lost in
    /// a crash. The call's work was done, so the charge counts, even if it leads to a debt.
    fn capture_late(
        &mut self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
        charge: Charge<'_>,
    ) -> Result<Outcome, Refusal> {
        let Charge { amount, route, may_overrun, usage } = charge;
        let ended = self.known.ended.get(id);
        let owner = match (ended, account) {
            (Some(ended), _) if ended.ending == Ending::Released && !amount.is_zero() => {
                return Err(Refusal::Ended);
            }
            (Some(ended), _) if ended.origin != origin => return Err(Refusal::UnknownHold),
            (Some(ended), _) if amount > ended.amount && !may_overrun => {
                return Err(Refusal::AboveHold { held: ended.amount });
            }
            (Some(ended), None) => ended.account.clone(),
            (Some(ended), Some(account)) if ended.account.as_ref() != Some(account) => None,
            (Some(_), Some(account)) => Some(account.clone()),
            (None, Some(account)) if origin == Origin::Call => Some(account.clone()),
            (None, _) => None,
        };
        let owner = owner.ok_or(Refusal::UnknownHold)?;
        if amount.is_zero() && ended.is_some() {
            return self.end(id, account, origin, Ending::Released);
        }
        if amount.is_zero() {
            return Ok(Outcome::Released { after: self.balance(&owner), end: None });
        }
        let new = NewEntry {
            operation: OperationId::capture(id),
            kind: EntryKind::Capture,
            amount: -amount.signed(),
            route: Some(route.clone()),
            reason: None,
            usage: usage.cloned(),
        };
        self.add(&owner, new)?;
        let after = self.balance(&owner);
        let (route, released) = (route.clone(), Credits::ZERO);
        let end = HoldEnd { account: owner, route, captured: amount, released };
        Ok(Outcome::Captured { after, late: true, end: for_api(origin, end) })
    }

    /// Ends a hold without a charge.
    pub(super) fn end(
        &mut self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
        ending: Ending,
    ) -> Result<Outcome, Refusal> {
        self.check_owner(id, account, origin)?;
        if let Some(live) = self.state.holds.get(id).cloned() {
            if live.origin != origin || account.is_some_and(|account| *account != live.account) {
                return Err(Refusal::UnknownHold);
            }
            self.remove_hold(id, &live);
            self.record_ended(EndedHold {
                id: id.clone(),
                account: Some(live.account.clone()),
                amount: live.amount,
                origin,
                ending,
            });
            let after = self.balance(&live.account);
            let (captured, released) = (Credits::ZERO, live.amount);
            let LiveHold { account, route, .. } = live;
            let end = HoldEnd { account, route, captured, released };
            return Ok(Outcome::Released { after, end: for_api(origin, end) });
        }
        if let Some(crash) = self.captured_for_a_crash(id, account, origin) {
            let after = self.correct(id, &crash, Credits::ZERO)?;
            return Ok(Outcome::Released { after, end: None });
        }
        if self.known.capture_of(id).is_some() {
            return Err(Refusal::Ended);
        }
        if let Some(ended) = self.known.ended.get(id).cloned() {
            let is_another = |owner| account.is_some_and(|account| account != owner);
            if ended.account.as_ref().is_some_and(is_another) {
                return Err(Refusal::UnknownHold);
            }
            let after = ended.account.as_ref().map(|a| self.balance(a)).unwrap_or_default();
            // An API caller releases a hold that had expired. From now on the hold counts as
            // released, so a later capture is refused. (A call's guard ends its hold only once.)
            let is_api = (origin, ended.origin) == (Origin::Api, Origin::Api);
            if is_api && ended.ending == Ending::Expired {
                self.record_ended(EndedHold { ending: Ending::Released, ..ended });
            }
            return Ok(Outcome::Released { after, end: None });
        }
        match (origin, account) {
            // The release of a call has arrived before its hold.
            (Origin::Call, Some(account)) => {
                self.record_early_release(id, account.clone(), ending);
                Ok(Outcome::Released { after: self.balance(account), end: None })
            }
            _ => Err(Refusal::UnknownHold),
        }
    }
}

/// The amounts with which a hold ended, for an API caller. `None` for a call, whose guard knows the amounts.
fn for_api(origin: Origin, end: HoldEnd) -> Option<HoldEnd> {
    (origin == Origin::Api).then_some(end)
}
