//! The handle by which the rest of the gateway uses the ledger.

use std::sync::Arc;

use tokio::time::Instant;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::backend::Backend;
use crate::ledger::claim::{Claim, Claimed};
use crate::ledger::error::LedgerError;
use crate::ledger::hold::{CallHolds, Hold};
use crate::ledger::imports::{Import, ImportedRow};
use crate::ledger::inbox::{EventState, NewEvent};
use crate::ledger::key::KeyRecord;
use crate::ledger::live::LiveHolds;
use crate::ledger::operation::{
    Balance, CALL_TTL_MS, CallId, ClosedHold, Entry, HoldId, NewHold, Operation, OperationId,
    Origin, Outcome, Posting, Refusal,
};
use crate::ledger::payment::{PaymentChange, TakeFacts};
use crate::ledger::pipeline::Pipeline;
use crate::ledger::reader::Reader;
use crate::ledger::report::{FoldReport, OldMonths, ReconcileReport};
use crate::metrics::Metrics;

/// The outcome of a hold with a claim.
#[derive(Debug)]
#[must_use = "a hold that is dropped is released"]
pub enum HeldOrClaimed {
    /// The credits are set aside, and the claim is this call's.
    Held(Hold),
    /// Another call has the claim. Nothing is held, so the call's id is still unused.
    Claimed(Claimed, CallId),
}

/// A ledger in use. Cheap to clone; all clones share one pipeline.
///
/// Every method that changes the ledger can fail with [`Refusal::Unavailable`]: nothing has changed then.
#[derive(Clone, Debug)]
pub struct Ledger {
    holds: Arc<CallHolds>,
    reader: Arc<dyn Reader>,
}

impl Ledger {
    /// Starts the pipeline of `backend` on the current runtime.
    pub fn start<B: Backend>(
        backend: B,
        reader: impl Reader,
        metrics: Metrics,
    ) -> (Self, Pipeline) {
        let live = Arc::new(LiveHolds::default());
        let after_crash = backend.after_crash();
        let (pipeline, queue) = Pipeline::start(backend, live.clone(), metrics.clone());
        let holds = Arc::new(CallHolds { queue, live, metrics, after_crash });
        (Self { holds, reader: Arc::new(reader) }, pipeline)
    }

    /// Reads beside the pipeline: entries, accounts, keys.
    pub fn read(&self) -> &dyn Reader {
        &*self.reader
    }

    /// Requests any operation, and waits for its outcome. This is for tests of the contract between
    /// pipeline and backend. The gateway calls the method that fits its operation instead.
    pub async fn ask(&self, operation: Operation) -> Outcome {
        self.holds.queue.ask(operation).await
    }

    /// Requests an operation, and lets `read` take the result out of the outcome. `read` returns
    /// `None` for an outcome that does not fit the operation. Such an outcome is a mistake of the
    /// backend.
    async fn request<T>(
        &self,
        operation: Operation,
        read: impl FnOnce(Outcome) -> Option<T>,
    ) -> Result<T, Refusal> {
        match self.holds.queue.ask(operation).await {
            Outcome::Refused(refusal) => Err(refusal),
            outcome => read(outcome).ok_or_else(|| {
                tracing::error!("the ledger's backend returned the outcome of another operation");
                Refusal::Unavailable
            }),
        }
    }

    /// Sets credits aside for a call without a claim. The future may be dropped at any moment, and then no hold is left
    /// behind.
    ///
    /// # Errors
    /// [`Refusal::Insufficient`] and [`Refusal::Frozen`].
    pub async fn hold(
        &self,
        id: CallId,
        account: AccountId,
        amount: Credits,
        route: Arc<str>,
    ) -> Result<Hold, Refusal> {
        match self.hold_claiming(id, account, amount, route, None).await? {
            HeldOrClaimed::Held(hold) => Ok(hold),
            HeldOrClaimed::Claimed(..) => {
                tracing::error!("the ledger's backend knows of a claim that was not made");
                Err(Refusal::Unavailable)
            }
        }
    }

