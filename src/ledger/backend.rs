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

/// A batch that a backend has decided.
pub enum Begun {
    /// The outcomes may be answered.
    Done(Vec<Outcome>),
    /// The outcomes may be answered once they are durable, which this future waits for. The next batch may be decided
    /// meanwhile.
    Committing(Pin<Box<dyn Future<Output = Vec<Outcome>> + Send>>),
}

/// A backend decides operations and makes them durable. The pipeline owns it, so it needs no lock.
pub trait Backend: Send + 'static {
    /// Decides the operations in order; each sees the changes of the operations before it. When this
    /// returns, each outcome is as durable as `[ledger] durability` promises. An operation with the
    /// outcome [`Refusal::Unavailable`](crate::ledger::Refusal::Unavailable) changed nothing, and may
    /// be tried again.
    fn apply(&mut self, batch: &[Operation]) -> impl Future<Output = Vec<Outcome>> + Send;

    /// The same, for a backend that can decide a batch while the one before is not durable yet.
    fn begin(&mut self, batch: &Arc<Vec<Operation>>) -> impl Future<Output = Begun> + Send {
        async { Begun::Done(self.apply(batch).await) }
    }

    /// Does the work that is due by time: writes pending changes, and expires the holds whose time has
    /// run out. A hold for which `is_live` returns true is renewed instead of expired. Returns the
    /// holds that expired.
    fn tick(&mut self, is_live: &IsLive<'_>) -> impl Future<Output = Vec<Expired>> + Send;

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
