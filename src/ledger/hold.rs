//! The guard of a call's hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::HashSet;

use crate::account::AccountId;
use crate::credits::Credits;

use super::crash::AfterCrash;
use super::handle::Ledger;
use super::operation::{Balance, HoldId, Operation, Origin};

/// How long a call's hold lives without a renewal. A hold whose guard lives is renewed when its
/// time is up, so this is how long a leaked one would last, not how long a call may take.
pub(crate) const CALL_TTL_MS: u64 = 60_000;

/// Credits set aside for a call. However the call ends, the hold ends once: by
/// [`Hold::capture`], by [`Hold::release`], or, if it is dropped, by a release; while a stop cuts
/// calls off, as `after_crash` says.
#[derive(Debug)]
#[must_use = "a hold that is dropped is released"]
pub struct Hold {
    ledger: Ledger,
    id: HoldId,
    account: AccountId,
    amount: Credits,
    route: Arc<str>,
    after: Balance,
    armed: bool,
}

impl Hold {
    /// A guard for a hold that is about to be asked for: from here on it will be ended.
    pub(crate) fn arm(
        ledger: Ledger,
        id: HoldId,
        account: AccountId,
        amount: Credits,
        route: Arc<str>,
    ) -> Self {
        ledger.live().insert(id.clone());
        Self { ledger, id, account, amount, route, after: Balance::default(), armed: true }
    }

    pub(crate) fn granted(mut self, after: Balance) -> Self {
        self.after = after;
        self
    }

    /// There is nothing to end: the hold was refused.
    pub(crate) fn disarm(mut self) {
        self.armed = false;
        self.ledger.live().remove(&self.id);
    }

    /// How many credits are set aside.
    pub fn amount(&self) -> Credits {
        self.amount
    }

    /// What they are held for.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Whose they are.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// What the account has with the hold counted.
    pub fn after(&self) -> Balance {
        self.after
    }

    /// Charges `amount`, at most what is held, and gives the rest back. Waits for nothing: the
    /// ledger tries until it is done.
    pub fn capture(mut self, amount: Credits) {
        let amount = amount.min(self.amount);
        let metrics = self.ledger.metrics();
        let route: &str = &self.route;
        if amount.is_zero() {
            return self.release();
        }
        metrics.holds.with_label_values(&[route, "captured"]).inc();
        metrics.credits_captured.with_label_values(&[route]).inc_by(amount.as_metric());
        if let Some(rest) = self.amount.checked_sub(amount).filter(|rest| !rest.is_zero()) {
            metrics.credits_released.with_label_values(&[route]).inc_by(rest.as_metric());
        }
        self.ledger.settle(Operation::Capture {
            hold: self.id.clone(),
            account: Some(self.account.clone()),
            amount,
            route: self.route.clone(),
            origin: Origin::Call,
        });
        self.armed = false;
    }

    /// Gives all of it back. Waits for nothing: the ledger tries until it is done.
    pub fn release(mut self) {
        self.give_back();
    }

    fn give_back(&mut self) {
        self.armed = false;
        self.count("released");
        self.ledger.settle(Operation::Release {
            hold: self.id.clone(),
            account: Some(self.account.clone()),
            origin: Origin::Call,
        });
    }

    /// Ends the hold of a call that was cut off.
    fn abandon(&mut self, after: AfterCrash) {
        self.armed = false;
        self.count(match after {
            AfterCrash::Release => "released",
            AfterCrash::Charge => "captured",
        });
        self.ledger.settle(Operation::Abandon {
            hold: self.id.clone(),
            account: self.account.clone(),
            amount: self.amount,
            route: self.route.clone(),
            after,
        });
    }

    /// Counts the end of the whole hold.
    fn count(&self, outcome: &str) {
        let (metrics, route) = (self.ledger.metrics(), &*self.route);
        let credits = match outcome {
            "captured" => &metrics.credits_captured,
            _ => &metrics.credits_released,
        };
        metrics.holds.with_label_values(&[route, outcome]).inc();
        credits.with_label_values(&[route]).inc_by(self.amount.as_metric());
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        match self.ledger.cuts_off() {
            Some(after) => self.abandon(after),
            None => self.give_back(),
        }
    }
}

/// The holds that calls in this process have, or have settled and the ledger not yet: while a
/// capture waits in the queue or for the disk, its hold must not expire.
#[derive(Debug, Default)]
pub(crate) struct LiveHolds {
    ids: Mutex<HashSet<HoldId>>,
    /// True once a stop cuts off the calls that still run.
    cut_off: AtomicBool,
}

impl LiveHolds {
    fn insert(&self, id: HoldId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// The calls that still run are cut off.
    pub fn cut_off(&self) {
        self.cut_off.store(true, Ordering::Relaxed);
    }

    pub fn are_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    pub fn remove(&self, id: &HoldId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub fn contains(&self, id: &HoldId) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}
