//! The redo log: the batches that this gateway acknowledged and Postgres may not have yet.
//!
//! If Redis loses its data, only this log still has the debits in these batches. A recovery takes
//! them from here.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::ledger::operation::Operation;
use crate::store::cluster::postgres::NumberedBatch;

/// The memory that a batch takes besides its text, in bytes.
const OVERHEAD: usize = size_of::<(Instant, NumberedBatch)>();

/// The redo log and its lock. Each method takes the lock once, and never across an await.
#[derive(Debug, Default)]
pub(crate) struct RedoLog(Mutex<Log>);

/// The batches of one epoch that this gateway caused, oldest first, until they are durable.
#[derive(Debug, Default)]
struct Log {
    epoch: i64,
    /// The newest batch of the epoch that Postgres is known to have.
    durable: i64,
    /// The newest batch of the epoch that is known.
    newest: i64,
    /// Whether the epoch has been given up. If so, replies of Redis are no longer passed on.
    closed: bool,
    batches: VecDeque<(Instant, NumberedBatch)>,
    /// Captures that were acknowledged as repetitions. Such a capture was decided earlier, in a
    /// batch whose reply was lost. It is stored with the number of the batch that was newest at its
    /// repetition: once that batch is durable, the capture is durable too.
    repeated: VecDeque<(Instant, i64, Operation)>,
    /// The memory that the batches take, in bytes. It is an estimate.
    bytes: usize,
}

/// The rest of the log, if the next epoch opened before the log was handed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Remainder {
    pub batches: Vec<NumberedBatch>,
    /// Captures that are in none of the batches.
    pub repeated: Vec<Operation>,
}

impl RedoLog {
    /// Begins an epoch. Returns the rest of the log of the epoch before. The rest is empty if
    /// `epoch` has already begun.
    pub fn begin(&self, epoch: i64) -> Remainder {
        let mut log = self.lock();
        if log.epoch == epoch {
            return Remainder::default();
        }
        let left = std::mem::replace(&mut *log, Log { epoch, ..Log::default() });
        Remainder {
            batches: left.batches.into_iter().map(|(_, batch)| batch).collect(),
            repeated: left.repeated.into_iter().map(|(_, _, operation)| operation).collect(),
        }
    }

    /// Records a reply of Redis. The batches up to `durable` are durable. `batch` and the captures
    /// in `repeated` are acknowledged now; the latter had been decided by batch `seq` at the
    /// latest. An epoch that was given up acknowledges nothing.
    pub fn record(
        &self,
        epoch: i64,
        durable: i64,
        seq: i64,
        repeated: Vec<Operation>,
        batch: Option<NumberedBatch>,
    ) {
        let mut log = self.lock();
        log.trim(epoch, durable);
        if log.epoch == epoch {
            log.newest = log.newest.max(seq);
        }
        for operation in repeated {
            log.repeat(epoch, seq, operation);
        }
        if let Some(batch) = batch {
            log.push(epoch, batch);
        }
    }

    /// The captures that are in none of the log's batches.
    pub fn repeated(&self) -> Vec<Operation> {
        self.lock().repeated.iter().map(|(_, _, operation)| operation.clone()).collect()
    }

    /// The newest batch of this epoch that may have one of these captures; `None` if there are none.
    pub fn repeated_up_to(&self, epoch: i64) -> Option<i64> {
        let log = self.lock();
        let newest = log.repeated.back().filter(|_| log.epoch == epoch);
        newest.map(|(_, seq, _)| *seq)
    }

    /// Removes these captures, because Postgres has them.
    pub fn forget_repeated(&self) {
        self.lock().repeated.clear();
    }

    /// Whether this epoch is the present one and has not been given up.
    pub fn is_open(&self, epoch: i64) -> bool {
        self.lock().is_open(epoch)
    }

    /// Gives an epoch up. Its log must then be handed over to the recovery.
    pub fn close(&self, epoch: i64) {
        let mut log = self.lock();
        log.closed |= log.epoch == epoch;
    }

