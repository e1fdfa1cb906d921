//! Natural batching beside the pipeline: while a few groups of one kind are decided, the groups that come meanwhile wait
//! together, and are then decided as one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ledger::operation::{Operation, Outcome};
use crate::store::cluster::work::MAX_BATCH;

/// Groups of one kind. A bounded number of decisions is under way at once.
#[derive(Debug)]
pub(crate) struct Lane {
    room: Semaphore,
    /// The groups that wait for room, in the order in which their turns came.
    waiting: Mutex<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    operations: Arc<[Operation]>,
    outcomes: oneshot::Sender<Vec<Outcome>>,
}

impl Lane {
    /// Creates a lane in which at most `most` decisions are under way at once.
    pub fn new(most: usize) -> Self {
        Self { room: Semaphore::new(most), waiting: Mutex::default() }
    }

    /// Decides a group, together with the others that wait. Its turn must have come.
    ///
    /// `None` if there was no room before `until`, or the decision took longer than `limit`.
    pub async fn decide<F>(
        &self,
        operations: Arc<[Operation]>,
        until: Instant,
        limit: Duration,
        decide: impl Fn(Arc<[Operation]>) -> F,
    ) -> Option<Vec<Outcome>>
    where
        F: Future<Output = Vec<Outcome>>,
    {
        let (outcomes, mut decided) = oneshot::channel();
        self.lock().push(Waiting { operations: operations.clone(), outcomes });
        let room = tokio::select! {
            biased;
            // Another group had room, and has decided this one as well.
            outcomes = &mut decided => return outcomes.ok(),
            room = timeout_at(until, self.room.acquire()) => room,
        };
        let Ok(Ok(_room)) = room else {
            let is_being_decided = !self.withdraw(&operations);
            return if is_being_decided { decided.await.ok() } else { None };
        };
        while !self.lock().is_empty() && decided.is_empty() {
            let together = self.take();
            let all: Arc<[_]> =
                together.iter().flat_map(|group| group.operations.iter().cloned()).collect();
            // The groups of a decision that took too long hear so by their closed channels.
            let Ok(all) = timeout(limit, decide(all)).await else { break };
            let mut all = all.into_iter();
            for group in together {
                let its = all.by_ref().take(group.operations.len()).collect();
                // A group that nobody waits for any longer has been refused.
                let _ = group.outcomes.send(its);
            }
        }
        decided.await.ok()
    }

    /// Takes the groups that are decided next: at least one, and no more than a batch has room for. Groups whose callers
    /// are gone are forgotten.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.lock();
        waiting.retain(|group| !group.outcomes.is_closed());
        let mut operations = 0;
        let fit = waiting.iter().take_while(|group| {
            operations += group.operations.len();
            operations <= MAX_BATCH
        });
        let fit = fit.count().max(1).min(waiting.len());
        waiting.drain(..fit).collect()
    }

    /// Takes back a group that still waits. False if it does not wait any longer.
    fn withdraw(&self, operations: &Arc<[Operation]>) -> bool {
        let mut waiting = self.lock();
        let before = waiting.len();
        waiting.retain(|group| !Arc::ptr_eq(&group.operations, operations));
        waiting.len() < before
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::operation::Refusal;

    const LONG: Duration = Duration::from_secs(60);

    fn group() -> Arc<[Operation]> {
        [Operation::Audit].into()
    }

    #[tokio::test(start_paused = true)]
    async fn groups_that_wait_for_room_are_decided_together() {
        let (lane, sizes) = (Lane::new(1), Mutex::new(Vec::new()));
        let decide = |operations: Arc<[Operation]>| {
            sizes.lock().unwrap().push(operations.len());
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                vec![Outcome::Refused(Refusal::Conflict); operations.len()]
            }
        };
        let until = Instant::now() + LONG;
        let all = (0..40).map(|_| lane.decide(group(), until, LONG, decide));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(|outcomes| outcomes.as_ref().is_some_and(|its| its.len() == 1)));
        assert_eq!(*sizes.lock().unwrap(), [1, 39], "39 came while the first was decided");
    }

    #[tokio::test(start_paused = true)]
    async fn a_decision_that_takes_too_long_is_given_up_with_all_its_groups_and_the_next_goes_on() {
        let (lane, asked) = (Lane::new(1), Mutex::new(0));
        let decide = |operations: Arc<[Operation]>| {
            let number = {
                let mut asked = asked.lock().unwrap();
                *asked += 1;
                *asked
            };
            async move {
                match number {
                    2 => std::future::pending().await,
                    _ => tokio::time::sleep(Duration::from_secs(1)).await,
                }
                vec![Outcome::Refused(Refusal::Conflict); operations.len()]
            }
        };
        let (until, limit) = (Instant::now() + LONG, Duration::from_secs(5));
        let ask = || lane.decide(group(), until, limit, decide);
        let later = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            ask().await
        };
        let (first, stuck, stuck_too, later) = tokio::join!(ask(), ask(), ask(), later);
        assert!(first.is_some() && stuck.is_none() && stuck_too.is_none() && later.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_finds_no_room_in_time_is_never_decided() {
        let (lane, asked) = (Lane::new(1), Mutex::new(0));
        let decide = |operations: Arc<[Operation]>| {
            *asked.lock().unwrap() += operations.len();
            async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                vec![Outcome::Refused(Refusal::Conflict); operations.len()]
            }
        };
        let first = lane.decide(group(), Instant::now() + LONG, LONG, decide);
        let hasty = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lane.decide(group(), Instant::now() + Duration::from_secs(1), LONG, decide).await
        };
        let (first, hasty) = tokio::join!(first, hasty);
        assert!(first.is_some() && hasty.is_none());
        assert!(lane.decide(group(), Instant::now() + LONG, LONG, decide).await.is_some());
        assert_eq!(*asked.lock().unwrap(), 2);
    }
}
