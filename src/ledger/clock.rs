//! The ledger's two clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::ledger::rules::state::Now;

/// Two clocks. The wall clock dates entries. The other clock measures deadlines and never jumps, so
/// a change of the machine's clock expires no hold of a live call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts the clock for deadlines at zero.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The present moment, for a batch that the commit with this number will write.
    pub fn now(&self, commit: i64) -> Now {
        Now { wall_ms: wall_ms(), ledger_ms: self.started.elapsed().as_millis() as u64, commit }
    }
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
