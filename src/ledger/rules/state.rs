//! The balances in memory, and what a batch changes of them: the heart of the embedded ledger. The
//! rules by which an operation is decided are in `rules.rs`. Pure: time and what the disk knows are passed in, and what must reach the
//! disk comes out as [`Changes`].

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::{HashMap, HashSet};

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};

use crate::ledger::crash::{AfterCrash, CrashedCall};
use crate::ledger::imports::ImportRow;
use crate::ledger::inbox::StripeEvent;
use crate::ledger::key::{KeyHash, KeyRecord, KnownKeys};
use crate::ledger::operation::{
    Balance, Ending, Entry, HoldId, Operation, OperationId, Origin, Outcome, Refusal,
};
use crate::ledger::payment::Payment;
use crate::ledger::rules::holds::Rules;
use crate::ledger::rules::known_payments::KnownPayments;

/// What memory keeps of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub balance: SignedCredits,
    pub held: Credits,
    /// The sequence number of the newest entry; 0 before the first.
    pub seq: u64,
}

/// A hold that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveHold {
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
pub(crate) struct EndedHold {
    pub id: HoldId,
    pub account: Option<AccountId>,
    pub amount: Credits,
    pub origin: Origin,
    pub ending: Ending,
}

/// What the disk knows of the ids in a batch that memory does not. Decisions of the batch add
/// to it, so that the same id twice in one batch is decided once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub entries: HashMap<OperationId, Entry>,
    pub ended: HashMap<HoldId, EndedHold>,
    pub keys: KnownKeys,
    pub events: HashMap<Arc<str>, StripeEvent>,
    pub payments: KnownPayments,
    pub customers: HashMap<AccountId, Arc<str>>,
}

/// An account's customer at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptCustomer {
    pub account: AccountId,
    pub customer: Arc<str>,
}

/// Which ids of a batch the disk must be asked for.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    pub operations: Vec<OperationId>,
    /// Holds of whose captures each part that was given back is wanted.
    pub refunds: Vec<HoldId>,
    pub holds: Vec<HoldId>,
    pub key_hashes: Vec<KeyHash>,
    pub key_ids: Vec<Arc<str>>,
    pub events: Vec<Arc<str>>,
    /// Names of payments: Stripe's ids.
    pub payments: Vec<Arc<str>>,
    /// Whose customers.
    pub customers: Vec<AccountId>,
}

impl Lookups {
    fn add_refund(&mut self, hold: &HoldId) {
        self.operations.push(OperationId::capture(hold));
        self.operations.push(OperationId::refund(hold));
        self.operations.push(OperationId::corrected(hold));
        self.refunds.push(hold.clone());
    }

    fn add_key(&mut self, key: &KeyRecord) {
        self.key_hashes.push(key.hash);
        self.key_ids.push(key.id.clone());
    }

    fn add_row(&mut self, row: &ImportRow) {
        match row {
            ImportRow::Grant { posting, payment } => {
                self.operations.push(posting.id.clone());
                let names = payment.iter().flat_map(|payment| &payment.facts.names);
                self.payments.extend(names.cloned());
            }
            ImportRow::Key(key) => self.add_key(key),
        }
    }

    /// True where memory alone can decide the batch: the usual case.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
            && self.refunds.is_empty()
            && self.holds.is_empty()
            && self.key_hashes.is_empty()
            && self.key_ids.is_empty()
            && self.events.is_empty()
            && self.payments.is_empty()
            && self.customers.is_empty()
    }
}

/// What a batch changed: the rows to write, and how to take it back.
#[derive(Debug, Default)]
pub(crate) struct Changes {
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
    pub events: HashMap<Arc<str>, StripeEvent>,
    pub payments: HashMap<Arc<str>, Payment>,
    /// Payments that turned out to be another one.
    pub payments_gone: HashSet<Arc<str>>,
    pub customers: Vec<KeptCustomer>,
    /// Disputes, with the account that each freezes from now on; none where it is lifted.
    pub freezes: HashMap<Arc<str>, Option<AccountId>>,
    /// Calls that were cut off, and those of them that were settled after all.
    pub crashed: HashMap<HoldId, CrashedCall>,
    pub(crate) undo: Vec<Undo>,
}

