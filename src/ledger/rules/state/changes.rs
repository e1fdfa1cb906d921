//! The changes of a batch: the rows to write, and the steps that undo the changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::{HashMap, HashSet};

use crate::account::AccountId;
use crate::ledger::claim::ClaimId;
use crate::ledger::crash::CrashedCall;
use crate::ledger::inbox::StripeEvent;
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Entry, HoldId};
use crate::ledger::payment::Payment;
use crate::ledger::rules::state::claims::{KeyClaim, LeftCall, Slot};
use crate::ledger::rules::state::rows::{Account, EndedHold, LiveHold, StripeCustomer};

/// The changes of a batch: the rows to write, and the steps that undo the changes in memory.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// New holds, and extended holds of calls.
    pub holds_added: HashMap<HoldId, LiveHold>,
    /// Holds of the API that are live on disk and have ended.
    pub holds_gone: Vec<HoldId>,
    /// Holds of calls that have ended, or whose row was replaced; each with the commit that writes
    /// the row.
    pub calls_gone: Vec<(HoldId, i64)>,
    /// New deadlines of the API's holds, in milliseconds of the ledger's clock.
    pub holds_renewed: HashMap<HoldId, u64>,
    /// Holds that ended without a charge.
    pub ended: Vec<EndedHold>,
    /// New entries.
    pub entries: Vec<Entry>,
    /// Accounts whose row changes.
    pub touched: HashSet<AccountId>,
    /// New API keys.
    pub keys_added: Vec<KeyRecord>,
    /// Ids of API keys that were revoked.
    pub keys_revoked: Vec<Arc<str>>,
    /// New and changed events of the inbox.
    pub events: HashMap<Arc<str>, StripeEvent>,
    /// New and changed payments.
    pub payments: HashMap<Arc<str>, Payment>,
    /// Ids of payments that were merged into another payment.
    pub payments_gone: HashSet<Arc<str>>,
    /// New customers at Stripe.
    pub customers: Vec<StripeCustomer>,
    /// Disputes, with the account that each freezes from now on; `None` if a freeze is lifted.
    pub freezes: HashMap<Arc<str>, Option<AccountId>>,
    /// Calls that were cut off, including those that their gateway ended after all.
    pub crashed: HashMap<HoldId, CrashedCall>,
    /// New and changed claims; `None` if a claim is now free.
    pub claims: HashMap<ClaimId, Option<KeyClaim>>,
    /// Calls that their clients left; `None` if the record is removed, because the call was not charged.
    pub left: HashMap<HoldId, Option<LeftCall>>,
    /// The steps that undo the changes, oldest first.
    pub(crate) undo: Vec<Undo>,
}

/// A step that undoes a change: the previous value in memory.
#[derive(Debug)]
pub(crate) enum Undo {
    /// An account before its change; `None` for a new one.
    Account(AccountId, Option<Account>),
    /// A hold before its change; `None` for a new one.
    Hold(HoldId, Option<LiveHold>),
    /// An early release that was added.
    EarlyRelease(HoldId),
    /// A claim, and the slot that memory had for it before.
    Claim(ClaimId, Slot),
    /// The record of a call that was left, before its change; `None` for a new record.
    Left(HoldId, Option<LeftCall>),
    /// The disputes that froze an account before.
    Freezes(AccountId, BTreeSet<Arc<str>>),
}

impl Changes {
    /// True if there is nothing to write.
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
            && self.claims.is_empty()
            && self.left.is_empty()
    }

    /// Adds the changes of a later batch of calls, which touches nothing but holds, entries, balances and claims. A
    /// hold that ended before it was written leaves no row.
    pub fn add_calls(&mut self, later: Self) {
        for (hold, commit) in later.calls_gone {
            if self.holds_added.remove(&hold).is_none() {
                self.calls_gone.push((hold, commit));
            }
        }
        self.holds_added.extend(later.holds_added);
        self.ended.extend(later.ended);
        self.entries.extend(later.entries);
        self.touched.extend(later.touched);
        self.claims.extend(later.claims);
        self.left.extend(later.left);
    }

    /// Makes the changes so far final in memory. Their callers have got their outcomes, so the
    /// changes are not undone even if the disk refuses them.
    pub fn forget_undo(&mut self) {
        self.undo.clear();
    }
}
