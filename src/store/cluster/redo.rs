//! What this gateway acknowledged and Postgres may not have yet: all that stands between a Redis that
//! loses its data and a lost debit.

use std::collections::VecDeque;
use std::time::Instant;

use crate::ledger::operation::Operation;
use crate::store::cluster::postgres::NumberedBatch;

/// The batches of one epoch that this gateway caused, oldest first, until they are durable.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    epoch: i64,
    durable: i64,
    /// The epoch is given up: what Redis says of it now is told to nobody.
    closed: bool,
    batches: VecDeque<(Instant, NumberedBatch)>,
    /// What was acknowledged because it had been done before, in a batch whose answer never came: with the
    /// newest batch at that moment, up to which it must be.
    repeated: VecDeque<(Instant, i64, Operation)>,
    /// What they take, roughly.
    bytes: usize,
}

/// What a gateway remembers of an epoch that opened the next one without it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    pub batches: Vec<NumberedBatch>,
    /// No part of these batches.
    pub repeated: Vec<Operation>,
}

/// What a batch takes besides its text.
const OVERHEAD: usize = size_of::<(Instant, NumberedBatch)>();

impl Ring {
    /// Begins an epoch; what is left of the one before.
    pub fn begin(&mut self, epoch: i64) -> Left {
        if self.epoch == epoch {
            return Left::default();
        }
        let left = std::mem::take(self);
        self.epoch = epoch;
        Left {
            batches: left.batches.into_iter().map(|(_, batch)| batch).collect(),
            repeated: left.repeated.into_iter().map(|(_, _, operation)| operation).collect(),
        }
    }

    /// Keeps a batch of this epoch. False where that has been given up.
    pub fn push(&mut self, epoch: i64, batch: NumberedBatch) -> bool {
        if self.epoch != epoch || self.closed {
            return false;
        }
        if batch.seq > self.durable {
            self.bytes = self.bytes.saturating_add(batch.text.len() + OVERHEAD);
            self.batches.push_back((Instant::now(), batch));
        }
        true
    }

    /// Keeps what was done by `seq` at the latest. Where this epoch has been given up, it is told to nobody.
    pub fn repeat(&mut self, epoch: i64, seq: i64, operation: Operation) {
        if self.is_open(epoch) && seq > self.durable {
            self.repeated.push_back((Instant::now(), seq, operation));
        }
    }

    /// What was acknowledged because it had been done before, and is in none of the batches.
    pub fn repeated(&self) -> impl Iterator<Item = &Operation> {
        self.repeated.iter().map(|(_, _, operation)| operation)
    }

    /// It is in Postgres.
    pub fn forget_repeated(&mut self) {
        self.repeated.clear();
    }

    /// True while this epoch has not been given up.
    pub fn is_open(&self, epoch: i64) -> bool {
        self.epoch == epoch && !self.closed
    }

    /// Gives an epoch up: what it has now has to be handed over.
    pub fn close(&mut self, epoch: i64) {
        self.closed |= self.epoch == epoch;
    }

    /// The oldest batches of an epoch, of so many bytes together or one, and whether these are all.
    pub fn oldest(&self, epoch: i64, bytes: usize) -> (Vec<NumberedBatch>, bool) {
        if self.epoch != epoch {
            return (Vec::new(), true);
        }
        let mut sum = 0_usize;
        let fit = self.batches.iter().take_while(|(_, batch)| {
            let is_first = sum == 0;
            sum = sum.saturating_add(batch.text.len() + OVERHEAD);
            is_first || sum <= bytes
        });
        let some: Vec<_> = fit.map(|(_, batch)| batch.clone()).collect();
        let are_all = some.len() == self.batches.len();
        (some, are_all)
    }

    /// Batches up to this one are handed over.
    pub fn handed(&mut self, epoch: i64, seq: i64) {
        if self.epoch == epoch {
            self.drop_upto(seq);
        }
    }

    /// Batches up to this one are in Postgres.
    pub fn trim(&mut self, epoch: i64, durable: i64) {
        if self.epoch == epoch && durable > self.durable {
            self.durable = durable;
            self.drop_upto(durable);
            while self.repeated.pop_front_if(|(_, seq, _)| *seq <= durable).is_some() {}
        }
    }

