//! Knowledge about the Redis that this gateway reaches: its identity, and the time on its clock.
//! `redis_look` finds both out.
//!
//! The ids of calls use Redis's clock, because the scripts compare the ids' times with it. If a
//! gateway used its own clock and that were a minute slow, the scripts would have to ask Postgres
//! about every call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::{keep_ids_ahead_by, wall_ms};
use crate::metrics::Metrics;

/// The identity of the Redis that was reached is valid for this long.
const REACHED_FOR: Duration = Duration::from_millis(1500);

/// The clock of Redis has jumped if its advance between two readings differs from the time that passed by more than
/// this, in milliseconds.
const JUMP_MS: i64 = 2000;

/// Redis's clock counts as having stood still if it could not be read for this long.
const STILL_AFTER: Duration = Duration::from_secs(5);

/// No hold expires for this long after Redis's clock has jumped or stood still.
const QUIET_FOR: Duration = Duration::from_secs(10);

/// If the clocks differ by less than this, in milliseconds, ids use this machine's clock.
const SKEW_OF_NO_MATTER_MS: i64 = 1000;

/// A difference between the clocks above which it is logged, in milliseconds.
const SKEW_TO_LOG_MS: i64 = 5000;

/// All that is known of the Redis that this gateway reaches.
#[derive(Debug)]
pub(crate) struct RedisWatch {
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// The identity of the master that was last reached, and when it was reached.
    reached: Option<(Arc<str>, Instant)>,
    clock: RedisClock,
    /// Whether a difference between the clocks has been logged.
    has_logged_skew: bool,
}

/// Redis's clock, as this gateway has read it.
#[derive(Clone, Copy, Debug, Default)]
struct RedisClock {
    /// The newest reading: the time on Redis's clock in milliseconds since 1970, and the moment of
    /// the reading here.
    read: Option<(i64, Instant)>,
    /// The last time at which the clock jumped, or was read again after it had stood still.
    unsteady: Option<Instant>,
    /// How far Redis's clock is ahead of this machine's, in milliseconds.
    ahead_ms: i64,
}

impl RedisWatch {
    pub fn new(metrics: Metrics) -> Self {
        Self { state: Mutex::default(), metrics }
    }

    /// The identity of the Redis that this gateway reaches; `None` if it is not known, for example
    /// because Redis is unreachable.
    pub fn reached(&self) -> Option<Arc<str>> {
        let state = self.lock();
        let fresh = state.reached.as_ref().filter(|(_, at)| at.elapsed() < REACHED_FOR);
        fresh.map(|(identity, _)| identity.clone())
    }

    /// Whether Redis's clock has neither jumped nor stood still lately. If it has, deadlines cannot
    /// be judged by it.
    pub fn is_steady(&self) -> bool {
        self.lock().clock.is_steady(Instant::now())
    }

    /// The time by Redis's clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        wall_ms().saturating_add(self.lock().clock.ahead_ms)
    }

    /// Records the identity of the master that was just reached; `None` if none was.
    pub fn note_reached(&self, identity: Option<Arc<str>>) {
        self.lock().reached = identity.map(|identity| (identity, Instant::now()));
    }

    /// Records that Redis's clock read `redis_ms` at the moment `at`, when this machine's clock
    /// read `wall_ms`.
    pub fn note_time(&self, redis_ms: i64, wall_ms: i64, at: Instant) {
        let mut state = self.lock();
        state.clock.read(redis_ms, wall_ms, at);
        let ahead_ms = state.clock.ahead_ms;
        let skews = ahead_ms.saturating_abs() >= SKEW_TO_LOG_MS;
        let is_news = std::mem::replace(&mut state.has_logged_skew, skews) != skews;
        drop(state);
        let matters = ahead_ms.saturating_abs() >= SKEW_OF_NO_MATTER_MS;
        keep_ids_ahead_by(if matters { ahead_ms } else { 0 });
        self.metrics.ledger_clock_skew_seconds.set(-(ahead_ms as f64) / 1000.0);
        match (is_news, skews) {
            (true, true) => tracing::warn!(
                seconds = ahead_ms / 1000,
                "Redis's clock is ahead of this machine's by so many seconds; calls go by Redis's, entries and \
                 tokens by this one's: have NTP set both"
            ),
            (true, false) => tracing::info!("the clocks of this machine and of Redis agree again"),
            (false, _) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedisClock {
    fn read(&mut self, redis_ms: i64, wall_ms: i64, at: Instant) {
        if let Some((before_ms, before)) = self.read {
            let passed = at.saturating_duration_since(before);
            let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
            let expected_ms = before_ms.saturating_add(passed_ms);
            let jumped = redis_ms.saturating_sub(expected_ms).saturating_abs() > JUMP_MS;
            if jumped || passed > STILL_AFTER {
                self.unsteady = Some(at);
            }
        }
        self.read = Some((redis_ms, at));
        self.ahead_ms = redis_ms.saturating_sub(wall_ms);
    }

    fn is_steady(&self, now: Instant) -> bool {
        let is_quiet = |at: Instant| now.saturating_duration_since(at) < QUIET_FOR;
        let is_still =
            self.read.is_some_and(|(_, at)| now.saturating_duration_since(at) > STILL_AFTER);
        !is_still && !self.unsteady.is_some_and(is_quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ_EVERY: Duration = Duration::from_millis(500);

    /// A clock that is read every half second.
    struct Readings {
        began: Instant,
        now: Instant,
        clock: RedisClock,
    }

    impl Readings {
        fn begin() -> Self {
            let now = Instant::now();
            Self { began: now, now, clock: RedisClock::default() }
        }

        /// Reads the clock once, `passed` after the last reading. The clock is `ahead_ms`
        /// milliseconds ahead of this machine's.
        fn read_after(&mut self, passed: Duration, ahead_ms: i64) {
            self.now += passed;
            let wall_ms = i64::try_from(self.now.duration_since(self.began).as_millis()).unwrap();
            self.clock.read(wall_ms + ahead_ms, wall_ms, self.now);
        }

        fn read_for(&mut self, seconds: u32, ahead_ms: i64) {
            (0..2 * seconds).for_each(|_| self.read_after(READ_EVERY, ahead_ms));
        }

        fn is_steady(&self) -> bool {
            self.clock.is_steady(self.now)
        }
    }

    #[test]
    fn nothing_expires_for_a_while_after_the_clock_has_jumped_either_way() {
        for jump_ms in [180_000, -180_000] {
            let mut readings = Readings::begin();
            assert!(readings.is_steady(), "nothing speaks against it");
            readings.read_for(20, 0);
            assert!(readings.is_steady());
            readings.read_after(READ_EVERY, jump_ms);
            assert!(!readings.is_steady() && readings.clock.ahead_ms == jump_ms);
            readings.read_for(9, jump_ms);
            assert!(!readings.is_steady());
            readings.read_for(2, jump_ms);
            assert!(readings.is_steady(), "it goes on from there");
        }
    }

    #[test]
    fn nothing_expires_for_a_while_after_redis_stood_still() {
        let mut readings = Readings::begin();
        readings.read_for(20, 0);
        let frozen_for = Duration::from_secs(180);
        assert!(!readings.clock.is_steady(readings.now + frozen_for), "nothing was heard of it");
        readings.read_after(frozen_for, 0);
        assert!(!readings.is_steady(), "no gateway could be heard of meanwhile");
        readings.read_for(11, 0);
        assert!(readings.is_steady());
    }
}
