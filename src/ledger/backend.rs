//! The contract of a ledger's backend: one function takes a batch of operations and returns an outcome for
//! each.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::crash::AfterCrash;
use crate::ledger::operation::{HoldId, Operation, Outcome};

/// A hold that ended because its time ran out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The hold.
    pub hold: HoldId,
    /// The hold's route, for the metric.
    pub route: Arc<str>,
}

/// Tells whether a hold belongs to a call that is running in this process.
pub type IsLive<'a> = dyn Fn(&HoldId) -> bool + Send + Sync + 'a;

/// A result that a backend promises for later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A batch that a backend has begun to decide.
pub struct Begun {
    /// The outcomes of the operations that are neither in `aside` nor in `waiting`, in order.
    pub outcomes: Outcomes,
    /// Operations that wait for something which may take long. Usually there are none.
    pub aside: Vec<Aside>,
    /// The places of operations that must not be decided before others that are set aside, in order. They are to be
    /// asked for again after operations that were set aside are decided. Usually there are none.
    pub waiting: Vec<usize>,
}

/// The outcomes of operations that a backend has decided.
pub enum Outcomes {
    /// The outcomes may be passed to the callers.
    Ready(Vec<Outcome>),
    /// The outcomes may be passed to the callers once they are durable; this future waits for that. The next batch may
    /// be decided meanwhile.
    Committing(Later<Vec<Outcome>>),
}

/// Some operations of a batch that are decided beside the pipeline, while it decides other batches.
pub struct Aside {
    /// The places of these operations in the batch, in order.
    pub places: Vec<usize>,
    /// Decides these operations. The future ends within a time limit.
    pub outcomes: Later<Vec<Outcome>>,
}

/// The work of a backend that is due by time.
pub enum Ticked {
    /// The work is done; these holds expired.
    Done(Vec<Expired>),
    /// The work continues beside the pipeline.
    Going(Later<Vec<Expired>>),
}

impl From<Vec<Outcome>> for Begun {
    fn from(outcomes: Vec<Outcome>) -> Self {
        Self { outcomes: Outcomes::Ready(outcomes), aside: Vec::new(), waiting: Vec::new() }
    }
}

/// A backend decides operations and makes them durable. The pipeline owns it, so it needs no lock.
pub trait Backend: Send + 'static {
    /// Decides the operations in order; each sees the changes of the operations before it. When this
    /// returns, each outcome is as durable as `[ledger] durability` promises. An operation with the
    /// outcome [`Refusal::Unavailable`](crate::ledger::Refusal::Unavailable) changed nothing, and may
    /// be tried again.
    fn apply(&mut self, batch: &[Operation]) -> impl Future<Output = Vec<Outcome>> + Send;

    /// Like [`Backend::apply`], for a backend that can decide a batch while the one before is not durable yet, or while
    /// some of its operations wait. Operations that name the same account, hold, claim or id are decided in their order;
    /// the order of all others may change.
    ///
    /// `rejoins` is true if operations that were set aside are decided since the batch before. The batch then begins with
    /// all operations that were left waiting so far (`Begun::waiting`), in their order. If it is false, they go on
    /// waiting, and so does every operation that must not be decided before them.
    fn begin(
        &mut self,
        batch: &Arc<Vec<Operation>>,
        rejoins: bool,
    ) -> impl Future<Output = Begun> + Send {
        let _ = rejoins;
        async { self.apply(batch).await.into() }
    }

    /// Operations that the backend itself owes and may decide now, beside the pipeline. They have no places in a batch.
    fn owed(&mut self) -> Option<Aside> {
        None
    }

    /// Whether the operations that were left waiting may be asked for again, now that others which were set aside are
    /// decided. False if all of them would have to wait further.
    fn lets_rejoin(&mut self) -> bool {
        true
    }

    /// Does the work that is due by time: writes pending changes, and expires the holds whose time has
    /// run out. A hold for which `is_live` returns true is renewed instead of expired. Returns the
    /// holds that expired.
    fn tick(&mut self, is_live: &IsLive<'_>) -> impl Future<Output = Vec<Expired>> + Send;

    /// Like [`Backend::tick`], for a backend that can decide batches while some of the work continues.
    fn begin_tick(&mut self, is_live: &IsLive<'_>) -> impl Future<Output = Ticked> + Send {
        async { Ticked::Done(self.tick(is_live).await) }
    }

    /// Whether the hold of a call that was cut off is captured or released.
    fn after_crash(&self) -> AfterCrash {
        AfterCrash::Release
    }

    /// The time from now until the next [`Backend::tick`] is due.
    fn tick_after(&self) -> Duration;

    /// How long the ends of calls' holds may wait for an operation whose caller waits, so that one commit writes both.
    /// Zero if waiting saves nothing.
    fn ends_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// The fewest callers of a batch that may begin once half of the running calls are in it. The other calls have work
    /// to do while the backend decides this batch. `None` if a batch takes every operation that is ready.
    fn fewest_callers(&self) -> Option<usize> {
        None
    }

    /// Stores the ends of holds in `unsettled`, which this gateway could not decide, for the gateway that serves the
    /// ledger next. Removes the stored ends from `unsettled`. A backend that cannot store them leaves `unsettled`
    /// unchanged. Called only before [`Backend::close`].
    fn hand_over(&mut self, unsettled: &mut Vec<Operation>) -> impl Future<Output = ()> + Send {
        let _ = unsettled;
        async {}
    }

    /// Writes all pending changes, and closes the ledger. Returns false if that failed. The caller
    /// may then try again after another [`Backend::tick`].
    fn close(&mut self) -> impl Future<Output = bool> + Send;
}