    /// The oldest batches of an epoch: together at most `bytes`, or one larger batch. The flag is
    /// true if these are all batches of the log.
    pub fn oldest(&self, epoch: i64, bytes: usize) -> (Vec<NumberedBatch>, bool) {
        let log = self.lock();
        if log.epoch != epoch {
            return (Vec::new(), true);
        }
        let mut sum = 0_usize;
        let fit = log.batches.iter().take_while(|(_, batch)| {
            let is_first = sum == 0;
            sum = sum.saturating_add(batch.text.len() + OVERHEAD);
            is_first || sum <= bytes
        });
        let some: Vec<_> = fit.map(|(_, batch)| batch.clone()).collect();
        let are_all = some.len() == log.batches.len();
        (some, are_all)
    }

    /// Drops the batches up to `seq`, which have been handed over.
    pub fn handed_over(&self, epoch: i64, seq: i64) {
        let mut log = self.lock();
        if log.epoch == epoch {
            log.drop_up_to(seq);
        }
    }

    /// Drops the batches up to `durable`, which Postgres has.
    pub fn trim(&self, epoch: i64, durable: i64) {
        self.lock().trim(epoch, durable);
    }

    /// The newest batch of this epoch that Postgres is known to have; 0 if another epoch has begun.
    pub fn durable(&self, epoch: i64) -> i64 {
        self.known(epoch).0
    }

    /// The newest batch of this epoch that Postgres is known to have, and the newest one that is known at all. Both are 0
    /// if another epoch has begun, because its batches have the same numbers.
    pub fn known(&self, epoch: i64) -> (i64, i64) {
        let log = self.lock();
        if log.epoch == epoch { (log.durable, log.newest.max(log.durable)) } else { (0, 0) }
    }

    /// The epoch, and its newest batch that Postgres is known to have.
    pub fn checkpoint(&self) -> (i64, i64) {
        let log = self.lock();
        (log.epoch, log.durable)
    }

