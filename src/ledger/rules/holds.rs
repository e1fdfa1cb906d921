//! The rules by which one operation changes the state: a flat ladder of checks, idempotency before
//! business rules, and nothing is changed before the last check has passed.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};

use crate::ledger::crash::CRASH;
use crate::ledger::key::{KeyRecord, KnownKeys};
use crate::ledger::operation::{
    Balance, Ending, Entry, EntryKind, HoldEnd, HoldId, NewHold, OperationId, Origin, Outcome,
    Posting, Refusal,
};
use crate::ledger::rules::state::{Account, Changes, EndedHold, Known, LiveHold, Now, State, Undo};

/// One operation at work on the state.
pub(crate) struct Rules<'a> {
    pub state: &'a mut State,
    pub known: &'a mut Known,
    pub changes: &'a mut Changes,
    pub now: Now,
}

impl Rules<'_> {
    pub fn open(&mut self, id: &AccountId, signup: Credits) -> Result<Outcome, Refusal> {
        let new = !self.state.accounts.contains_key(id);
        if new {
            self.set_account(id, Account::default());
            if !signup.is_zero() {
                let operation = OperationId::signup(id);
                self.enter(id, operation, EntryKind::Grant, signup.signed(), None, None)?;
            }
        }
        Ok(Outcome::Opened { new })
    }

    pub fn hold(&mut self, hold: &NewHold) -> Result<Outcome, Refusal> {
        // Idempotency before business rules.
        if let Some(live) = self.state.holds.get(&hold.id) {
            let same = live.account == hold.account
                && live.amount == hold.amount
                && live.origin == hold.origin;
            return if same { Ok(self.held(&hold.account)) } else { Err(Refusal::Conflict) };
        }
        if self.known.ended.contains_key(&hold.id)
            || self.state.overtaken.contains_key(&hold.id)
            || self.known.entries.contains_key(&OperationId::capture(&hold.id))
        {
            return Err(Refusal::Ended);
        }
        if hold.amount.is_zero() {
            return Err(Refusal::Zero);
        }
        if self.state.is_frozen(&hold.account) {
            return Err(Refusal::Frozen);
        }
        let available = self.balance(&hold.account).available();
        if hold.amount.signed() > available {
            return Err(Refusal::Insufficient { available });
        }
        let account = self.state.accounts.get(&hold.account).copied().unwrap_or_default();
        let held = account.held.checked_add(hold.amount).ok_or(Refusal::OutOfRange)?;
        self.set_account(&hold.account, Account { held, ..account });
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
        Ok(self.held(&hold.account))
    }

    fn held(&self, account: &AccountId) -> Outcome {
        Outcome::Held { after: self.balance(account) }
    }

    pub fn renew(&mut self, id: &HoldId, ttl_ms: u64) -> Result<Outcome, Refusal> {
        let mut hold = self.state.holds.get(id).cloned().ok_or(Refusal::UnknownHold)?;
        hold.expires_ms = self.now.ledger_ms.saturating_add(ttl_ms);
        match (self.changes.holds_added.get_mut(id), hold.origin) {
            (Some(added), _) => added.expires_ms = hold.expires_ms,
            (None, Origin::Api) => {
                self.changes.holds_renewed.insert(id.clone(), hold.expires_ms);
            }
            // It does not outlive the process, so the disk need not know.
            (None, Origin::Call) => {}
        }
        self.set_hold(id, Some(hold));
        Ok(Outcome::Renewed)
    }

    pub fn capture(
        &mut self,
        id: &HoldId,
        account: Option<&AccountId>,
        amount: Credits,
        route: &Arc<str>,
        origin: Origin,
    ) -> Result<Outcome, Refusal> {
        let operation = OperationId::capture(id);
        self.is_of(id, account, origin)?;
        if let Some(entry) = self.known.entries.get(&operation) {
            if let Some(crash) = self.captured_for_a_crash(id, account, origin) {
                let after = self.correct(id, &crash, amount)?;
                return Ok(Outcome::Captured { after, late: false, settled: None });
            }
            let same = entry.amount == -amount.signed()
                && account.is_none_or(|account| *account == entry.account);
            let after = self.balance(&entry.account);
            let again = Outcome::Captured { after, late: false, settled: None };
            return if same { Ok(again) } else { Err(Refusal::Conflict) };
        }
        if let Some(live) = self.state.holds.get(id).cloned() {
            if live.origin != origin || account.is_some_and(|account| *account != live.account) {
                return Err(Refusal::UnknownHold);
            }
            if amount > live.amount {
                return Err(Refusal::AboveHold { held: live.amount });
            }
            if amount.is_zero() {
                return self.end(id, account, origin, Ending::Released);
            }
            return self.charge(id, live, amount, None);
        }
        self.capture_late(id, operation, account, amount, route, origin)
    }

    /// Charges a live hold `amount`, at most what it holds, and gives the rest back.
    pub(crate) fn charge(
        &mut self,
        id: &HoldId,
        live: LiveHold,
        amount: Credits,
        reason: Option<Arc<str>>,
    ) -> Result<Outcome, Refusal> {
        self.enter(
            &live.account,
            OperationId::capture(id),
            EntryKind::Capture,
            -amount.signed(),
            Some(live.route.clone()),
            reason,
        )?;
        self.lift_hold(id, &live);
        let after = self.balance(&live.account);
        let released = live.amount.checked_sub(amount).unwrap_or_default();
        let LiveHold { account, route, origin, .. } = live;
        let end = HoldEnd { account, route, captured: amount, released };
        Ok(Outcome::Captured { after, late: false, settled: told(origin, end) })
    }

    /// Refuses an API caller who names another account than the hold's: to them there is no such hold.
    fn is_of(
        &self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let Some(account) = account.filter(|_| origin == Origin::Api) else { return Ok(()) };
        let live = self.state.holds.get(id).map(|live| &live.account);
        let ended = || self.known.ended.get(id).and_then(|ended| ended.account.as_ref());
        let captured = || Some(&self.known.entries.get(&OperationId::capture(id))?.account);
        match live.or_else(captured).or_else(ended) {
            Some(owner) if owner != account => Err(Refusal::UnknownHold),
            _ => Ok(()),
        }
    }

    /// The capture of this call's hold, where it was made for a crash.
    pub(crate) fn captured_for_a_crash(
        &self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
    ) -> Option<Entry> {
        let entry = self.known.entries.get(&OperationId::capture(id))?;
        let is_crash = entry.reason.as_deref() == Some(CRASH);
        let is_its_call = origin == Origin::Call && account == Some(&entry.account);
        (is_crash && is_its_call).then(|| entry.clone())
    }

    /// A capture without a live hold: after its expiry, or (from a call) of a hold that a crash
    /// of the disk took. The work was done, so it counts, and may make a debt.
    fn capture_late(
        &mut self,
        id: &HoldId,
        operation: OperationId,
        account: Option<&AccountId>,
        amount: Credits,
        route: &Arc<str>,
        origin: Origin,
    ) -> Result<Outcome, Refusal> {
        let ended = self.known.ended.get(id);
        let owner = match (ended, account) {
            (Some(ended), _) if ended.ending == Ending::Released && !amount.is_zero() => {
                return Err(Refusal::Ended);
            }
            (Some(ended), _) if ended.origin != origin => return Err(Refusal::UnknownHold),
            (Some(ended), _) if amount > ended.amount => {
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
            return Ok(Outcome::Released { after: self.balance(&owner), settled: None });
        }
        let kind = EntryKind::Capture;
        self.enter(&owner, operation, kind, -amount.signed(), Some(route.clone()), None)?;
        let after = self.balance(&owner);
        let (route, released) = (route.clone(), Credits::ZERO);
        let end = HoldEnd { account: owner, route, captured: amount, released };
        Ok(Outcome::Captured { after, late: true, settled: told(origin, end) })
    }

    pub fn end(
        &mut self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
        ending: Ending,
    ) -> Result<Outcome, Refusal> {
        self.is_of(id, account, origin)?;
        if let Some(live) = self.state.holds.get(id).cloned() {
            if live.origin != origin || account.is_some_and(|account| *account != live.account) {
                return Err(Refusal::UnknownHold);
            }
            self.lift_hold(id, &live);
            self.bury(id, Some(live.account.clone()), live.amount, origin, ending);
            let after = self.balance(&live.account);
            let (captured, released) = (Credits::ZERO, live.amount);
            let LiveHold { account, route, .. } = live;
            let end = HoldEnd { account, route, captured, released };
            return Ok(Outcome::Released { after, settled: told(origin, end) });
        }
        if let Some(crash) = self.captured_for_a_crash(id, account, origin) {
            let after = self.correct(id, &crash, Credits::ZERO)?;
            return Ok(Outcome::Released { after, settled: None });
        }
        if self.known.entries.contains_key(&OperationId::capture(id)) {
            return Err(Refusal::Ended);
        }
        if let Some(ended) = self.known.ended.get(id).cloned() {
            let after = ended.account.as_ref().map(|a| self.balance(a)).unwrap_or_default();
            // From here on it is released for good: a capture that comes later is refused. A call's
            // guard ends its hold once.
            let is_api = (origin, ended.origin) == (Origin::Api, Origin::Api);
            if is_api && ended.ending == Ending::Expired {
                self.bury(id, ended.account, ended.amount, origin, Ending::Released);
            }
            return Ok(Outcome::Released { after, settled: None });
        }
        match (origin, account) {
            // The release overtook its hold: leave a tombstone, so that the hold is refused.
            (Origin::Call, Some(account)) => {
                self.bury(id, Some(account.clone()), Credits::ZERO, origin, ending);
                self.state.overtaken.insert(id.clone(), self.now.ledger_ms);
                self.changes.undo.push(Undo::Overtaken(id.clone()));
                Ok(Outcome::Released { after: self.balance(account), settled: None })
            }
            _ => Err(Refusal::UnknownHold),
        }
    }

    pub fn post(&mut self, posting: &Posting) -> Result<Outcome, Refusal> {
        if let Some(again) = self.posted_before(posting)? {
            return Ok(again);
        }
        if posting.amount == SignedCredits::ZERO {
            return Err(Refusal::Zero);
        }
        self.post_new(posting)
    }

    /// Grants what an account had in an earlier system. A balance of nothing is remembered as well:
    /// the account exists from then on, and its id takes effect once.
    pub fn grant_imported(&mut self, posting: &Posting) -> Result<Outcome, Refusal> {
        match self.posted_before(posting)? {
            Some(again) => Ok(again),
            None => self.post_new(posting),
        }
    }

    /// The answer to a posting that has taken effect; `None` for a new one.
    pub(crate) fn posted_before(&self, posting: &Posting) -> Result<Option<Outcome>, Refusal> {
        let Some(entry) = self.known.entries.get(&posting.id) else { return Ok(None) };
        let same = entry.account == posting.account
            && entry.kind == posting.kind
            && entry.amount == posting.amount;
        match same {
            true => Ok(Some(Outcome::Posted { entry: entry.clone(), new: false })),
            false => Err(Refusal::Conflict),
        }
    }

    fn post_new(&mut self, posting: &Posting) -> Result<Outcome, Refusal> {
        if !posting.kind.may_post(posting.amount) {
            return Err(Refusal::WrongWay);
        }
        let Posting { id, account, kind, amount, reason } = posting;
        let entry = self.enter(account, id.clone(), *kind, *amount, None, reason.clone())?;
        Ok(Outcome::Posted { entry, new: true })
    }

    /// Gives a capture back: a `part` of it under an id of its own, or what the parts left.
    pub fn refund(
        &mut self,
        hold: &HoldId,
        part: Option<(&OperationId, Credits)>,
        reason: Option<Arc<str>>,
    ) -> Result<Outcome, Refusal> {
        let operation = part.map_or_else(|| OperationId::refund(hold), |(id, _)| id.clone());
        if let Some(entry) = self.known.entries.get(&operation) {
            let same = part.is_none_or(|(_, amount)| entry.amount == amount.signed());
            let entry = entry.clone();
            return if same {
                Ok(Outcome::Posted { entry, new: false })
            } else {
                Err(Refusal::Conflict)
            };
        }
        let capture = self.known.entries.get(&OperationId::capture(hold));
        let capture = capture.cloned().ok_or(Refusal::UnknownCapture)?;
        let left = self.left_of(hold, &capture);
        let amount = part.map_or(left, |(_, amount)| amount);
        if part.is_some() && amount.is_zero() {
            return Err(Refusal::Zero);
        }
        if amount.is_zero() || amount > left {
            return Err(Refusal::AboveCapture { left });
        }
        let kind = EntryKind::Refund;
        let entry =
            self.enter(&capture.account, operation, kind, amount.signed(), capture.route, reason)?;
        Ok(Outcome::Posted { entry, new: true })
    }

    /// The part of a capture that has not been given back.
    pub(crate) fn left_of(&self, hold: &HoldId, capture: &Entry) -> Credits {
        let is_refund = |entry: &&Entry| {
            entry.kind == EntryKind::Refund && entry.operation.hold() == Some(hold.as_str())
        };
        let refunds = self.known.entries.values().filter(is_refund);
        let left = refunds.fold(-capture.amount, |left, refund| {
            left.checked_sub(refund.amount).unwrap_or(SignedCredits::ZERO)
        });
        left.spendable()
    }

    pub fn put_keys(&mut self, keys: &[KeyRecord]) -> Result<Outcome, Refusal> {
        let mut fresh = KnownKeys::default();
        let mut order = Vec::new();
        for key in keys {
            let there = |known: &KnownKeys| match known.by_hash(&key.hash) {
                Some(same) if same.account == key.account => Ok(true),
                Some(_) => Err(Refusal::Conflict),
                None if known.by_id(&key.id).is_some() => Err(Refusal::Conflict),
                None => Ok(false),
            };
            if !there(&self.known.keys)? && !there(&fresh)? {
                fresh.insert(key.clone());
                order.push(key);
            }
        }
        for key in &order {
            self.open(&key.account, Credits::ZERO)?;
            self.changes.keys_added.push((*key).clone());
            self.known.keys.insert((*key).clone());
        }
        Ok(Outcome::KeysStored { new: order.len() })
    }

    pub fn revoke_key(&mut self, id: &Arc<str>) -> Result<Outcome, Refusal> {
        let key = self.known.keys.by_id_mut(id);
        let key = key.ok_or(Refusal::UnknownKey)?;
        if key.revoked_at_ms.is_none() {
            key.revoked_at_ms = Some(self.now.wall_ms);
            self.changes.keys_revoked.push(id.clone());
        }
        Ok(Outcome::KeyRevoked)
    }

    /// Writes one line and moves the balance with it; the account comes to exist with it.
    pub(crate) fn enter(
        &mut self,
        id: &AccountId,
        operation: OperationId,
        kind: EntryKind,
        amount: SignedCredits,
        route: Option<Arc<str>>,
        reason: Option<Arc<str>>,
    ) -> Result<Entry, Refusal> {
        let account = self.state.accounts.get(id).copied().unwrap_or_default();
        let balance = account.balance.checked_add(amount).ok_or(Refusal::OutOfRange)?;
        let seq = account.seq.checked_add(1).ok_or(Refusal::OutOfRange)?;
        let entry = Entry {
            account: id.clone(),
            seq,
            operation: operation.clone(),
            kind,
            amount,
            balance_after: balance,
            route,
            reason,
            created_at_ms: self.now.wall_ms,
        };
        self.set_account(id, Account { balance, seq, ..account });
        self.known.entries.insert(operation, entry.clone());
        self.changes.entries.push(entry.clone());
        Ok(entry)
    }

    /// Takes a hold out of the state and gives its credits back to the account.
    fn lift_hold(&mut self, id: &HoldId, live: &LiveHold) {
        if let Some(account) = self.state.accounts.get(&live.account).copied() {
            debug_assert!(account.held >= live.amount, "an account holds what its holds add up to");
            let held = account.held.checked_sub(live.amount).unwrap_or_default();
            self.put_account(&live.account, Account { held, ..account });
        }
        self.set_hold(id, None);
        // A hold that came and went before it reached the disk leaves no row there.
        if self.changes.holds_added.remove(id).is_some() {
            return;
        }
        match live.origin {
            Origin::Call => *self.changes.calls_gone.entry(live.commit).or_default() += 1,
            Origin::Api => {
                self.changes.holds_renewed.remove(id);
                self.changes.holds_gone.push(id.clone());
            }
        }
    }

    fn bury(
        &mut self,
        id: &HoldId,
        account: Option<AccountId>,
        amount: Credits,
        origin: Origin,
        ending: Ending,
    ) {
        let ended = EndedHold { id: id.clone(), account, amount, origin, ending };
        self.known.ended.insert(id.clone(), ended.clone());
        self.changes.ended.push(ended);
    }

    pub(crate) fn balance(&self, account: &AccountId) -> Balance {
        self.state.balance(account).unwrap_or_default()
    }

    fn set_account(&mut self, id: &AccountId, account: Account) {
        let before = self.put_account(id, account);
        // A hold moves only `held`, which the disk derives from the holds themselves.
        if before.is_none_or(|b| (b.balance, b.seq) != (account.balance, account.seq)) {
            self.changes.touched.insert(id.clone());
        }
    }

    /// Puts it down so that it can be taken back; what was there before.
    fn put_account(&mut self, id: &AccountId, account: Account) -> Option<Account> {
        let before = self.state.accounts.insert(id.clone(), account);
        self.changes.undo.push(Undo::Account(id.clone(), before));
        before
    }

    fn set_hold(&mut self, id: &HoldId, hold: Option<LiveHold>) {
        let before = match hold {
            Some(hold) => {
                self.state.next_expiry_ms = self.state.next_expiry_ms.min(hold.expires_ms);
                self.state.holds.insert(id.clone(), hold)
            }
            None => self.state.holds.remove(id),
        };
        self.changes.undo.push(Undo::Hold(id.clone(), before));
    }
}

/// What became of a hold, for whoever has no guard that knows it.
fn told(origin: Origin, end: HoldEnd) -> Option<HoldEnd> {
    (origin == Origin::Api).then_some(end)
}
