//! The stored rows that a batch names.

use std::sync::Arc;

use ahash::HashMap;

use crate::account::AccountId;
use crate::ledger::claim::ClaimId;
use crate::ledger::inbox::StripeEvent;
use crate::ledger::operation::{Entry, HoldId, OperationId};
use crate::ledger::rules::state::claims::KeyClaim;
use crate::ledger::rules::state::known_keys::KnownKeys;
use crate::ledger::rules::state::known_payments::KnownPayments;
use crate::ledger::rules::state::rows::EndedHold;

/// The stored rows for those ids of a batch that are not in memory. Each decision adds the rows that it makes, so that
/// an id that occurs twice in a batch takes effect once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Entries by their ids.
    pub entries: HashMap<OperationId, Entry>,
    /// Holds that ended without a charge.
    pub ended: HashMap<HoldId, EndedHold>,
    /// API keys.
    pub keys: KnownKeys,
    /// Events of the inbox by Stripe's ids.
    pub events: HashMap<Arc<str>, StripeEvent>,
    /// Payments by Stripe's ids.
    pub payments: KnownPayments,
    /// The id of each account's Stripe customer.
    pub customers: HashMap<AccountId, Arc<str>>,
    /// Claims. If memory knows a claim too, the claim in memory takes precedence.
    pub claims: HashMap<ClaimId, KeyClaim>,
}

impl Known {
    /// The entry that charged a hold.
    pub fn capture_of(&self, hold: &HoldId) -> Option<&Entry> {
        // Usually the batch has no entries, and then the lookup need not build an id, which takes two allocations.
        if self.entries.is_empty() { None } else { self.entries.get(&OperationId::capture(hold)) }
    }
}
