//! The balances in memory, and the rules by which an operation changes them: the heart of the
//! embedded ledger. Pure: time and what the disk knows are passed in, and what must reach the
//! disk comes out as [`Changes`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};

use super::key::{KeyHash, KeyRecord};
use super::operation::{
    Balance, Ending, Entry, EntryKind, HoldId, NewHold, Operation, OperationId, Origin, Outcome,
    Posting, Refusal,
};

/// What memory keeps of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub balance: SignedCredits,
    pub held: Credits,
    /// The sequence number of the newest entry; 0 before the first.
    pub seq: u64,
}

impl Account {
    fn balance(&self) -> Balance {
        Balance { balance: self.balance, held: self.held }
    }
}

/// A hold that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveHold {
    pub account: AccountId,
    pub amount: Credits,
    pub route: Arc<str>,
    pub origin: Origin,
    /// On the ledger's clock, in milliseconds.
    pub expires_ms: u64,
    /// The number of the commit that writes it.
    pub commit: i64,
}

/// A hold that ended without a charge, kept so that its id takes effect once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndedHold {
    pub id: HoldId,
    pub account: Option<AccountId>,
    pub amount: Credits,
    pub origin: Origin,
    pub ending: Ending,
}

/// What the disk knows of the ids in a batch that memory does not. Decisions of the batch add
/// to it, so that the same id twice in one batch is decided once.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub entries: HashMap<OperationId, Entry>,
    pub ended: HashMap<HoldId, EndedHold>,
    pub keys: Vec<KeyRecord>,
}

/// Which ids of a batch the disk must be asked for.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    pub operations: Vec<OperationId>,
    pub holds: Vec<HoldId>,
    pub key_hashes: Vec<KeyHash>,
    pub key_ids: Vec<Arc<str>>,
}

impl Lookups {
    /// True where memory alone can decide the batch: the usual case.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
            && self.holds.is_empty()
            && self.key_hashes.is_empty()
            && self.key_ids.is_empty()
    }
}

/// What a batch changed: the rows to write, and how to take it back.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub holds_added: HashMap<HoldId, LiveHold>,
    /// The API's holds that are live on disk and no longer so.
    pub holds_gone: Vec<HoldId>,
    /// How many calls' holds, of those that each commit wrote, have ended.
    pub calls_gone: HashMap<i64, usize>,
    pub holds_renewed: HashMap<HoldId, u64>,
    pub ended: Vec<EndedHold>,
    pub entries: Vec<Entry>,
    /// Accounts whose row changes.
    pub touched: HashSet<AccountId>,
    pub keys_added: Vec<KeyRecord>,
    pub keys_revoked: Vec<Arc<str>>,
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Account(AccountId, Option<Account>),
    Hold(HoldId, Option<LiveHold>),
    Overtaken(HoldId),
}

impl Changes {
    /// True where there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.holds_added.is_empty()
            && self.holds_gone.is_empty()
            && self.calls_gone.is_empty()
            && self.holds_renewed.is_empty()
            && self.ended.is_empty()
            && self.entries.is_empty()
            && self.touched.is_empty()
            && self.keys_added.is_empty()
            && self.keys_revoked.is_empty()
    }

    /// From here on the changes stand, whatever the disk says: they were acknowledged.
    pub fn pin(&mut self) {
        self.undo.clear();
    }
}

/// Every balance and every live hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    accounts: HashMap<AccountId, Account>,
    holds: HashMap<HoldId, LiveHold>,
    /// No hold expires before this, in milliseconds of the ledger's clock.
    next_expiry_ms: u64,
    /// Calls' holds that were released before they came, and when: so that the hold is refused
    /// without asking the disk about every new call. Few: it takes a release to overtake its hold.
    overtaken: HashMap<HoldId, u64>,
}

/// How long a release waits for the hold that it overtook: as long as a hold nobody renews lives.
const OVERTAKEN_KEPT_MS: u64 = super::hold::CALL_TTL_MS;

impl Books {
    pub fn insert_account(&mut self, id: AccountId, account: Account) {
        self.accounts.insert(id, account);
    }