    /// The age of the oldest batch or capture, in seconds.
    pub fn lag(&self) -> f64 {
        let log = self.lock();
        let batch = log.batches.front().map(|(since, _)| *since);
        let repeated = log.repeated.front().map(|(since, _, _)| *since);
        let oldest = batch.into_iter().chain(repeated).min();
        oldest.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    /// The memory that the batches take, in bytes.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// True if everything is durable.
    pub fn is_empty(&self) -> bool {
        let log = self.lock();
        log.batches.is_empty() && log.repeated.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn is_open(&self, epoch: i64) -> bool {
        self.epoch == epoch && !self.closed
    }

    fn push(&mut self, epoch: i64, batch: NumberedBatch) {
        if self.is_open(epoch) && batch.seq > self.durable {
            self.bytes = self.bytes.saturating_add(batch.text.len() + OVERHEAD);
            // Two tasks may have asked Redis at once, and the reply to the later batch may have come first.
            let after = self.batches.iter().rev().take_while(|(_, other)| other.seq > batch.seq);
            let place = self.batches.len() - after.count();
            self.batches.insert(place, (Instant::now(), batch));
        }
    }

    fn repeat(&mut self, epoch: i64, seq: i64, operation: Operation) {
        if self.is_open(epoch) && seq > self.durable {
            let after = self.repeated.iter().rev().take_while(|(_, other, _)| *other > seq);
            let place = self.repeated.len() - after.count();
            self.repeated.insert(place, (Instant::now(), seq, operation));
        }
    }

    fn trim(&mut self, epoch: i64, durable: i64) {
        if self.epoch == epoch && durable > self.durable {
            self.durable = durable;
            self.drop_up_to(durable);
            while self.repeated.pop_front_if(|(_, seq, _)| *seq <= durable).is_some() {}
        }
    }

    fn drop_up_to(&mut self, seq: i64) {
        while let Some((_, batch)) = self.batches.pop_front_if(|(_, batch)| batch.seq <= seq) {
            self.bytes = self.bytes.saturating_sub(batch.text.len() + OVERHEAD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(seq: i64) -> NumberedBatch {
        NumberedBatch { seq, text: format!("{seq}") }
    }

    fn push(log: &RedoLog, epoch: i64, seq: i64) {
        log.record(epoch, 0, seq, vec![], Some(batch(seq)));
    }

    fn all(log: &RedoLog, epoch: i64) -> Vec<NumberedBatch> {
        log.oldest(epoch, usize::MAX).0
    }

    #[test]
    fn it_keeps_the_batches_of_its_own_epoch_that_are_not_durable() {
        let log = RedoLog::default();
        assert_eq!(log.begin(1), Remainder::default());
        (1..=3).for_each(|seq| push(&log, 1, seq));
        push(&log, 2, 4);
        assert_eq!(all(&log, 1), [batch(1), batch(2), batch(3)]);
        log.trim(1, 2);
        log.trim(2, 9);
        push(&log, 1, 2);
        assert_eq!(all(&log, 1), [batch(3)], "2 is durable already, so it need not be kept");
        assert!(log.lag() >= 0.0 && !log.is_empty());
        assert_eq!(log.checkpoint(), (1, 2));
        assert_eq!((log.known(1), log.known(2)), ((2, 3), (0, 0)), "numbers are an epoch's own");
        assert_eq!(log.begin(1), Remainder::default(), "the same epoch goes on");
        assert_eq!(log.begin(2).batches, [batch(3)]);
        assert!(log.is_empty() && log.durable(2) == 0);
    }

    #[test]
    fn batches_whose_replies_came_in_another_order_are_kept_in_theirs() {
        let log = RedoLog::default();
        log.begin(1);
        [2, 4, 1, 3].into_iter().for_each(|seq| push(&log, 1, seq));
        assert_eq!(all(&log, 1), [batch(1), batch(2), batch(3), batch(4)]);
        log.trim(1, 3);
        assert_eq!(all(&log, 1), [batch(4)]);
    }

    #[test]
    fn it_counts_its_memory() {
        let log = RedoLog::default();
        log.begin(1);
        (1..=9).for_each(|seq| push(&log, 1, seq));
        assert_eq!(log.bytes(), 9 * (1 + OVERHEAD));
        push(&log, 1, 10);
        log.trim(1, 9);
        assert_eq!(log.bytes(), 2 + OVERHEAD);
        log.handed_over(1, 10);
        assert_eq!(log.bytes(), 0);
        push(&log, 1, 11);
        log.begin(2);
        assert_eq!(log.bytes(), 0);
    }

    #[test]
    fn an_epoch_that_was_given_up_acknowledges_nothing() {
        let log = RedoLog::default();
        log.begin(1);
        push(&log, 1, 1);
        log.close(2);
        assert!(log.is_open(1));
        log.close(1);
        push(&log, 1, 2);
        assert!(!log.is_open(1) && all(&log, 1) == [batch(1)]);
        log.handed_over(1, 1);
        assert_eq!(log.begin(2), Remainder::default());
        push(&log, 2, 1);
        assert_eq!(all(&log, 2), [batch(1)]);
    }

    #[test]
    fn batches_that_were_not_handed_over_yet_are_still_there() {
        let log = RedoLog::default();
        log.begin(1);
        (1..=3).for_each(|seq| push(&log, 1, seq));
        log.close(1);
        assert_eq!(log.oldest(2, 9999), (vec![], true), "of another epoch it has nothing");
        log.handed_over(2, 3);
        assert_eq!(log.oldest(1, 0), (vec![batch(1)], false), "one at the least");
        assert_eq!(log.oldest(1, 2 * (1 + OVERHEAD)), (vec![batch(1), batch(2)], false));
        log.handed_over(1, 2);
        assert_eq!(log.oldest(1, 9999), (vec![batch(3)], true));
        assert_eq!(log.begin(2).batches, [batch(3)]);
    }

    #[test]
    fn a_repeated_capture_is_kept_until_it_is_durable() {
        let fold = |before_ms| Operation::Fold { before_ms, from: None };
        let repeat = |log: &RedoLog, epoch, seq| log.record(epoch, 0, seq, vec![fold(seq)], None);
        let log = RedoLog::default();
        log.begin(1);
        repeat(&log, 1, 3);
        repeat(&log, 1, 5);
        repeat(&log, 2, 9);
        log.trim(1, 3);
        repeat(&log, 1, 3);
        assert_eq!(log.repeated(), [fold(5)]);
        assert_eq!((log.repeated_up_to(1), log.repeated_up_to(2)), (Some(5), None));
        assert!(!log.is_empty());
        log.close(1);
        log.handed_over(1, 9);
        repeat(&log, 1, 9);
        assert_eq!(log.begin(2), Remainder { batches: vec![], repeated: vec![fold(5)] });
        assert!(log.is_empty());
    }
}
