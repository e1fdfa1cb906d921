//! Limits on the size of one step of work, for work that may have a long backlog.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A step that took longer than this does not make the next step larger. This is a third of the time that Postgres has
/// for a step.
const QUICK: Duration = Duration::from_millis(500);

/// The number of leading items that together weigh at most `most`; at least 1 if there are any items.
pub(crate) fn fitting<T>(items: &[T], most: usize, weight: impl Fn(&T) -> usize) -> usize {
    let mut sum = 0_usize;
    let fit = items.iter().take_while(|item| {
        sum = sum.saturating_add(weight(item));
        sum <= most
    });
    fit.count().max(1).min(items.len())
}

/// Splits items into chunks of at most `count` items that together weigh at most `most`. An item that alone weighs more
/// gets a chunk of its own.
pub(crate) fn chunks_within<T>(
    mut rest: &[T],
    count: usize,
    most: usize,
    weight: impl Fn(&T) -> usize,
) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let some;
        (some, rest) = rest.split_at(fitting(rest, most, &weight).min(count));
        (!some.is_empty()).then_some(some)
    })
}

/// The size of a step. It halves after a step that failed, and doubles after a quick one.
#[derive(Debug)]
pub(crate) struct AdaptiveLimit {
    now: AtomicUsize,
    most: usize,
}

impl AdaptiveLimit {
    /// Creates a limit of `most`, which is also the largest size.
    pub fn new(most: usize) -> Self {
        Self { now: AtomicUsize::new(most), most }
    }

    /// The size of the next step.
    pub fn get(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// Records that a step succeeded and took this long. The size doubles if a step of twice the size
    /// will still have enough time.
    pub fn grow(&self, took: Duration) {
        if took > QUICK {
            return;
        }
        self.now.store(self.get().saturating_mul(2).min(self.most), Ordering::Relaxed);
    }

    /// Records that a step of the size `had` failed.
    pub fn shrink(&self, had: usize) {
        self.now.store((self.get().min(had) / 2).max(1), Ordering::Relaxed);
    }
}

/// How many items to read at once so that they have a certain size together. The count follows the average size of the
/// items in the last read.
#[derive(Debug)]
pub(crate) struct ReadLimit {
    count: AtomicUsize,
    /// The size that a read should have, in bytes.
    bytes: usize,
}

impl ReadLimit {
    /// The least and the most items that are read at once.
    const LEAST: usize = 16;
    const MOST: usize = 1024;

    /// Creates a limit with a target of `bytes` bytes. The first read is of `count` items.
    pub fn new(count: usize, bytes: usize) -> Self {
        Self { count: AtomicUsize::new(count), bytes }
    }

    /// The number of items to read next.
    pub fn get(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Records that `items` items took `bytes` bytes.
    pub fn note(&self, items: usize, bytes: usize) {
        let Some(fit) = self.bytes.saturating_mul(items).checked_div(bytes) else { return };
        self.count.store(fit.clamp(Self::LEAST, Self::MOST), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_one_and_no_more_than_fit() {
        let of = |items: &[usize]| fitting(items, 10, |item| *item);
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[99]), 1);
        assert_eq!(of(&[4, 6, 1]), 2);
        assert_eq!(of(&[4, 7, 1]), 1);
        assert_eq!(of(&[usize::MAX, usize::MAX]), 1);
    }

    #[test]
    fn every_item_is_in_one_chunk() {
        let of = |items: &[usize]| {
            chunks_within(items, 3, 10, |item| *item).map(<[usize]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(of(&[1, 1, 1, 1]), [vec![1, 1, 1], vec![1]]);
        assert_eq!(of(&[4, 7, 99, 1]), [vec![4], vec![7], vec![99], vec![1]]);
    }

    #[test]
    fn a_limit_halves_and_grows_again() {
        let limit = AdaptiveLimit::new(100);
        limit.shrink(60);
        assert_eq!(limit.get(), 30);
        for _ in 0..9 {
            limit.shrink(1_000);
        }
        assert_eq!(limit.get(), 1);
        limit.grow(QUICK * 2);
        assert_eq!(limit.get(), 1, "slow enough as it is");
        for _ in 0..9 {
            limit.grow(QUICK / 2);
        }
        assert_eq!(limit.get(), 100);
    }

    #[test]
    fn as_many_are_read_as_fit_by_the_average_of_the_last_read() {
        let limit = ReadLimit::new(100, 100_000);
        limit.note(0, 0);
        assert_eq!(limit.get(), 100, "nothing was read");
        limit.note(4, 2_000);
        assert_eq!(limit.get(), 200);
        limit.note(2, 1_000_000);
        assert_eq!(limit.get(), ReadLimit::LEAST);
        limit.note(1_000, 1_000);
        assert_eq!(limit.get(), ReadLimit::MOST);
    }
}
