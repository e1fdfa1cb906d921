//! Batches that Postgres does not take, because another transaction keeps a row locked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a row has to keep batches back until it counts as locked. A row that is only busy is free earlier, even on a
/// busy machine.
const LOCKED_AFTER: Duration = Duration::from_millis(250);

/// How long a row has to be locked until the log says so, and the time between two such lines.
pub(crate) const TELL_AFTER: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The batches that this gateway knows to be kept back by a locked row.
#[derive(Debug, Default)]
pub(crate) struct StuckBatches {
    stuck: Mutex<Option<Stuck>>,
    /// The time of the newest line of the log about a locked row.
    told: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
struct Stuck {
    epoch: i64,
    /// The newest of the batches.
    seq: i64,
    since: Instant,
}

impl StuckBatches {
    /// Notes that Postgres did not take the batches up to this one (epoch and batch), because a row was locked.
    /// `checkpoint` is the newest batch that Postgres is known to have.
    pub fn note(&self, (epoch, seq): (i64, i64), checkpoint: (i64, i64)) {
        let mut stuck = self.lock();
        let before = stuck.filter(|before| before.is_left(checkpoint));
        let since = before.map_or_else(Instant::now, |before| before.since);
        *stuck = Some(Stuck { epoch, seq, since });
    }

    /// Whether a row has kept batches back for a while, and Postgres, which has those up to this checkpoint, lacks some of
    /// them.
    pub fn are_left(&self, checkpoint: (i64, i64)) -> bool {
        let stuck = *self.lock();
        stuck
            .is_some_and(|stuck| stuck.is_left(checkpoint) && stuck.since.elapsed() >= LOCKED_AFTER)
    }

    /// Whether a row has kept batches back for so long that the log should say so, and it has not done so for a while. It
    /// counts as said from now on.
    pub fn are_news(&self) -> bool {
        if self.lock().is_none_or(|stuck| stuck.since.elapsed() < TELL_AFTER) {
            return false;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if is_time {
            *told = Some(Instant::now());
        }
        is_time
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stuck>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stuck {
    fn is_left(self, (epoch, durable): (i64, i64)) -> bool {
        self.epoch == epoch && durable < self.seq
    }
}