    fn drop_upto(&mut self, seq: i64) {
        while let Some((_, batch)) = self.batches.pop_front_if(|(_, batch)| batch.seq <= seq) {
            self.bytes = self.bytes.saturating_sub(batch.text.len() + OVERHEAD);
        }
    }

    /// Up to which batch of the epoch Postgres is known to be.
    pub fn durable(&self) -> i64 {
        self.durable
    }

    /// The epoch, and up to which batch of it Postgres was known to be.
    pub fn known(&self) -> (i64, i64) {
        (self.epoch, self.durable)
    }

    /// For how long the oldest has waited, in seconds.
    pub fn lag(&self) -> f64 {
        let batch = self.batches.front().map(|(since, _)| *since);
        let repeated = self.repeated.front().map(|(since, _, _)| *since);
        let oldest = batch.into_iter().chain(repeated).min();
        oldest.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    /// The memory that they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True where everything is durable.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.repeated.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(seq: i64) -> NumberedBatch {
        NumberedBatch { seq, text: format!("{seq}") }
    }

    #[test]
    fn it_keeps_what_is_not_durable_of_its_own_epoch() {
        let mut ring = Ring::default();
        assert_eq!(ring.begin(1), Left::default());
        assert!((1..=3).all(|seq| ring.push(1, batch(seq))));
        assert!(!ring.push(2, batch(4)));
        ring.trim(1, 2);
        ring.trim(2, 9);
        assert!(ring.push(1, batch(2)), "durable already, so it need not be kept");
        assert!(ring.lag() >= 0.0 && !ring.is_empty());
        assert_eq!(ring.begin(1), Left::default(), "the same epoch goes on");
        assert_eq!(ring.begin(2).batches, [batch(3)]);
        assert!(ring.is_empty() && ring.durable() == 0);
    }

    #[test]
    fn it_knows_what_it_takes() {
        let mut ring = Ring::default();
        ring.begin(1);
        for seq in 1..=9 {
            ring.push(1, batch(seq));
        }
        assert_eq!(ring.bytes(), 9 * (1 + OVERHEAD));
        ring.push(1, batch(10));
        ring.trim(1, 9);
        assert_eq!(ring.bytes(), 2 + OVERHEAD);
        ring.handed(1, 10);
        assert_eq!(ring.bytes(), 0);
        ring.push(1, batch(11));
        ring.begin(2);
        assert_eq!(ring.bytes(), 0);
    }

    #[test]
    fn an_epoch_that_was_given_up_acknowledges_nothing() {
        let mut ring = Ring::default();
        ring.begin(1);
        ring.push(1, batch(1));
        ring.close(2);
        assert!(ring.is_open(1));
        ring.close(1);
        assert!(!ring.is_open(1) && !ring.push(1, batch(2)));
        ring.handed(1, 1);
        assert_eq!(ring.begin(2), Left::default());
        assert!(ring.push(2, batch(1)));
    }

    #[test]
    fn what_was_not_handed_over_yet_is_still_there() {
        let mut ring = Ring::default();
        ring.begin(1);
        for seq in 1..=3 {
            ring.push(1, batch(seq));
        }
        ring.close(1);
        assert_eq!(ring.oldest(2, 9999), (vec![], true), "of another epoch it has nothing");
        ring.handed(2, 3);
        assert_eq!(ring.oldest(1, 0), (vec![batch(1)], false), "one at the least");
        assert_eq!(ring.oldest(1, 2 * (1 + OVERHEAD)), (vec![batch(1), batch(2)], false));
        ring.handed(1, 2);
        assert_eq!(ring.oldest(1, 9999), (vec![batch(3)], true));
        assert_eq!(ring.begin(2).batches, [batch(3)]);
    }

    #[test]
    fn what_was_repeated_is_kept_until_it_is_durable() {
        let fold = |before_ms| Operation::Fold { before_ms, from: None };
        let mut ring = Ring::default();
        ring.begin(1);
        ring.repeat(1, 3, fold(3));
        ring.repeat(1, 5, fold(5));
        ring.repeat(2, 9, fold(9));
        ring.trim(1, 3);
        ring.repeat(1, 3, fold(4));
        assert!(!ring.is_empty());
        ring.close(1);
        ring.handed(1, 9);
        ring.repeat(1, 9, fold(9));
        assert_eq!(ring.begin(2), Left { batches: vec![], repeated: vec![fold(5)] });
        assert!(ring.is_empty());
    }
}
