//! One gateway's view of the syncer, the gateway that writes batches into Postgres: whether this gateway is the syncer,
//! and how far Postgres lags behind Redis.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far Postgres may lag behind before a gateway that is not the syncer helps: the syncer may have died.
const HELP_AFTER: Duration = Duration::from_millis(500);

/// The most marks that are kept. Two marks are at least a round of the syncer apart.
const MARKS: usize = 4096;

/// One gateway's view of the syncer.
#[derive(Debug, Default)]
pub(crate) struct Syncer(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The time until which this gateway is the syncer; `None` if it is not.
    elected_until: Option<Instant>,
    /// The epoch of the marks.
    epoch: i64,
    /// Batches that were the newest at some moment and are not known to be in Postgres's tables, oldest first.
    marks: VecDeque<(i64, Instant)>,
}

impl Syncer {
    /// Records the newest batch of an epoch, and the newest batch that is in Postgres's tables.
    pub fn note(&self, epoch: i64, newest: i64, durable: i64) {
        let mut state = self.lock();
        if state.epoch != epoch {
            (state.epoch, state.marks) = (epoch, VecDeque::new());
        }
        while state.marks.pop_front_if(|(seq, _)| *seq <= durable).is_some() {}
        let is_new = state.marks.back().is_none_or(|(seq, _)| *seq < newest);
        if newest > durable && is_new && state.marks.len() < MARKS {
            state.marks.push_back((newest, Instant::now()));
        }
    }

    /// The age of the oldest decision of Redis that is not in Postgres's tables, measured by the oldest mark.
    pub fn lag(&self) -> Duration {
        self.lock().marks.front().map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// Whether this gateway writes batches now: it is the syncer, or the syncer lags.
    pub fn writes(&self) -> bool {
        self.is_elected() || self.lag() > HELP_AFTER
    }

    /// Whether this gateway is the syncer.
    pub fn is_elected(&self) -> bool {
        self.lock().elected_until.is_some_and(|until| Instant::now() < until)
    }

    /// Sets until when this gateway is the syncer; `None` if it is not. Returns whether it was the syncer before.
    pub fn elect(&self, until: Option<Instant>) -> bool {
        std::mem::replace(&mut self.lock().elected_until, until).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_WHILE: Duration = Duration::from_secs(3);

    #[test]
    fn the_lag_is_the_age_of_the_oldest_batch_that_is_not_written() {
        let syncer = Syncer::default();
        syncer.note(1, 5, 5);
        assert_eq!(syncer.lag(), Duration::ZERO);
        syncer.note(1, 6, 5);
        std::thread::sleep(Duration::from_millis(5));
        syncer.note(1, 7, 5);
        syncer.note(1, 7, 5);
        let lag = syncer.lag();
        assert!(lag >= Duration::from_millis(5), "{lag:?}");
        syncer.note(1, 7, 6);
        assert!(syncer.lag() < lag, "only the second one is left");
        syncer.note(1, 7, 7);
        assert_eq!(syncer.lag(), Duration::ZERO);
        syncer.note(1, 9, 7);
        syncer.note(2, 0, 0);
        assert_eq!(syncer.lag(), Duration::ZERO, "another epoch begins");
    }

    #[test]
    fn a_gateway_writes_while_it_is_elected_or_the_syncer_lags() {
        let syncer = Syncer::default();
        assert!(!syncer.writes());
        syncer.elect(Some(Instant::now() + A_WHILE));
        assert!(syncer.writes() && syncer.is_elected());
        assert!(syncer.elect(Some(Instant::now())));
        assert!(!syncer.writes(), "it was not elected again");
    }
}
