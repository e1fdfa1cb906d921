//! How much is taken up at once, where a step has a limit and what waits has none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A step that takes longer is large enough: a third of what Postgres is given for one.
const QUICK: Duration = Duration::from_millis(500);

/// How many of the first of `items` together weigh at most `most`; at least one, where there is one.
pub(crate) fn fitting<T>(items: &[T], most: usize, weight: impl Fn(&T) -> usize) -> usize {
    let mut sum = 0_usize;
    let fit = items.iter().take_while(|item| {
        sum = sum.saturating_add(weight(item));
        sum <= most
    });
    fit.count().max(1).min(items.len())
}

/// `items` in turns of so many at most, that together weigh at most `most`; one by one where they weigh more.
pub(crate) fn slices<T>(
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

/// How much one step takes: less after one that failed, more after one that was done.
#[derive(Debug)]
pub(crate) struct Slice {
    now: AtomicUsize,
    most: usize,
}

impl Slice {
    /// Begins with the most that it may be.
    pub fn of(most: usize) -> Self {
        Self { now: AtomicUsize::new(most), most }
    }

    /// How much the next step takes.
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// The step was done in this time. One twice as large must still have time enough.
    pub fn grow(&self, took: Duration) {
        if took > QUICK {
            return;
        }
        self.now.store(self.now().saturating_mul(2).min(self.most), Ordering::Relaxed);
    }

    /// A step that had so much to do was not done.
    pub fn shrink(&self, had: usize) {
        self.now.store((self.now().min(had) / 2).max(1), Ordering::Relaxed);
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
    fn everything_comes_in_turns() {
        let of = |items: &[usize]| {
            slices(items, 3, 10, |item| *item).map(<[usize]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(of(&[1, 1, 1, 1]), [vec![1, 1, 1], vec![1]]);
        assert_eq!(of(&[4, 7, 99, 1]), [vec![4], vec![7], vec![99], vec![1]]);
    }

    #[test]
    fn a_slice_halves_and_grows_again() {
        let slice = Slice::of(100);
        slice.shrink(60);
        assert_eq!(slice.now(), 30);
        for _ in 0..9 {
            slice.shrink(1_000);
        }
        assert_eq!(slice.now(), 1);
        slice.grow(QUICK * 2);
        assert_eq!(slice.now(), 1, "slow enough as it is");
        for _ in 0..9 {
            slice.grow(QUICK / 2);
        }
        assert_eq!(slice.now(), 100);
    }
}