    /// Takes up a live hold found on disk; `false` where its account is missing or the sum of
    /// its holds leaves the range.
    pub fn insert_hold(&mut self, id: HoldId, hold: LiveHold) -> bool {
        let Some(account) = self.accounts.get_mut(&hold.account) else { return false };
        let Some(held) = account.held.checked_add(hold.amount) else { return false };
        account.held = held;
        self.next_expiry_ms = self.next_expiry_ms.min(hold.expires_ms);
        self.holds.insert(id, hold);
        true
    }

    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    pub fn accounts(&self) -> impl Iterator<Item = (&AccountId, &Account)> {
        self.accounts.iter()
    }

    pub fn holds(&self) -> impl Iterator<Item = (&HoldId, &LiveHold)> {
        self.holds.iter()
    }

    /// Forgets the releases whose holds will not come any more.
    pub fn forget_overtaken(&mut self, now_ms: u64) {
        self.overtaken.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < OVERTAKEN_KEPT_MS);
    }

    /// The holds whose time has run out.
    pub fn expired(&mut self, now_ms: u64) -> Vec<HoldId> {
        if now_ms < self.next_expiry_ms {
            return Vec::new();
        }
        let (mut expired, mut next) = (Vec::new(), u64::MAX);
        for (id, hold) in &self.holds {
            if hold.expires_ms <= now_ms {
                expired.push(id.clone());
            } else {
                next = next.min(hold.expires_ms);
            }
        }
        self.next_expiry_ms = next;
        expired
    }

    /// Which ids of `batch` only the disk can know. A new call's id was made for it, and a live
    /// hold is here, so a batch of plain calls needs nothing.
    pub fn lookups(&self, batch: &[Operation]) -> Lookups {
        let mut wanted = Lookups::default();
        for operation in batch {
            match operation {
                Operation::Hold(hold) if hold.origin == Origin::Api => {
                    wanted.operations.push(OperationId::capture(&hold.id));
                    wanted.holds.push(hold.id.clone());
                }
                Operation::Capture { hold, .. } | Operation::Release { hold, .. }
                    if !self.holds.contains_key(hold) =>
                {
                    wanted.operations.push(OperationId::capture(hold));
                    wanted.holds.push(hold.clone());
                }
                Operation::Post(posting) => wanted.operations.push(posting.id.clone()),
                Operation::Refund { hold, .. } => {
                    wanted.operations.push(OperationId::capture(hold));
                    wanted.operations.push(OperationId::refund(hold));
                }
                Operation::PutKeys(keys) => {
                    wanted.key_hashes.extend(keys.iter().map(|key| key.hash));
                    wanted.key_ids.extend(keys.iter().map(|key| key.id.clone()));
                }
                Operation::RevokeKey { id } => wanted.key_ids.push(id.clone()),
                Operation::Hold(_)
                | Operation::Capture { .. }
                | Operation::Release { .. }
                | Operation::Open { .. }
                | Operation::Renew { .. }
                | Operation::Audit
                | Operation::Fold { .. }
                | Operation::Balance { .. } => {}
            }
        }
        wanted
    }

    /// Takes back what `changes` did since it was last pinned.
    pub fn roll_back(&mut self, changes: &mut Changes) {
        while let Some(undo) = changes.undo.pop() {
            match undo {
                Undo::Account(id, Some(account)) => drop(self.accounts.insert(id, account)),
                Undo::Account(id, None) => drop(self.accounts.remove(&id)),
                Undo::Hold(id, Some(hold)) => {
                    self.next_expiry_ms = self.next_expiry_ms.min(hold.expires_ms);
                    self.holds.insert(id, hold);
                }
                Undo::Hold(id, None) => drop(self.holds.remove(&id)),
                Undo::Overtaken(id) => drop(self.overtaken.remove(&id)),
            }
        }
    }

    /// Decides one operation, and changes memory if it is granted.
    pub fn decide(
        &mut self,
        operation: &Operation,
        known: &mut Known,
        changes: &mut Changes,
        now: Now,
    ) -> Outcome {
        let mut desk = Desk { books: self, known, changes, now };
        let decided = match operation {
            Operation::Open { account, signup } => desk.open(account, *signup),
            Operation::Hold(hold) => desk.hold(hold),
            Operation::Renew { hold, ttl_ms } => desk.renew(hold, *ttl_ms),
            Operation::Capture { hold, account, amount, route, origin } => {
                desk.capture(hold, account.as_ref(), *amount, route, *origin)
            }
            Operation::Release { hold, account, origin } => {
                desk.end(hold, account.as_ref(), *origin, Ending::Released)
            }
            Operation::Post(posting) => desk.post(posting),
            Operation::Refund { hold, reason } => desk.refund(hold, reason.clone()),
            Operation::PutKeys(keys) => desk.put_keys(keys),
            Operation::RevokeKey { id } => desk.revoke_key(id),
            Operation::Balance { account } => {
                Ok(Outcome::Balance(desk.books.account(account).map(Account::balance)))
            }
            // These concern the disk: the backend answers them itself.
            Operation::Audit | Operation::Fold { .. } => Err(Refusal::Unavailable),
        };
        decided.unwrap_or_else(Outcome::Refused)
    }

    /// Gives a hold whose time has run out another `ttl_ms`.
    pub fn renew(&mut self, hold: &HoldId, ttl_ms: u64, changes: &mut Changes, now: Now) {
        let mut desk = Desk { books: self, known: &mut Known::default(), changes, now };
        // It was found in the books, so it can be renewed.
        let _ = desk.renew(hold, ttl_ms);
    }

    /// Ends a hold whose time has run out.
    pub fn expire(&mut self, hold: &HoldId, changes: &mut Changes, now: Now) -> Option<LiveHold> {
        let live = self.holds.get(hold)?.clone();
        let mut desk = Desk { books: self, known: &mut Known::default(), changes, now };
        desk.end(hold, Some(&live.account), live.origin, Ending::Expired).ok()?;
        Some(live)
    }
}