#[derive(Debug)]
pub(crate) enum Undo {
    Account(AccountId, Option<Account>),
    Hold(HoldId, Option<LiveHold>),
    Overtaken(HoldId),
    Freezes(AccountId, BTreeSet<Arc<str>>),
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
            && self.events.is_empty()
            && self.payments.is_empty()
            && self.payments_gone.is_empty()
            && self.customers.is_empty()
            && self.freezes.is_empty()
            && self.crashed.is_empty()
    }

    /// From here on the changes stand, whatever the disk says: they were acknowledged.
    pub fn pin(&mut self) {
        self.undo.clear();
    }
}

/// Every balance and every live hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) accounts: HashMap<AccountId, Account>,
    pub(crate) holds: HashMap<HoldId, LiveHold>,
    /// No hold expires before this, in milliseconds of the ledger's clock.
    pub(crate) next_expiry_ms: u64,
    /// Calls' holds that were released before they came, and when: so that the hold is refused
    /// without asking the disk about every new call. Few: it takes a release to overtake its hold.
    pub(crate) overtaken: HashMap<HoldId, u64>,
    /// The disputes that freeze an account, for the few that are frozen.
    pub(crate) freezes: HashMap<AccountId, BTreeSet<Arc<str>>>,
}

/// How long a release waits for the hold that it overtook: as long as a hold nobody renews lives.
const OVERTAKEN_KEPT_MS: u64 = crate::ledger::hold::CALL_TTL_MS;

impl State {
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

    /// What an account has; `None` where it does not exist.
    pub fn balance(&self, id: &AccountId) -> Option<Balance> {
        let Account { balance, held, .. } = *self.accounts.get(id)?;
        Some(Balance { balance, held, frozen: self.is_frozen(id) })
    }

    /// True while a dispute keeps the account from spending.
    pub fn is_frozen(&self, id: &AccountId) -> bool {
        !self.freezes.is_empty() && self.freezes.contains_key(id)
    }

