//! Balances and live holds in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::HashMap;

use crate::account::AccountId;
use crate::ledger::operation::{Balance, CALL_TTL_MS, HoldId};
use crate::ledger::rules::state::changes::{Changes, Undo};
use crate::ledger::rules::state::claims::Claims;
use crate::ledger::rules::state::rows::{Account, LiveHold};

/// How long the state remembers an early release, in milliseconds: as long as a hold lives without
/// a renewal.
const EARLY_RELEASE_TTL_MS: u64 = CALL_TTL_MS;

/// Every balance and every live hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) accounts: HashMap<AccountId, Account>,
    pub(crate) holds: HashMap<HoldId, LiveHold>,
    /// No hold expires before this time, in milliseconds of the ledger's clock.
    pub(crate) next_expiry_ms: u64,
    /// Holds of calls that were released before they were made, with the time of the release. Such
    /// a hold is refused when it arrives, so that no new call needs a lookup on disk. There are few
    /// of them, because a release rarely overtakes its hold.
    pub(crate) early_releases: HashMap<HoldId, u64>,
    /// The disputes that freeze an account, for the few accounts that are frozen.
    pub(crate) freezes: HashMap<AccountId, BTreeSet<Arc<str>>>,
    /// The claims of running calls, and the calls that their clients left.
    pub(crate) claims: Claims,
}

impl State {
    /// Adds an account found on disk.
    pub fn insert_account(&mut self, id: AccountId, account: Account) {
        self.accounts.insert(id, account);
    }

    /// Adds a live hold found on disk. Returns `false` if its account is missing, or if the sum of
    /// the account's holds is out of range.
    pub fn insert_hold(&mut self, id: HoldId, hold: LiveHold) -> bool {
        let Some(account) = self.accounts.get_mut(&hold.account) else { return false };
        let Some(held) = account.held.checked_add(hold.amount) else { return false };
        account.held = held;
        self.next_expiry_ms = self.next_expiry_ms.min(hold.expires_ms);
        self.holds.insert(id, hold);
        true
    }

    /// One account.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// The balance of an account; `None` if it does not exist.
    pub fn balance(&self, id: &AccountId) -> Option<Balance> {
        let Account { balance, held, .. } = *self.accounts.get(id)?;
        Some(Balance { balance, held, frozen: self.is_frozen(id) })
    }

    /// True while a dispute keeps the account from spending.
    pub fn is_frozen(&self, id: &AccountId) -> bool {
        !self.freezes.is_empty() && self.freezes.contains_key(id)
    }

    /// Sets the disputes that freeze an account; an empty set unfreezes it.
    pub fn set_freezes(&mut self, account: AccountId, disputes: BTreeSet<Arc<str>>) {
        if disputes.is_empty() {
            self.freezes.remove(&account);
        } else {
            self.freezes.insert(account, disputes);
        }
    }

    /// All accounts, in no order.
    pub fn accounts(&self) -> impl Iterator<Item = (&AccountId, &Account)> {
        self.accounts.iter()
    }

    /// All live holds, in no order.
    pub fn holds(&self) -> impl Iterator<Item = (&HoldId, &LiveHold)> {
        self.holds.iter()
    }

    /// Forgets the early releases whose holds can no longer arrive.
    pub fn forget_early_releases(&mut self, now_ms: u64) {
        self.early_releases.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < EARLY_RELEASE_TTL_MS);
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

    /// Undoes the changes since the last [`Changes::forget_undo`].
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
                Undo::EarlyRelease(id) => drop(self.early_releases.remove(&id)),
                Undo::Claim(id, before) => drop(self.claims.set(id, before)),
                Undo::Left(hold, before) => drop(self.claims.set_left(&hold, before)),
                Undo::Freezes(account, before) => self.set_freezes(account, before),
            }
        }
    }
}