/// When a batch is decided: by the two clocks, and in the order of commits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For entries: milliseconds since 1970, as people's clocks show it.
    pub wall_ms: i64,
    /// For deadlines: the ledger's own clock, which never jumps.
    pub ledger_ms: u64,
    /// The number of the commit that will write what is decided now.
    pub commit: i64,
}

/// One operation at work on the books.
struct Desk<'a> {
    books: &'a mut Books,
    known: &'a mut Known,
    changes: &'a mut Changes,
    now: Now,
}

impl Desk<'_> {
    fn open(&mut self, id: &AccountId, signup: Credits) -> Result<Outcome, Refusal> {
        let new = !self.books.accounts.contains_key(id);
        if new {
            self.set_account(id, Account::default());
            if !signup.is_zero() {
                let operation = OperationId::signup(id);
                self.enter(id, operation, EntryKind::Grant, signup.signed(), None, None)?;
            }
        }
        Ok(Outcome::Opened { new })
    }

    fn hold(&mut self, hold: &NewHold) -> Result<Outcome, Refusal> {
        // Idempotency before business rules.
        if let Some(live) = self.books.holds.get(&hold.id) {
            let same = live.account == hold.account
                && live.amount == hold.amount
                && live.origin == hold.origin;
            return if same { Ok(self.held(&hold.account)) } else { Err(Refusal::Conflict) };
        }
        if self.known.ended.contains_key(&hold.id)
            || self.books.overtaken.contains_key(&hold.id)
            || self.known.entries.contains_key(&OperationId::capture(&hold.id))
        {
            return Err(Refusal::Ended);
        }
        if hold.amount.is_zero() {
            return Err(Refusal::Zero);
        }
        let account = self.books.accounts.get(&hold.account).copied().unwrap_or_default();
        let available = account.balance().available();
        if hold.amount.signed() > available {
            return Err(Refusal::Insufficient { available });
        }
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

    fn renew(&mut self, id: &HoldId, ttl_ms: u64) -> Result<Outcome, Refusal> {
        let mut hold = self.books.holds.get(id).cloned().ok_or(Refusal::UnknownHold)?;
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

    fn capture(
        &mut self,
        id: &HoldId,
        account: Option<&AccountId>,
        amount: Credits,
        route: &Arc<str>,
        origin: Origin,
    ) -> Result<Outcome, Refusal> {
        let operation = OperationId::capture(id);
        if let Some(entry) = self.known.entries.get(&operation) {
            let same = entry.amount == -amount.signed()
                && account.is_none_or(|account| *account == entry.account);
            let after = self.balance(&entry.account);
            let again = Outcome::Captured { after, late: false };
            return if same { Ok(again) } else { Err(Refusal::Conflict) };
        }
        if let Some(live) = self.books.holds.get(id).cloned() {
            if live.origin != origin || account.is_some_and(|account| *account != live.account) {
                return Err(Refusal::UnknownHold);
            }
            if amount > live.amount {
                return Err(Refusal::AboveHold { held: live.amount });
            }
            if amount.is_zero() {
                return self.end(id, account, origin, Ending::Released);
            }
            self.enter(
                &live.account,
                operation,
                EntryKind::Capture,
                -amount.signed(),
                Some(live.route.clone()),
                None,
            )?;
            self.lift_hold(id, &live);
            let after = self.balance(&live.account);
            return Ok(Outcome::Captured { after, late: false });
        }
        self.capture_late(id, operation, account, amount, route, origin)
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
            (Some(ended), _) if ended.ending == Ending::Released => return Err(Refusal::Ended),
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
        if amount.is_zero() {
            return Ok(Outcome::Released { after: self.balance(&owner) });
        }
        let route = Some(route.clone());
        self.enter(&owner, operation, EntryKind::Capture, -amount.signed(), route, None)?;
        Ok(Outcome::Captured { after: self.balance(&owner), late: true })
    }

    fn end(
        &mut self,
        id: &HoldId,
        account: Option<&AccountId>,
        origin: Origin,
        ending: Ending,
    ) -> Result<Outcome, Refusal> {
        if let Some(live) = self.books.holds.get(id).cloned() {
            if live.origin != origin || account.is_some_and(|account| *account != live.account) {
                return Err(Refusal::UnknownHold);
            }
            self.lift_hold(id, &live);
            self.bury(id, Some(live.account.clone()), live.amount, origin, ending);
            return Ok(Outcome::Released { after: self.balance(&live.account) });
        }
        if self.known.entries.contains_key(&OperationId::capture(id)) {
            return Err(Refusal::Ended);
        }
        if let Some(ended) = self.known.ended.get(id) {
            let after = ended.account.as_ref().map(|a| self.balance(a)).unwrap_or_default();
            return Ok(Outcome::Released { after });
        }
        match (origin, account) {
            // The release overtook its hold: leave a tombstone, so that the hold is refused.
            (Origin::Call, Some(account)) => {
                self.bury(id, Some(account.clone()), Credits::ZERO, origin, ending);
                self.books.overtaken.insert(id.clone(), self.now.ledger_ms);
                self.changes.undo.push(Undo::Overtaken(id.clone()));
                Ok(Outcome::Released { after: self.balance(account) })
            }
            _ => Err(Refusal::UnknownHold),
        }
    }

    fn post(&mut self, posting: &Posting) -> Result<Outcome, Refusal> {
        if let Some(entry) = self.known.entries.get(&posting.id) {
            let same = entry.account == posting.account
                && entry.kind == posting.kind
                && entry.amount == posting.amount;
            let entry = entry.clone();
            return if same {
                Ok(Outcome::Posted { entry, new: false })
            } else {
                Err(Refusal::Conflict)
            };
        }
        if posting.amount == SignedCredits::ZERO {
            return Err(Refusal::Zero);
        }
        if !posting.kind.may_post(posting.amount) {
            return Err(Refusal::WrongWay);
        }
        let Posting { id, account, kind, amount, reason } = posting;
        let entry = self.enter(account, id.clone(), *kind, *amount, None, reason.clone())?;
        Ok(Outcome::Posted { entry, new: true })
    }

    fn refund(&mut self, hold: &HoldId, reason: Option<Arc<str>>) -> Result<Outcome, Refusal> {
        let operation = OperationId::refund(hold);
        if let Some(entry) = self.known.entries.get(&operation) {
            return Ok(Outcome::Posted { entry: entry.clone(), new: false });
        }
        let capture = self.known.entries.get(&OperationId::capture(hold));
        let capture = capture.cloned().ok_or(Refusal::UnknownCapture)?;
        let entry = self.enter(
            &capture.account,
            operation,
            EntryKind::Refund,
            -capture.amount,
            capture.route,
            reason,
        )?;
        Ok(Outcome::Posted { entry, new: true })
    }

    fn put_keys(&mut self, keys: &[KeyRecord]) -> Result<Outcome, Refusal> {
        let mut fresh: Vec<&KeyRecord> = Vec::new();
        for key in keys {
            let there = self.known.keys.iter().chain(fresh.iter().copied());
            match there.into_iter().find(|k| k.hash == key.hash || k.id == key.id) {
                Some(k) if k.hash == key.hash && k.account == key.account => {}
                Some(_) => return Err(Refusal::Conflict),
                None => fresh.push(key),
            }
        }
        for key in &fresh {
            self.open(&key.account, Credits::ZERO)?;
            self.changes.keys_added.push((*key).clone());
            self.known.keys.push((*key).clone());
        }
        Ok(Outcome::KeysStored { new: fresh.len() })
    }

    fn revoke_key(&mut self, id: &Arc<str>) -> Result<Outcome, Refusal> {
        let key = self.known.keys.iter_mut().find(|key| key.id == *id);
        let key = key.ok_or(Refusal::UnknownKey)?;
        if key.revoked_at_ms.is_none() {
            key.revoked_at_ms = Some(self.now.wall_ms);
            self.changes.keys_revoked.push(id.clone());
        }
        Ok(Outcome::KeyRevoked)
    }

    /// Writes one line and moves the balance with it; the account comes to exist with it.
    fn enter(
        &mut self,
        id: &AccountId,
        operation: OperationId,
        kind: EntryKind,
        amount: SignedCredits,
        route: Option<Arc<str>>,
        reason: Option<Arc<str>>,
    ) -> Result<Entry, Refusal> {
        let account = self.books.accounts.get(id).copied().unwrap_or_default();
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

    /// Takes a hold out of the books and gives its credits back to the account.
    fn lift_hold(&mut self, id: &HoldId, live: &LiveHold) {
        if let Some(account) = self.books.accounts.get(&live.account).copied() {
            debug_assert!(account.held >= live.amount, "an account holds what its holds add up to");
            let held = account.held.checked_sub(live.amount).unwrap_or_default();
            self.remember_account(&live.account);
            self.books.accounts.insert(live.account.clone(), Account { held, ..account });
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

    fn balance(&self, account: &AccountId) -> Balance {
        self.books.account(account).map(Account::balance).unwrap_or_default()
    }

    fn set_account(&mut self, id: &AccountId, account: Account) {
        self.remember_account(id);
        let before = self.books.accounts.insert(id.clone(), account);
        // A hold moves only `held`, which the disk derives from the holds themselves.
        if before.is_none_or(|b| (b.balance, b.seq) != (account.balance, account.seq)) {
            self.changes.touched.insert(id.clone());
        }
    }

    fn remember_account(&mut self, id: &AccountId) {
        let before = self.books.accounts.get(id).copied();
        self.changes.undo.push(Undo::Account(id.clone(), before));
    }

    fn set_hold(&mut self, id: &HoldId, hold: Option<LiveHold>) {
        let before = match hold {
            Some(hold) => {
                self.books.next_expiry_ms = self.books.next_expiry_ms.min(hold.expires_ms);
                self.books.holds.insert(id.clone(), hold)
            }
            None => self.books.holds.remove(id),
        };
        self.changes.undo.push(Undo::Hold(id.clone(), before));
    }
}
