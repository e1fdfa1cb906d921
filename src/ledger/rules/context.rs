//! The context of one decision, and the basic changes of state that the rules make.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::operation::{
    Balance, Ending, Entry, EntryKind, HoldId, OperationId, Origin, Refusal,
};
use crate::ledger::rules::state::{Account, Changes, EndedHold, Known, LiveHold, Now, State, Undo};
use crate::usage::UsageRecord;

/// The context in which one operation is decided. Its methods are the rules, a file for each family of
/// operations: `holds`, `cut_off`, `postings`, `keys`, `payments` and `imports`.
///
/// Each rule is a flat series of checks. The check whether the operation is a repetition comes first,
/// and a rule changes nothing before its last check has passed.
pub(crate) struct Rules<'a> {
    /// Balances and live holds; the rules change them.
    pub state: &'a mut State,
    /// The stored rows that the operations of the batch name, and the rows that the rules have
    /// added to them.
    pub known: &'a mut Known,
    /// The changes of the batch so far; the rules add their own.
    pub changes: &'a mut Changes,
    /// The moment of the decision.
    pub now: Now,
}

/// An entry that has no number and no time yet.
pub(super) struct NewEntry {
    pub operation: OperationId,
    pub kind: EntryKind,
    pub amount: SignedCredits,
    pub route: Option<Arc<str>>,
    pub reason: Option<Arc<str>>,
    pub usage: Option<Arc<UsageRecord>>,
}

impl Rules<'_> {
    /// The balance of an account; zero if the account does not exist.
    pub(super) fn balance(&self, account: &AccountId) -> Balance {
        self.state.balance(account).unwrap_or_default()
    }

    /// Adds an entry without a usage record, as [`Rules::add`] does.
    pub(super) fn add_entry(
        &mut self,
        id: &AccountId,
        operation: OperationId,
        kind: EntryKind,
        amount: SignedCredits,
        route: Option<Arc<str>>,
        reason: Option<Arc<str>>,
    ) -> Result<Entry, Refusal> {
        self.add(id, NewEntry { operation, kind, amount, route, reason, usage: None })
    }

    /// Adds an entry and moves the balance with it. Creates the account if it does not exist.
    pub(super) fn add(&mut self, id: &AccountId, new: NewEntry) -> Result<Entry, Refusal> {
        let NewEntry { operation, kind, amount, route, reason, usage } = new;
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
            usage,
        };
        self.set_account(id, Account { balance, seq, ..account });
        self.known.entries.insert(operation, entry.clone());
        self.changes.entries.push(entry.clone());
        Ok(entry)
    }

    /// Removes a live hold from the state and gives its credits back to the account.
    pub(super) fn remove_hold(&mut self, id: &HoldId, live: &LiveHold) {
        if let Some(account) = self.state.accounts.get(&live.account).copied() {
            debug_assert!(account.held >= live.amount, "an account holds the sum of its holds");
            let held = account.held.checked_sub(live.amount).unwrap_or_default();
            self.replace_account(&live.account, Account { held, ..account });
        }
        self.set_hold(id, None);
        // If the hold ends before its row is written to disk, there is no row to delete.
        if self.changes.holds_added.remove(id).is_some() {
            return;
        }
        match live.origin {
            Origin::Call => self.changes.calls_gone.push((id.clone(), live.commit)),
            Origin::Api => {
                self.changes.holds_renewed.remove(id);
                self.changes.holds_gone.push(id.clone());
            }
        }
    }

    /// Replaces the live hold of a call. The commit that writes it adds a new row, and the row that
    /// an earlier commit wrote no longer counts.
    pub(super) fn replace_hold(&mut self, id: &HoldId, mut hold: LiveHold) {
        if !self.changes.holds_added.contains_key(id) {
            self.changes.calls_gone.push((id.clone(), hold.commit));
            hold.commit = self.now.commit;
        }
        self.changes.holds_added.insert(id.clone(), hold.clone());
        self.set_hold(id, Some(hold));
    }

    /// Records that a hold ended without a charge.
    pub(super) fn record_ended(&mut self, ended: EndedHold) {
        self.known.ended.insert(ended.id.clone(), ended.clone());
        self.changes.ended.push(ended);
    }

    /// Sets an account. If the balance or the sequence number changed, marks its row to be written.
    pub(super) fn set_account(&mut self, id: &AccountId, account: Account) {
        let before = self.replace_account(id, account);
        // A hold changes only `held`, which is not stored: it is the sum of the stored holds.
        if before.is_none_or(|b| (b.balance, b.seq) != (account.balance, account.seq)) {
            self.changes.touched.insert(id.clone());
        }
    }

    /// Sets or removes a live hold, and records the step that undoes the change.
    pub(super) fn set_hold(&mut self, id: &HoldId, hold: Option<LiveHold>) {
        let before = match hold {
            Some(hold) => {
                self.state.next_expiry_ms = self.state.next_expiry_ms.min(hold.expires_ms);
                self.state.holds.insert(id.clone(), hold)
            }
            None => self.state.holds.remove(id),
        };
        self.changes.undo.push(Undo::Hold(id.clone(), before));
    }

    /// Records that a call's hold was released before it was made, so that the hold is refused when
    /// it arrives.
    pub(super) fn record_early_release(&mut self, id: &HoldId, account: AccountId, ending: Ending) {
        self.record_ended(EndedHold {
            id: id.clone(),
            account: Some(account),
            amount: Credits::ZERO,
            origin: Origin::Call,
            ending,
        });
        self.state.early_releases.insert(id.clone(), self.now.ledger_ms);
        self.changes.undo.push(Undo::EarlyRelease(id.clone()));
    }

    /// Sets an account, and records the step that undoes the change. Returns the account before the change.
    fn replace_account(&mut self, id: &AccountId, account: Account) -> Option<Account> {
        let before = self.state.accounts.insert(id.clone(), account);
        self.changes.undo.push(Undo::Account(id.clone(), before));
        before
    }
}
