//! The ids of a batch that must be looked up on disk.

use std::sync::Arc;

use crate::account::AccountId;
use crate::ledger::claim::{Claim, ClaimId};
use crate::ledger::imports::ImportRow;
use crate::ledger::key::{KeyHash, KeyRecord};
use crate::ledger::operation::{HoldId, NewHold, Operation, OperationId, Origin};
use crate::ledger::rules::state::memory::State;

/// The ids in a batch whose rows must be read from disk.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    /// Ids of entries.
    pub operations: Vec<OperationId>,
    /// Holds for which all partial refunds of the capture are needed.
    pub refunds: Vec<HoldId>,
    /// Holds that may have ended without a charge.
    pub holds: Vec<HoldId>,
    /// Hashes of API keys.
    pub key_hashes: Vec<KeyHash>,
    /// Ids of API keys.
    pub key_ids: Vec<Arc<str>>,
    /// Stripe's ids of events in the inbox.
    pub events: Vec<Arc<str>>,
    /// Stripe's ids of payments.
    pub payments: Vec<Arc<str>>,
    /// Accounts whose customers at Stripe are needed.
    pub customers: Vec<AccountId>,
    /// Claims that memory may not know.
    pub claims: Vec<ClaimId>,
}

impl Lookups {
    /// The lookups that `batch` needs. A batch of ordinary calls without claims needs none: the id of a new call was
    /// generated for it, and a live hold is in memory.
    pub fn of(batch: &[Operation], state: &State) -> Self {
        let mut wanted = Self::default();
        batch.iter().for_each(|operation| wanted.add(operation, state));
        wanted
    }

    fn add(&mut self, operation: &Operation, state: &State) {
        match operation {
            Operation::Hold(hold) if hold.origin == Origin::Api => {
                self.operations.push(OperationId::capture(&hold.id));
                self.holds.push(hold.id.clone());
            }
            Operation::Hold(NewHold { claim: Some(Claim::Key { id, .. }), .. }) => {
                self.add_claim(*id, state);
            }
            Operation::MarkClaim { claim, .. } => self.add_claim(*claim, state),
            Operation::Capture { hold, claim, .. }
            | Operation::Release { hold, claim, .. }
            | Operation::Abandon { hold, claim, .. }
                if !state.holds.contains_key(hold) =>
            {
                if let Some(claim) = claim {
                    self.add_claim(*claim, state);
                }
                self.add_refund(hold);
                self.holds.push(hold.clone());
            }
            Operation::Extend { hold, .. } | Operation::Leave { hold, .. }
                if !state.holds.contains_key(hold) =>
            {
                self.operations.push(OperationId::capture(hold));
                self.holds.push(hold.clone());
            }
            Operation::Post(posting) => self.operations.push(posting.id.clone()),
            Operation::Refund { hold, .. } => self.add_refund(hold),
            Operation::RefundPart { hold, id, .. } => {
                self.operations.push(id.clone());
                self.add_refund(hold);
            }
            Operation::Import(import) => import.rows.iter().for_each(|row| self.add_row(row)),
            Operation::PutKeys(keys) => keys.iter().for_each(|key| self.add_key(key)),
            Operation::RevokeKey { id } => self.key_ids.push(id.clone()),
            Operation::RecordEvent(event) => self.events.push(event.id.clone()),
            Operation::EndEvent { id, .. } => self.events.push(id.clone()),
            Operation::TakeFacts(take) => {
                self.events.extend(take.event.clone());
                self.payments.extend(take.facts.names.iter().cloned());
            }
            Operation::RecordCustomer { account, .. } => self.customers.push(account.clone()),
            Operation::Thaw { account } => {
                self.payments.extend(state.freezes.get(account).into_iter().flatten().cloned());
            }
            Operation::Hold(_)
            | Operation::Extend { .. }
            | Operation::Capture { .. }
            | Operation::Release { .. }
            | Operation::Abandon { .. }
            | Operation::Open { .. }
            | Operation::Renew { .. }
            | Operation::Leave { .. }
            | Operation::Audit
            | Operation::Fold { .. }
            | Operation::Balance { .. } => {}
        }
    }

    fn add_refund(&mut self, hold: &HoldId) {
        self.operations.push(OperationId::capture(hold));
        self.operations.push(OperationId::refund(hold));
        self.operations.push(OperationId::corrected(hold));
        self.refunds.push(hold.clone());
    }

    /// Adds a claim, unless a running call has it: memory knows the claims of running calls.
    fn add_claim(&mut self, id: ClaimId, state: &State) {
        if !state.claims.is_running(&id) {
            self.claims.push(id);
        }
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

    /// Whether memory alone is enough to decide the batch. Usually it is.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.are_claims()
    }

    /// Whether nothing but claims must be read.
    pub fn are_claims(&self) -> bool {
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
