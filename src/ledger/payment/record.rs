//! A payment in the ledger: its facts, and the credits that it moved.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::payment::facts::{Facts, OnDispute, Progress};

/// A payment as the ledger stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The ledger's own id of the payment: the first of Stripe's ids that was reported for it.
    pub id: Arc<str>,
    /// The facts that are known.
    pub facts: Facts,
    /// The credits that were granted for the payment.
    #[serde(with = "crate::ledger::payment::micros")]
    pub granted: Credits,
    /// The part of [`Payment::granted`] that is taken back at present.
    #[serde(with = "crate::ledger::payment::micros")]
    pub taken: Credits,
    /// The number of entries that took credits back or gave them back. The id of the next such
    /// entry contains this number.
    pub moves: u32,
    /// The time of the first report, in milliseconds since 1970.
    pub created_at_ms: i64,
}

impl Payment {
    /// A payment without facts.
    pub fn new(id: Arc<str>, created_at_ms: i64) -> Self {
        let facts = Facts::default();
        let (granted, taken) = (Credits::ZERO, Credits::ZERO);
        Self { id, facts, granted, taken, moves: 0, created_at_ms }
    }

    /// The account that bought, once it is known.
    pub fn account(&self) -> Option<&AccountId> {
        self.facts.sale.as_ref().map(|sale| &sale.account)
    }

    /// True once the money has arrived.
    pub fn is_paid(&self) -> bool {
        self.facts.progress == Progress::Paid
    }

    /// True if an import has granted the credits.
    pub fn is_imported(&self) -> bool {
        self.facts.sale.as_ref().is_some_and(|sale| sale.imported)
    }

    /// Joins `other`, which turned out to be the same payment under another id.
    ///
    /// Usually only one of the two has a sale, because a payment intent belongs to one session, and
    /// only that one has moved credits. If both have a sale, this returns `false` and changes
    /// nothing, with one exception: a sale that has granted nothing yet is replaced by an import of
    /// the same payment, because the import has granted the credits.
    #[must_use]
    pub fn absorb(&mut self, other: Self) -> bool {
        let sessions = [&*self, &other].map(|p| p.facts.sale.as_ref().map(|s| s.session.clone()));
        let gives_way =
            |one: &Self, to: &Self| to.is_imported() && !one.is_imported() && one.granted.is_zero();
        let mut theirs_stays = sessions[0].is_none() && sessions[1].is_some();
        if let [Some(ours), Some(theirs)] = &sessions
            && ours != theirs
        {
            theirs_stays = gives_way(self, &other);
            if !theirs_stays && !gives_way(&other, self) {
                return false;
            }
        }
        if theirs_stays {
            let ours = std::mem::replace(self, other);
            self.facts.join(&ours.facts);
            self.created_at_ms = self.created_at_ms.min(ours.created_at_ms);
        } else {
            self.facts.join(&other.facts);
            self.created_at_ms = self.created_at_ms.min(other.created_at_ms);
        }
        true
    }
}

/// Facts to add to a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeFacts {
    /// The event of the inbox that reported the facts. The event is applied once they are added.
    pub event: Option<Arc<str>>,
    /// The facts.
    pub facts: Facts,
    /// The effect of a dispute on the account.
    pub on_dispute: OnDispute,
    /// The reason that is shown to people if credits are taken back or given back.
    pub because: Arc<str>,
}

/// The changes that follow from added facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentChange {
    /// The payment, with the facts in it.
    pub payment: Payment,
    /// Whether these facts are the first to name the sale.
    pub new: bool,
    /// The credits that were granted now, because the payment has become paid.
    pub granted: Credits,
    /// The credits that were taken back now.
    pub clawed_back: Credits,
    /// The credits that were given back now.
    pub reinstated: Credits,
}

impl PaymentChange {
    /// Whether the payment belongs to a checkout session of this ledger. False for another seller's
    /// payment, and for one whose session has not been reported yet.
    pub fn is_ours(&self) -> bool {
        self.payment.facts.sale.is_some()
    }

    /// True if credits moved.
    pub fn moved(&self) -> bool {
        [self.granted, self.clawed_back, self.reinstated].iter().any(|amount| !amount.is_zero())
    }
}
