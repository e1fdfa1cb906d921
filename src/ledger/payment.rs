//! A payment as the ledger keeps it: the facts, and what was done about them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::credits::Credits;

use crate::ledger::rules::facts::{Facts, OnDispute, Progress};

/// A payment as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The ledger's own id of it: the first of Stripe's ids under which it was heard of.
    pub id: Arc<str>,
    /// What is known of it.
    pub facts: Facts,
    /// What was granted for it.
    #[serde(with = "crate::ledger::rules::facts::micros")]
    pub granted: Credits,
    /// What of that is taken back, as of now.
    #[serde(with = "crate::ledger::rules::facts::micros")]
    pub taken: Credits,
    /// How many entries took back and gave back: the next one's number.
    pub moves: u32,
    /// Since when it is known, in milliseconds since 1970.
    pub created_at_ms: i64,
}

impl Payment {
    /// One of which nothing is known yet.
    pub fn new(id: Arc<str>, created_at_ms: i64) -> Self {
        let facts = Facts::default();
        let (granted, taken) = (Credits::ZERO, Credits::ZERO);
        Self { id, facts, granted, taken, moves: 0, created_at_ms }
    }

    /// Whose it is, once that is known.
    pub fn account(&self) -> Option<&AccountId> {
        self.facts.sale.as_ref().map(|sale| &sale.account)
    }

    /// True once the money was there.
    pub fn is_paid(&self) -> bool {
        self.facts.progress == Progress::Paid
    }

    /// Whether an import has granted its credits.
    pub fn is_imported(&self) -> bool {
        self.facts.sale.as_ref().is_some_and(|sale| sale.imported)
    }

    /// Takes up what turned out to be the same payment under another name. Only one of the two
    /// can have a sale (a payment intent belongs to one session), and only that one has moved
    /// credits: `false`, and nothing changed, where both do. A sale that has granted nothing yet
    /// gives way to an import of its payment: that has granted the credits.
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

/// Facts about a payment to be taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeFacts {
    /// The event that they are from, which this ends.
    pub event: Option<Arc<str>>,
    /// The facts.
    pub facts: Facts,
    /// What a dispute does to the account.
    pub on_dispute: OnDispute,
    /// Why credits are taken back or given back, for people who read the ledger.
    pub because: Arc<str>,
}

/// What taking up facts did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The payment, with the facts in it.
    pub payment: Payment,
    /// It was not known before what was sold.
    pub new: bool,
    /// Granted by this: the payment was paid, and was not before.
    pub granted: Credits,
    /// Taken back by this.
    pub clawed_back: Credits,
    /// Given back by this.
    pub reinstated: Credits,
}

impl Settled {
    /// False for a payment that no session of this ledger led to: another's, or one whose session
    /// is still to be heard of.
    pub fn is_ours(&self) -> bool {
        self.payment.facts.sale.is_some()
    }

    /// True where credits moved.
    pub fn moved(&self) -> bool {
        [self.granted, self.clawed_back, self.reinstated].iter().any(|amount| !amount.is_zero())
    }
}