    /// Has exactly these disputes freeze the account.
    pub fn set_freezes(&mut self, account: AccountId, disputes: BTreeSet<Arc<str>>) {
        if disputes.is_empty() {
            self.freezes.remove(&account);
        } else {
            self.freezes.insert(account, disputes);
        }
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
                Operation::Capture { hold, .. }
                | Operation::Release { hold, .. }
                | Operation::Abandon { hold, .. }
                    if !self.holds.contains_key(hold) =>
                {
                    wanted.add_refund(hold);
                    wanted.holds.push(hold.clone());
                }
                Operation::Post(posting) => wanted.operations.push(posting.id.clone()),
                Operation::Refund { hold, .. } => wanted.add_refund(hold),
                Operation::RefundPart { hold, id, .. } => {
                    wanted.operations.push(id.clone());
                    wanted.add_refund(hold);
                }
                Operation::Import(import) => {
                    import.rows.iter().for_each(|row| wanted.add_row(row));
                }
                Operation::PutKeys(keys) => keys.iter().for_each(|key| wanted.add_key(key)),
                Operation::RevokeKey { id } => wanted.key_ids.push(id.clone()),
                Operation::KeepEvent(event) => wanted.events.push(event.id.clone()),
                Operation::EndEvent { id, .. } => wanted.events.push(id.clone()),
                Operation::TakeFacts(take) => {
                    wanted.events.extend(take.event.clone());
                    wanted.payments.extend(take.facts.names.iter().cloned());
                }
                Operation::KeepCustomer { account, .. } => wanted.customers.push(account.clone()),
                Operation::Thaw { account } => {
                    wanted
                        .payments
                        .extend(self.freezes.get(account).into_iter().flatten().cloned());
                }
                Operation::Hold(_)
                | Operation::Capture { .. }
                | Operation::Release { .. }
                | Operation::Abandon { .. }
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
                Undo::Freezes(account, before) => self.set_freezes(account, before),
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
        let mut rules = Rules { state: self, known, changes, now };
        let decided = match operation {
            Operation::Open { account, signup } => rules.open(account, *signup),
            Operation::Hold(hold) => rules.hold(hold),
            Operation::Renew { hold, ttl_ms } => rules.renew(hold, *ttl_ms),
            Operation::Capture { hold, account, amount, route, origin } => {
                rules.capture(hold, account.as_ref(), *amount, route, *origin)
            }
            Operation::Release { hold, account, origin } => {
                rules.end(hold, account.as_ref(), *origin, Ending::Released)
            }
            Operation::Abandon { hold, account, after, .. } => rules.abandon(hold, account, *after),
            Operation::Post(posting) => rules.post(posting),
            Operation::Refund { hold, reason } => rules.refund(hold, None, reason.clone()),
            Operation::RefundPart { hold, id, amount, reason } => {
                rules.refund(hold, Some((id, *amount)), reason.clone())
            }
            Operation::Import(import) => Ok(rules.bring_over(import)),
            Operation::PutKeys(keys) => rules.put_keys(keys),
            Operation::RevokeKey { id } => rules.revoke_key(id),
            Operation::KeepEvent(event) => rules.keep_event(event),
            Operation::EndEvent { id, state, note } => rules.end_event(id, *state, note.as_ref()),
            Operation::TakeFacts(take) => rules.take_facts(take),
            Operation::KeepCustomer { account, customer, instead_of } => {
                rules.keep_customer(account, customer, instead_of.as_ref())
            }
            Operation::Thaw { account } => rules.thaw(account),
            Operation::Balance { account } => Ok(Outcome::Balance(rules.state.balance(account))),
            // These concern the disk: the backend answers them itself.
            Operation::Audit | Operation::Fold { .. } => Err(Refusal::Unavailable),
        };
        decided.unwrap_or_else(Outcome::Refused)
    }

    /// Gives a hold whose time has run out another `ttl_ms`.
    pub fn renew(&mut self, hold: &HoldId, ttl_ms: u64, changes: &mut Changes, now: Now) {
        let mut rules = Rules { state: self, known: &mut Known::default(), changes, now };
        // It was found in the state, so it can be renewed.
        let _ = rules.renew(hold, ttl_ms);
    }

    /// Ends the holds of all calls, oldest first: none of them can be settled any more. Only at a start,
    /// when no call runs.
    pub fn abandon_calls(&mut self, after: AfterCrash, changes: &mut Changes, now: Now) {
        let calls = self.holds.iter().filter(|(_, hold)| hold.origin == Origin::Call);
        let mut calls: Vec<_> =
            calls.map(|(id, hold)| (id.clone(), hold.account.clone())).collect();
        calls.sort();
        for (id, account) in calls {
            let mut rules = Rules { state: self, known: &mut Known::default(), changes, now };
            let ended = rules.abandon(&id, &account, after);
            // Only a balance at the end of what can be counted refuses the charge.
            if let Err(refusal) = ended {
                tracing::error!(hold = %id, %account, %refusal, "a cut off call is not charged");
                let _ = rules.abandon(&id, &account, AfterCrash::Release);
            }
        }
    }

    /// Ends a hold whose time has run out.
    pub fn expire(&mut self, hold: &HoldId, changes: &mut Changes, now: Now) -> Option<LiveHold> {
        let live = self.holds.get(hold)?.clone();
        let mut rules = Rules { state: self, known: &mut Known::default(), changes, now };
        rules.end(hold, Some(&live.account), live.origin, Ending::Expired).ok()?;
        Some(live)
    }
}

/// When a batch is decided: by the two clocks, and in the order of commits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// For entries: milliseconds since 1970, as people's clocks show it.
    pub wall_ms: i64,
    /// For deadlines: the ledger's own clock, which never jumps.
    pub ledger_ms: u64,
    /// The number of the commit that will write what is decided now.
    pub commit: i64,
}
