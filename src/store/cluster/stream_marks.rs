//! Marks: the batches up to which the stream may be trimmed, because Postgres has had them long enough.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a batch stays in the stream after Postgres has it.
const KEPT_FOR: Duration = Duration::from_secs(180);

/// The time between two marks.
const MARK_EVERY: Duration = Duration::from_secs(5);

/// A place in the stream: the epoch, and the number of the batch in it.
pub(crate) type StreamId = (i64, i64);

/// The newest durable batch at several moments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<VecDeque<(Instant, StreamId)>>);

impl Marks {
    /// Records the newest batch that Postgres has. Returns the batch up to which the stream may be trimmed: Postgres
    /// has had that batch for [`KEPT_FOR`].
    pub fn note(&self, newest: StreamId, now: Instant) -> Option<StreamId> {
        let mut marks = self.lock();
        let age = |at: Instant| now.saturating_duration_since(at);
        if marks.back().is_none_or(|(at, _)| age(*at) >= MARK_EVERY) {
            marks.push_back((now, newest));
        }
        let mut old = None;
        while let Some((_, batch)) = marks.pop_front_if(|(at, _)| age(*at) >= KEPT_FOR) {
            old = Some(batch);
        }
        old
    }

    /// Forgets the oldest mark, and returns its batch: the stream is to be trimmed there early.
    pub fn give_up_oldest(&self) -> Option<StreamId> {
        self.lock().pop_front().map(|(_, batch)| batch)
    }

    /// Forgets all marks: the stream was trimmed at the newest batch that Postgres has.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, StreamId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_stays_for_minutes_after_postgres_has_it() {
        let (marks, began) = (Marks::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(marks.note((7, 1), at(0)), None);
        assert_eq!(marks.note((7, 2), at(4)), None, "no mark is due");
        for second in (5..180).step_by(5) {
            assert_eq!(marks.note((8, second as i64), at(second)), None);
        }
        assert_eq!(marks.note((8, 180), at(180)), Some((7, 1)));
        assert_eq!(marks.note((8, 190), at(190)), Some((8, 10)), "the newer of two");
        assert_eq!(marks.give_up_oldest(), Some((8, 15)));
        marks.clear();
        assert_eq!(marks.give_up_oldest(), None);
    }
}
