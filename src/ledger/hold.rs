//! The guard of a call's hold.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::claim::{ClaimId, RequestMark};
use crate::ledger::crash::AfterCrash;
use crate::ledger::live::LiveHolds;
use crate::ledger::operation::{Balance, HoldId, Operation, Origin, Outcome, Refusal};
use crate::ledger::queue::Queue;
use crate::metrics::Metrics;
use crate::usage::UsageRecord;

/// The parts that a ledger shares with the guards of its holds.
#[derive(Debug)]
pub(crate) struct CallHolds {
    /// The queue of the pipeline.
    pub queue: Queue,
    /// The holds that must not expire.
    pub live: Arc<LiveHolds>,
    /// Counts the holds and their credits.
    pub metrics: Metrics,
    /// Whether the hold of a call that is cut off is captured or released.
    pub after_crash: AfterCrash,
}

/// The policy for a charge above the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// The whole charge counts, even if it leads to a debt.
    Debt,
    /// The charge is limited to the hold. The rest is not charged.
    Cap,
}

/// The result of an [extension](Hold::extension): the hold's new amount and the account's balance after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    amount: Credits,
    after: Balance,
}

/// How a metered call is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The price of what the call used.
    pub amount: Credits,
    /// The policy for the part of `amount` that is above the hold.
    pub overrun: Overrun,
    /// The usage of the call. [`Hold::settle`] fills in `held`.
    pub usage: Option<UsageRecord>,
}

impl Settlement {
    /// The charge of a call that holds `held`.
    pub fn charge(&self, held: Credits) -> Credits {
        match self.overrun {
            Overrun::Debt => self.amount,
            Overrun::Cap => self.amount.min(held),
        }
    }
}

/// Credits set aside for a call. However the call ends, the hold ends once: by [`Hold::capture`],
/// by [`Hold::settle`], by [`Hold::release`], or when it is dropped. A dropped hold is released,
/// except when a stop cuts calls off: then `[ledger] after_crash` decides.
#[derive(Debug)]
#[must_use = "a hold that is dropped is released"]
pub struct Hold {
    holds: Arc<CallHolds>,
    id: HoldId,
    account: AccountId,
    amount: Credits,
    route: Arc<str>,
    after: Balance,
    /// The claim of the call under its key, which ends with the hold.
    claim: Option<ClaimId>,
    armed: bool,
}

impl Hold {
    /// Creates the guard of a hold that is about to be requested. From now on, the guard ends the
    /// hold.
    pub(crate) fn arm(
        holds: Arc<CallHolds>,
        id: HoldId,
        account: AccountId,
        amount: Credits,
        route: Arc<str>,
        claim: Option<ClaimId>,
    ) -> Self {
        holds.live.insert(id.clone());
        Self { holds, id, account, amount, route, after: Balance::default(), claim, armed: true }
    }

    /// Records the balance that the account has after the hold was granted.
    pub(crate) fn granted(mut self, after: Balance) -> Self {
        self.after = after;
        self
    }

    /// Drops the guard of a hold that was refused. There is no hold to end.
    pub(crate) fn disarm(mut self) {
        self.armed = false;
        self.holds.live.remove(&self.id);
    }

    /// The id of the hold, under which its call's answer is kept.
    pub fn id(&self) -> &HoldId {
        &self.id
    }

    /// The amount that is set aside.
    pub fn amount(&self) -> Credits {
        self.amount
    }

    /// The route's label.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The account whose credits are set aside.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The account's balance with the hold counted.
    pub fn after(&self) -> Balance {
        self.after
    }

    /// Sets `by` more credits aside under the same hold, as durably as the hold. Returns the account's
    /// balance with the whole hold counted. The future may be dropped at any moment: the end of the hold
    /// gives back whatever the ledger has set aside.
    ///
    /// # Errors
    /// [`Refusal::Insufficient`], [`Refusal::Frozen`] and [`Refusal::Unavailable`]; the hold then stands
    /// as before. [`Refusal::Ended`] and [`Refusal::UnknownHold`] if the ledger has ended the hold.
    pub async fn extend(&mut self, by: Credits) -> Result<Balance, Refusal> {
        let extended = self.extension(by).await?;
        self.extended(extended);
        Ok(extended.after)
    }

    /// Like [`Self::extend`], for a caller that uses the hold while the ledger decides. The caller
    /// passes the outcome to [`Self::extended`].
    ///
    /// # Errors
    /// The same as those of [`Self::extend`].
    pub fn extension(
        &self,
        by: Credits,
    ) -> impl Future<Output = Result<Extended, Refusal>> + Send + use<> {
        let amount = self.amount.checked_add(by);
        let (holds, hold, account) = (self.holds.clone(), self.id.clone(), self.account.clone());
        async move {
            let amount = amount.ok_or(Refusal::OutOfRange)?;
            match holds.queue.ask(Operation::Extend { hold, account, amount }).await {
                Outcome::Held { after } => Ok(Extended { amount, after }),
                Outcome::Refused(refusal) => Err(refusal),
                _ => {
                    tracing::error!(
                        "the ledger's backend returned the outcome of another operation"
                    );
                    Err(Refusal::Unavailable)
                }
            }
        }
    }

