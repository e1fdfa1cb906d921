//! Replays that wait to be written. All waiting replays of a call become one change of its row.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::ledger::operation::HoldId;
use crate::ledger::{Replays, wall_ms};

/// How long a row is kept after its last replay, in milliseconds: longer than a customer is likely to question a bill.
pub(crate) const KEEP_MS: i64 = 400 * 24 * 3600 * 1000;

/// The most calls whose replays may wait. While the store cannot be written, replays of further calls are
/// not counted.
const MOST: usize = 50_000;

/// Replays by their calls, in the order in which all gateways write them.
pub(crate) type Counts = BTreeMap<HoldId, Replays>;

type Waiting = Arc<Mutex<Counts>>;

/// Passes replays to the task that writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ReplaySender {
    waiting: Waiting,
    wake: mpsc::Sender<()>,
}

/// The replays that wait for the task that writes them.
#[derive(Debug)]
pub(crate) struct ReplayInbox {
    waiting: Waiting,
    woken: mpsc::Receiver<()>,
}

/// Creates both ends: one for the code that counts replays, and one for the task that writes them.
pub(crate) fn replay_channel() -> (ReplaySender, ReplayInbox) {
    let waiting = Waiting::default();
    let (wake, woken) = mpsc::channel(1);
    (ReplaySender { waiting: waiting.clone(), wake }, ReplayInbox { waiting, woken })
}

impl ReplaySender {
    /// Counts a replay that is sent now. Does not wait.
    pub fn count(&self, call: &HoldId) {
        let now = Replays { times: 1, last_ms: wall_ms() };
        add(&mut lock(&self.waiting), call.clone(), now);
        // A full channel has woken the task already.
        let _ = self.wake.try_send(());
    }
}

impl ReplayInbox {
    /// Waits until there may be replays to write. Returns false once all senders are gone.
    pub async fn is_woken(&mut self) -> bool {
        self.woken.recv().await.is_some()
    }

    /// Whether all senders are gone.
    pub fn is_abandoned(&self) -> bool {
        self.woken.is_closed()
    }

    /// Takes all replays that wait.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut *lock(&self.waiting))
    }

    /// Puts back replays that could not be written, so that the next attempt writes them.
    pub fn give_back(&self, counts: Counts) {
        let mut waiting = lock(&self.waiting);
        for (call, replays) in counts {
            add(&mut waiting, call, replays);
        }
    }
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, Counts> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(waiting: &mut Counts, call: HoldId, more: Replays) {
    if waiting.len() >= MOST && !waiting.contains_key(&call) {
        return;
    }
    let all = waiting.entry(call).or_insert(Replays { times: 0, last_ms: more.last_ms });
    all.times = all.times.saturating_add(more.times);
    all.last_ms = all.last_ms.max(more.last_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replays_of_one_call_are_written_together_and_none_is_lost_by_a_failure() {
        let (sender, mut inbox) = replay_channel();
        let [first, second] = [(); 2].map(|()| HoldId::for_call());
        (0..1000).for_each(|_| sender.count(&first));
        assert!(inbox.is_woken().await);
        let taken = inbox.take();
        assert_eq!((taken.len(), taken[&first].times), (1, 1000));
        sender.count(&first);
        sender.count(&second);
        inbox.give_back(taken);
        assert!(inbox.is_woken().await);
        let taken = inbox.take();
        assert_eq!((taken[&first].times, taken[&second].times), (1001, 1));
        assert!(inbox.take().is_empty());
        drop(sender);
        assert!(!inbox.is_woken().await);
    }

    #[test]
    fn replays_that_cannot_be_written_take_a_bounded_memory() {
        let (sender, inbox) = replay_channel();
        let known = HoldId::for_call();
        sender.count(&known);
        (0..=MOST).for_each(|_| sender.count(&HoldId::for_call()));
        sender.count(&known);
        let taken = inbox.take();
        assert_eq!((taken.len(), taken[&known].times), (MOST, 2));
    }
}
