//! The handle by which the rest of the gateway uses the ledger.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::metrics::Metrics;

use super::backend::{Backend, Reader};
use super::crash::AfterCrash;
use super::error::LedgerError;
use super::hold::{CALL_TTL_MS, Hold, LiveHolds};
use super::operation::{
    Balance, CallId, HoldId, NewHold, Operation, Origin, Outcome, Posting, Refusal,
};
use super::pipeline::{Message, Pipeline, Request};
use super::report::{FoldReport, OldMonths, ReconcileReport};

/// A ledger in use. Cheap to clone; all clones share one pipeline.
#[derive(Clone, Debug)]
pub struct Ledger {
    queue: mpsc::UnboundedSender<Message>,
    live: Arc<LiveHolds>,
    reader: Arc<dyn Reader>,
    metrics: Metrics,
    /// Decides the hold of a call that is cut off: captured or released.
    after_crash: AfterCrash,
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
        (Self { queue, live, reader: Arc::new(reader), metrics, after_crash }, pipeline)
    }

    /// What is read beside the pipeline: entries, accounts, keys.
    pub fn read(&self) -> &dyn Reader {
        &*self.reader
    }

    /// Asks, and waits for the outcome.
    pub async fn ask(&self, operation: Operation) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let request = Message::Request(Request { operation, reply: Some(reply) });
        match self.queue.send(request) {
            // A stopped pipeline changes nothing any more.
            Err(_) => Outcome::Refused(Refusal::Unavailable),
            Ok(()) => outcome.await.unwrap_or(Outcome::Refused(Refusal::Unavailable)),
        }
    }

    /// Sets credits aside for a call. Dropping the future at any moment leaves no hold behind.
    ///
    /// # Errors
    /// [`Refusal::Insufficient`] and [`Refusal::Unavailable`].
    pub async fn hold(
        &self,
        id: CallId,
        account: AccountId,
        amount: Credits,
        route: Arc<str>,
    ) -> Result<Hold, Refusal> {
        let id = HoldId::from(id);
        let guard = Hold::arm(self.clone(), id.clone(), account.clone(), amount, route.clone());
        let hold =
            NewHold { id, account, amount, route, origin: Origin::Call, ttl_ms: CALL_TTL_MS };
        let refusal = match self.ask(Operation::Hold(hold)).await {
            Outcome::Held { after } => return Ok(guard.granted(after)),
            Outcome::Refused(refusal) => refusal,
            _ => Refusal::Unavailable,
        };
        self.metrics.holds.with_label_values(&[guard.route(), "refused"]).inc();
        guard.disarm();
        Err(refusal)
    }

    /// What the account has, after everything asked before; `None` where it does not exist.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn balance(&self, account: &AccountId) -> Result<Option<Balance>, Refusal> {
        match self.ask(Operation::Balance { account: account.clone() }).await {
            Outcome::Balance(balance) => Ok(balance),
            Outcome::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::Unavailable),
        }
    }

    /// Makes the account exist, with its sign-up grant the first time.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn open(&self, account: &AccountId, signup: Credits) -> Result<(), Refusal> {
        match self.ask(Operation::Open { account: account.clone(), signup }).await {
            Outcome::Opened { new } => {
                if new && !signup.is_zero() {
                    let granted = &self.metrics.credits_granted;
                    granted.with_label_values(&["signup"]).inc_by(signup.as_metric());
                }
                Ok(())
            }
            Outcome::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::Unavailable),
        }
    }

    /// Moves a balance, once; the entry, and whether it is new.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] where the id was used for something else, [`Refusal::OutOfRange`],
    /// [`Refusal::Zero`] and [`Refusal::Unavailable`].
    pub async fn post(&self, posting: Posting) -> Result<(super::Entry, bool), Refusal> {
        match self.ask(Operation::Post(posting)).await {
            Outcome::Posted { entry, new } => Ok((entry, new)),
            Outcome::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::Unavailable),
        }
    }

    /// Checks what the ledger must always hold, on disk and between disk and memory.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub async fn reconcile(&self) -> Result<ReconcileReport, LedgerError> {
        self.reader.catch_up().await?;
        let audit = self.ask(Operation::Audit).await;
        let mut report = self.reader.reconcile().await?;
        match audit {
            Outcome::Audited(differences) => report.differences.extend(differences),
            Outcome::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(LedgerError::Stopped),
        }
        Ok(report)
    }

    /// Folds entries older than `before_ms` into opening balances, slice by slice. Between the
    /// slices the ledger serves others for as long as a slice took.
    ///
    /// # Errors
    /// Where the ledger cannot write. What was folded until then stays so.
    pub async fn fold(&self, before_ms: i64) -> Result<FoldReport, LedgerError> {
        self.fold_months(before_ms, OldMonths::Keep).await
    }

    /// The same, and says what becomes of the tables of whole months, where there are any.
    ///
    /// # Errors
    /// As [`Ledger::fold`].
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
            match self.ask(Operation::Fold { before_ms, from }).await {
                Outcome::Folded { report: slice, next } => {
                    report.accounts = report.accounts.saturating_add(slice.accounts);
                    report.entries = report.entries.saturating_add(slice.entries);
                    from = next;
                }
                Outcome::Refused(refusal) => return Err(refusal.into()),
                _ => return Err(LedgerError::Stopped),
            }
            if from.is_none() {
                return Ok(report);
            }
            tokio::time::sleep(started.elapsed()).await;
        }
    }

    /// From here on a call whose hold is dropped, neither captured nor released, counts as cut off.
    pub fn cut_calls_off(&self) {
        self.live.cut_off();
    }

    /// How the hold of a call that is dropped now ends, where the call counts as cut off.
    pub(crate) fn cuts_off(&self) -> Option<AfterCrash> {
        self.live.are_cut_off().then_some(self.after_crash)
    }

    /// Sends the end of a call's hold. The pipeline tries it until it is done.
    pub(crate) fn settle(&self, operation: Operation) {
        if self.queue.send(Message::Request(Request { operation, reply: None })).is_err() {
            tracing::error!("a hold ended after the ledger had stopped; the next start ends it");
        }
    }

    pub(crate) fn live(&self) -> &LiveHolds {
        &self.live
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
