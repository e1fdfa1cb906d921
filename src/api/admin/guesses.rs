//! Delays the answers to wrong admin tokens.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The delay of the answer to the first wrong token. Each further one doubles it.
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// The longest delay of an answer to a wrong token.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The number of doublings from the first delay to the longest.
const MOST_DOUBLINGS: u32 = 5;

/// The time without a wrong token after which the delay starts again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The most answers to wrong tokens that wait at a time. This is less than the listener's limit on
/// connections, so operators and probes can still connect.
const MOST_WAITING: usize = 8;

/// Slows down a caller who tries one token after another. The right token never waits.
#[derive(Debug)]
pub(crate) struct Guesses {
    pub(super) started: Instant,
    /// The number of wrong tokens in a row, each within [`FORGOTTEN_AFTER`] of the one before.
    wrong: AtomicU32,
    /// The time of the newest wrong token, in milliseconds since `started`.
    newest_ms: AtomicU64,
    pub(super) waiting: Semaphore,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            wrong: AtomicU32::new(0),
            newest_ms: AtomicU64::new(0),
            waiting: Semaphore::new(MOST_WAITING),
        }
    }
}

impl Guesses {
    /// Counts a wrong token that came `since_start` after the start, and returns the delay of its
    /// answer.
    pub(super) fn count(&self, since_start: Duration) -> Duration {
        let now_ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        let before_ms = self.newest_ms.swap(now_ms, Ordering::Relaxed);
        if u128::from(now_ms.saturating_sub(before_ms)) > FORGOTTEN_AFTER.as_millis() {
            self.wrong.store(0, Ordering::Relaxed);
        }
        let earlier = self.wrong.fetch_add(1, Ordering::Relaxed).min(MOST_DOUBLINGS);
        FIRST_DELAY.saturating_mul(1 << earlier).min(LONGEST_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_token_waits_longer_until_a_quiet_minute() {
        let guesses = Guesses::default();
        let mut before = Duration::ZERO;
        for _ in 0..=MOST_DOUBLINGS {
            let delay = guesses.count(Duration::from_secs(1));
            assert!(delay > before, "{delay:?} after {before:?}");
            before = delay;
        }
        assert_eq!(before, LONGEST_DELAY);
        assert_eq!(guesses.count(FORGOTTEN_AFTER), LONGEST_DELAY);
        assert_eq!(guesses.count(FORGOTTEN_AFTER * 3), FIRST_DELAY);
    }
}