    /// Like [`Self::hold`], with a claim that is decided together with the hold. If another call has the claim, nothing
    /// is held, even for an account that could not pay.
    ///
    /// # Errors
    /// [`Refusal::Insufficient`] and [`Refusal::Frozen`]. A frozen account is refused even if its claim is charged.
    pub async fn hold_claiming(
        &self,
        id: CallId,
        account: AccountId,
        amount: Credits,
        route: Arc<str>,
        claim: Option<Claim>,
    ) -> Result<HeldOrClaimed, Refusal> {
        let unheld = id;
        let id = unheld.hold_id().clone();
        let key = match claim {
            Some(Claim::Key { id, .. }) => Some(id),
            Some(Claim::Retry { .. }) | None => None,
        };
        let guard =
            Hold::arm(self.holds.clone(), id.clone(), account.clone(), amount, route.clone(), key);
        let hold = NewHold {
            id,
            account,
            amount,
            route,
            origin: Origin::Call,
            ttl_ms: CALL_TTL_MS,
            claim,
        };
        let read = |outcome| match outcome {
            Outcome::Held { after } => Some(Ok(after)),
            Outcome::Claimed(claimed) => Some(Err(claimed)),
            _ => None,
        };
        match self.request(Operation::Hold(hold), read).await {
            Ok(Ok(after)) => Ok(HeldOrClaimed::Held(guard.granted(after))),
            Ok(Err(claimed)) => {
                guard.disarm();
                Ok(HeldOrClaimed::Claimed(claimed, unheld))
            }
            Err(refusal) => {
                let holds = &self.holds.metrics.holds;
                holds.with_label_values(&[guard.route(), "refused"]).inc();
                guard.disarm();
                Err(refusal)
            }
        }
    }

    /// Sets credits aside for an API caller, under an id of the caller's choosing; returns the balance
    /// with the hold counted. A repetition of the same hold changes nothing.
    ///
    /// # Errors
    /// [`Refusal::Insufficient`], [`Refusal::Frozen`] and [`Refusal::Zero`]; [`Refusal::Conflict`]
    /// if the id was used for another hold, and [`Refusal::Ended`] if the hold has ended.
    pub async fn hold_for_api(
        &self,
        id: HoldId,
        account: AccountId,
        amount: Credits,
        route: Arc<str>,
        ttl_ms: u64,
    ) -> Result<Balance, Refusal> {
        let hold = NewHold { id, account, amount, route, origin: Origin::Api, ttl_ms, claim: None };
        self.request(Operation::Hold(hold), held).await
    }

    /// Charges an API caller's hold `amount` and gives the rest back, even if the hold has expired.
    /// `account` is the account for which the caller may act; `None` if it may act for any.
    ///
    /// # Errors
    /// [`Refusal::UnknownHold`], [`Refusal::AboveHold`], [`Refusal::OutOfRange`]; [`Refusal::Conflict`] and
    /// [`Refusal::Ended`] if the hold ended in another way before.
    pub async fn capture(
        &self,
        hold: HoldId,
        account: Option<AccountId>,
        amount: Credits,
        route: Arc<str>,
    ) -> Result<ClosedHold, Refusal> {
        let (origin, may_overrun, usage) = (Origin::Api, false, None);
        let capture = Operation::Capture {
            hold,
            account,
            amount,
            route,
            origin,
            may_overrun,
            usage,
            claim: None,
        };
        self.request(capture, closed).await
    }

    /// Gives an API caller's hold back. `account` is the account for which the caller may act;
    /// `None` if it may act for any.
    ///
    /// # Errors
    /// [`Refusal::UnknownHold`]; [`Refusal::Ended`] if the hold was captured before.
    pub async fn release(
        &self,
        hold: HoldId,
        account: Option<AccountId>,
    ) -> Result<ClosedHold, Refusal> {
        let release = Operation::Release { hold, account, origin: Origin::Api, claim: None };
        self.request(release, closed).await
    }