    /// Records that the ledger has extended this hold.
    pub fn extended(&mut self, extended: Extended) {
        (self.amount, self.after) = (extended.amount, extended.after);
    }

    /// Tells the ledger which request the claim of this hold is for, if the hold was made before the request's body had
    /// arrived. The future does not borrow the hold, so the call can go on meanwhile.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`]; until this call ends, other requests under the key are then told that it runs.
    pub fn mark_claim(
        &self,
        mark: RequestMark,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let (holds, hold, claim) = (self.holds.clone(), self.id.clone(), self.claim);
        async move {
            let Some(claim) = claim else { return Ok(()) };
            match holds.queue.ask(Operation::MarkClaim { claim, hold, mark }).await {
                Outcome::Refused(refusal) => Err(refusal),
                _ => Ok(()),
            }
        }
    }

    /// Records that the client of this call, an SDK, left before the head of the answer was sent. `id` is the hash of
    /// the scope and the request: a retry with the same hash is told of this call.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`]; a retry is then a call of its own.
    pub fn leave(&self, id: ClaimId) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let (holds, hold, account) = (self.holds.clone(), self.id.clone(), self.account.clone());
        async move {
            match holds.queue.ask(Operation::Leave { id, hold, account }).await {
                Outcome::Refused(refusal) => Err(refusal),
                _ => Ok(()),
            }
        }
    }

    /// Charges `amount`, at most the amount of the hold, and gives the rest back. Does not wait: the ledger
    /// retries until it succeeds.
    pub fn capture(self, amount: Credits) {
        let amount = amount.min(self.amount);
        self.charge(amount, None);
    }

    /// Charges a metered call and gives the rest of the hold back. Returns the amount that is
    /// charged. Does not wait: the ledger retries until it succeeds.
    ///
    /// The entry stores the usage record. If the charge is above the hold and there is no record, an empty record is
    /// stored, so that the entry shows how much was held.
    pub fn settle(self, settlement: Settlement) -> Credits {
        let amount = settlement.charge(self.amount);
        let Settlement { amount: price, usage, .. } = settlement;
        let excess = price.checked_sub(self.amount).filter(|excess| !excess.is_zero());
        if let Some(excess) = excess {
            let counter = &self.holds.metrics.overrun_credits;
            counter.with_label_values(&[&*self.route]).inc_by(excess.as_metric());
        }
        let is_bare_overrun = amount > self.amount && usage.is_none();
        let usage = usage.or_else(|| is_bare_overrun.then(UsageRecord::unknown));
        let usage = usage.map(|usage| Arc::new(UsageRecord { held: self.amount, ..usage }));
        self.charge(amount, usage);
        amount
    }

    fn charge(mut self, amount: Credits, usage: Option<Arc<UsageRecord>>) {
        if amount.is_zero() {
            return self.release();
        }
        let (metrics, route) = (&self.holds.metrics, &*self.route);
        metrics.holds.with_label_values(&[route, "captured"]).inc();
        metrics.credits_captured.with_label_values(&[route]).inc_by(amount.as_metric());
        if let Some(rest) = self.amount.checked_sub(amount).filter(|rest| !rest.is_zero()) {
            metrics.credits_released.with_label_values(&[route]).inc_by(rest.as_metric());
        }
        self.holds.queue.end_hold(Operation::Capture {
            hold: self.id.clone(),
            account: Some(self.account.clone()),
            amount,
            route: self.route.clone(),
            origin: Origin::Call,
            // The limits were applied above. If the ledger has lost an extension, the charge still
            // counts.
            may_overrun: true,
            usage,
            claim: self.claim,
        });
        self.armed = false;
    }

    /// Gives the whole hold back. Does not wait: the ledger retries until it succeeds.
    pub fn release(mut self) {
        self.give_back();
    }

    fn give_back(&mut self) {
        self.armed = false;
        self.count("released");
        self.holds.queue.end_hold(Operation::Release {
            hold: self.id.clone(),
            account: Some(self.account.clone()),
            origin: Origin::Call,
            claim: self.claim,
        });
    }

    /// Ends the hold of a call that was cut off.
    fn abandon(&mut self, after: AfterCrash) {
        self.armed = false;
        self.count(match after {
            AfterCrash::Release => "released",
            AfterCrash::Charge => "captured",
        });
        self.holds.queue.end_hold(Operation::Abandon {
            hold: self.id.clone(),
            account: self.account.clone(),
            amount: self.amount,
            route: self.route.clone(),
            after,
            claim: self.claim,
        });
    }

    /// Counts a whole hold that was captured or released, as `outcome` says, in the metrics.
    fn count(&self, outcome: &str) {
        let (metrics, route) = (&self.holds.metrics, &*self.route);
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
        if self.holds.live.are_cut_off() {
            self.abandon(self.holds.after_crash);
        } else {
            self.give_back();
        }
    }
}
