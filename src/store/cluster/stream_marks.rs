//! Marks: the batches up to which the stream may be trimmed, because Postgres has had them long enough.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a batch stays in the stream after Postgres has it.
const KEPT_FOR: Duration = Duration::from_secs(180);

/// A batch leaves the stream early if this gateway has written more than this after it, in bytes of text.
const KEPT_BYTES: u64 = 64 << 20;

/// The time between two marks.
const MARK_EVERY: Duration = Duration::from_secs(5);

/// How many bytes are written between two marks that are not [`MARK_EVERY`] apart.
const MARK_BYTES: u64 = 4 << 20;

/// A place in the stream: the epoch, and the number of the batch in it.
pub(crate) type StreamId = (i64, i64);

/// The newest durable batch at several moments.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    marks: VecDeque<Mark>,
    /// The bytes of text that this gateway has written into Postgres since its start. Another gateway that writes counts
    /// its own, so that the memory is bounded whichever of them is the syncer.
    written: u64,
}

/// The newest durable batch at one moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    batch: StreamId,
    /// [`State::written`] at that moment.
    written: u64,
}

impl Marks {
    /// Records that this gateway has written batches into Postgres, up to `newest`, with this many bytes of text.
    pub fn wrote(&self, newest: StreamId, bytes: u64, now: Instant) {
        let mut state = self.lock();
        state.written = state.written.saturating_add(bytes);
        let marked = state.marks.back().map_or(0, |mark| mark.written);
        if state.written.saturating_sub(marked) >= MARK_BYTES {
            state.mark(newest, now);
        }
    }

    /// Records the newest batch that Postgres has. Returns the batch up to which the stream may be trimmed: Postgres
    /// has had that batch for [`KEPT_FOR`], or [`KEPT_BYTES`] of text after it.
    pub fn note(&self, newest: StreamId, now: Instant) -> Option<StreamId> {
        let mut state = self.lock();
        let age = |mark: &Mark| now.saturating_duration_since(mark.at);
        if state.marks.back().is_none_or(|mark| age(mark) >= MARK_EVERY) {
            state.mark(newest, now);
        }
        let (mut old, written) = (None, state.written);
        while let Some(mark) = state.marks.pop_front_if(|mark| {
            age(mark) >= KEPT_FOR || written.saturating_sub(mark.written) > KEPT_BYTES
        }) {
            old = Some(mark.batch);
        }
        old
    }

    /// Forgets all marks: the stream was trimmed at the newest batch that Postgres has.
    pub fn clear(&self) {
        self.lock().marks.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mark(&mut self, batch: StreamId, at: Instant) {
        let written = self.written;
        self.marks.push_back(Mark { at, batch, written });
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
        marks.clear();
        assert_eq!(marks.note((8, 191), at(400)), None, "the old marks are gone");
    }

    #[test]
    fn a_batch_stays_until_much_was_written_after_it() {
        let (marks, now) = (Marks::default(), Instant::now());
        let mib = |bytes: u64| bytes << 20;
        assert_eq!(marks.note((7, 0), now), None);
        for batch in 1..=64 {
            marks.wrote((7, batch), mib(1), now);
            assert_eq!(marks.note((7, batch), now), None, "{batch} MiB");
        }
        marks.wrote((7, 65), mib(1), now);
        assert_eq!(marks.note((7, 65), now), Some((7, 0)), "65 MiB after it");
        marks.wrote((7, 66), mib(3), now);
        assert_eq!(marks.note((7, 66), now), None, "64 MiB after the next mark");
        marks.wrote((7, 67), mib(5), now);
        assert_eq!(marks.note((7, 67), now), Some((7, 8)), "65 MiB after it");
        // A whole backlog is written at once.
        marks.wrote((7, 500), mib(400), now);
        assert_eq!(marks.note((7, 500), now), Some((7, 67)));
        assert_eq!(marks.lock().marks.len(), 1, "there is no mark in between");
    }
}