    /// Reads the account's balance, after all operations that were requested earlier and name the account. `None` if the
    /// account does not exist.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn balance(&self, account: &AccountId) -> Result<Option<Balance>, Refusal> {
        self.request(Operation::Balance { account: account.clone() }, |outcome| match outcome {
            Outcome::Balance(balance) => Some(balance),
            _ => None,
        })
        .await
    }

    /// Makes the account exist, with a sign-up grant if it is new.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn open(&self, account: &AccountId, signup: Credits) -> Result<(), Refusal> {
        let open = Operation::Open { account: account.clone(), signup };
        let new = self.request(open, |outcome| match outcome {
            Outcome::Opened { new } => Some(new),
            _ => None,
        });
        if new.await? && !signup.is_zero() {
            let granted = &self.holds.metrics.credits_granted;
            granted.with_label_values(&["signup"]).inc_by(signup.as_metric());
        }
        Ok(())
    }

    /// Moves a balance, once for each id; returns the entry, and whether it is new.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if the id was used for something else, [`Refusal::WrongWay`],
    /// [`Refusal::OutOfRange`] and [`Refusal::Zero`].
    pub async fn post(&self, posting: Posting) -> Result<(Entry, bool), Refusal> {
        self.request(Operation::Post(posting), posted).await
    }

    /// Refunds the part of a capture that has not been refunded yet, once. Returns the entry, and
    /// whether it is new.
    ///
    /// # Errors
    /// [`Refusal::UnknownCapture`]; [`Refusal::Unsettled`] if the charge of the call may still come;
    /// [`Refusal::AboveCapture`] if nothing is left.
    pub async fn refund(
        &self,
        hold: HoldId,
        reason: Option<Arc<str>>,
    ) -> Result<(Entry, bool), Refusal> {
        self.request(Operation::Refund { hold, reason }, posted).await
    }

    /// Refunds a part of a capture, once for each id; returns the entry, and whether it is new.
    ///
    /// # Errors
    /// [`Refusal::UnknownCapture`], [`Refusal::Unsettled`], [`Refusal::AboveCapture`] and
    /// [`Refusal::Zero`]; [`Refusal::Conflict`] if the id was used for another amount.
    pub async fn refund_part(
        &self,
        hold: HoldId,
        id: OperationId,
        amount: Credits,
        reason: Option<Arc<str>>,
    ) -> Result<(Entry, bool), Refusal> {
        self.request(Operation::RefundPart { hold, id, amount, reason }, posted).await
    }

    /// Imports all rows, or no row if one is refused; returns the outcome of each row. A dry run changes nothing.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn import(
        &self,
        import: Import,
    ) -> Result<Vec<Result<ImportedRow, Refusal>>, Refusal> {
        self.request(import.into(), |outcome| match outcome {
            Outcome::Imported(rows) => rows.into_iter().map(imported).collect(),
            _ => None,
        })
        .await
    }

    /// Stores API keys; returns the number of keys that were not stored before.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if a key is stored for another account, or its id for another key.
    pub async fn put_keys(&self, keys: Vec<KeyRecord>) -> Result<usize, Refusal> {
        self.request(Operation::PutKeys(keys), |outcome| match outcome {
            Outcome::KeysStored { new } => Some(new),
            _ => None,
        })
        .await
    }

    /// Revokes an API key.
    ///
    /// # Errors
    /// [`Refusal::UnknownKey`].
    pub async fn revoke_key(&self, id: Arc<str>) -> Result<(), Refusal> {
        self.request(Operation::RevokeKey { id }, |outcome| match outcome {
            Outcome::KeyRevoked => Some(()),
            _ => None,
        })
        .await
    }

    /// Stores an event in the inbox; returns its state, and whether it is new.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn record_event(&self, event: NewEvent) -> Result<(EventState, bool), Refusal> {
        self.request(Operation::RecordEvent(event), |outcome| match outcome {
            Outcome::EventRecorded { state, new } => Some((state, new)),
            _ => None,
        })
        .await
    }

    /// Records the final state of an event that moves no credits.
    ///
    /// # Errors
    /// [`Refusal::UnknownEvent`].
    pub async fn end_event(
        &self,
        id: Arc<str>,
        state: EventState,
        note: Option<Arc<str>>,
    ) -> Result<(), Refusal> {
        self.request(Operation::EndEvent { id, state, note }, |outcome| match outcome {
            Outcome::EventEnded => Some(()),
            _ => None,
        })
        .await
    }

    /// Adds facts to a payment, and moves the credits that follow from them.
    ///
    /// # Errors
    /// [`Refusal::UnknownEvent`], [`Refusal::OutOfRange`]; [`Refusal::Conflict`] if the facts join two
    /// sales.
    pub async fn take_facts(&self, facts: TakeFacts) -> Result<PaymentChange, Refusal> {
        self.request(Operation::TakeFacts(Box::new(facts)), |outcome| match outcome {
            Outcome::PaymentChanged(change) => Some(*change),
            _ => None,
        })
        .await
    }

    /// Records an account's customer at Stripe. A customer that is recorded already is replaced only if
    /// it is `instead_of`. Returns the customer that is recorded now.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn record_customer(
        &self,
        account: AccountId,
        customer: Arc<str>,
        instead_of: Option<Arc<str>>,
    ) -> Result<Arc<str>, Refusal> {
        let record = Operation::RecordCustomer { account, customer, instead_of };
        self.request(record, |outcome| match outcome {
            Outcome::CustomerRecorded(customer) => Some(customer),
            _ => None,
        })
        .await
    }

    /// Unfreezes an account. Returns the number of disputes that had frozen it.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn thaw(&self, account: AccountId) -> Result<usize, Refusal> {
        self.request(Operation::Thaw { account }, |outcome| match outcome {
            Outcome::Thawed { disputes } => Some(disputes),
            _ => None,
        })
        .await
    }

    /// Checks the stored ledger against itself and against memory.
    ///
    /// # Errors
    /// Fails if the ledger cannot be read.
    pub async fn reconcile(&self) -> Result<ReconcileReport, LedgerError> {
        self.reader.catch_up().await?;
        let audit = self.request(Operation::Audit, |outcome| match outcome {
            Outcome::Audited(differences) => Some(differences),
            _ => None,
        });
        let audit = audit.await;
        let mut report = self.reader.reconcile().await?;
        report.differences.extend(audit?);
        Ok(report)
    }

    /// Folds entries older than `before_ms` into opening balances, slice by slice. After each slice the
    /// ledger serves other operations for as long as that slice took.
    ///
    /// # Errors
    /// Fails if the ledger cannot write. Slices that were folded before the failure stay folded.
    pub async fn fold(&self, before_ms: i64) -> Result<FoldReport, LedgerError> {
        self.fold_months(before_ms, OldMonths::Keep).await
    }

    /// Like [`Ledger::fold`]. `months` says what happens to the tables of whole months, if the
    /// ledger has such tables.
    ///
    /// # Errors
    /// The same as for [`Ledger::fold`].
    pub async fn fold_months(
        &self,
        before_ms: i64,
        months: OldMonths,
    ) -> Result<FoldReport, LedgerError> {
        if let Some(report) = self.reader.fold(before_ms, months).await? {
            return Ok(report);
        }
        let mut report = FoldReport::default();
        let mut from = None;
        loop {
            let started = Instant::now();
            let slice =
                self.request(Operation::Fold { before_ms, from }, |outcome| match outcome {
                    Outcome::Folded { report, next } => Some((report, next)),
                    _ => None,
                });
            let (slice, next) = slice.await?;
            report.accounts = report.accounts.saturating_add(slice.accounts);
            report.entries = report.entries.saturating_add(slice.entries);
            from = next;
            if from.is_none() {
                return Ok(report);
            }
            tokio::time::sleep(started.elapsed()).await;
        }
    }

    /// From now on, a call whose hold is dropped without a capture or a release counts as cut off.
    pub fn cut_calls_off(&self) {
        self.holds.live.cut_off();
    }
}

fn held(outcome: Outcome) -> Option<Balance> {
    match outcome {
        Outcome::Held { after } => Some(after),
        _ => None,
    }
}

fn closed(outcome: Outcome) -> Option<ClosedHold> {
    match outcome {
        Outcome::Captured { after, late, end } => {
            Some(ClosedHold { is_captured: true, is_late: late, after, end })
        }
        Outcome::Released { after, end } => {
            Some(ClosedHold { is_captured: false, is_late: false, after, end })
        }
        _ => None,
    }
}

fn posted(outcome: Outcome) -> Option<(Entry, bool)> {
    match outcome {
        Outcome::Posted { entry, new } => Some((entry, new)),
        _ => None,
    }
}

fn imported(outcome: Outcome) -> Option<Result<ImportedRow, Refusal>> {
    match outcome {
        Outcome::Posted { entry, new } => Some(Ok(ImportedRow::Granted { entry, new })),
        Outcome::KeysStored { new } => Some(Ok(ImportedRow::KeyStored { new: new > 0 })),
        Outcome::Refused(refusal) => Some(Err(refusal)),
        _ => None,
    }
}
