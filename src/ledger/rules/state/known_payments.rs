//! The payments that a batch names, as they are stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::HashMap;

use crate::ledger::payment::Payment;

/// Payments by the ledger's own ids, and by all of Stripe's.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownPayments {
    by_id: HashMap<Arc<str>, Payment>,
    /// The ledger's id of a payment, by each of Stripe's ids for it. After
    /// [`KnownPayments::remove`] the removed payment is missing here, until the payment into which
    /// it was merged is inserted.
    id_of: HashMap<Arc<str>, Arc<str>>,
}

impl KnownPayments {
    /// Adds a payment, or replaces the one with the same id.
    pub fn insert(&mut self, payment: Payment) {
        for name in &payment.facts.names {
            self.id_of.insert(name.clone(), payment.id.clone());
        }
        self.by_id.insert(payment.id.clone(), payment);
    }

    /// Removes a payment that was merged into another one.
    pub fn remove(&mut self, id: &str) {
        self.by_id.remove(id);
    }

    /// The payments that have one of these names, in the order of their ids.
    pub fn related(&self, names: &BTreeSet<Arc<str>>) -> Vec<Payment> {
        let ids: BTreeSet<_> = names.iter().filter_map(|name| self.id_of.get(name)).collect();
        ids.into_iter().filter_map(|id| self.by_id.get(id)).cloned().collect()
    }

    /// All payments.
    pub fn values(&self) -> impl Iterator<Item = &Payment> {
        self.by_id.values()
    }

    /// Whether there are no payments.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
