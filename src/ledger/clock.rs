//! The ledger's two clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::ledger::rules::state::Now;

/// Reads the wall clock for entries, and a clock that never jumps for deadlines: setting the
/// machine's clock must not expire a live call's hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The moment at which what `commit` will write is decided.
    pub fn now(&self, commit: i64) -> Now {
        Now { wall_ms: wall_ms(), ledger_ms: self.started.elapsed().as_millis() as u64, commit }
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
