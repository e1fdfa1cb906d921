//! Records how long one side of a connection has not taken the bytes that were written to it.

use std::time::{Duration, Instant};

/// A write that is pending for this long counts as a pause of the reader.
const STALL: Duration = Duration::from_secs(1);

/// The most bytes of an answer that may be in the buffers of both machines. If an upstream has sent
/// more than this since a pause, the pause is not the reason why it breaks off.
const BUFFERED: usize = 16 << 20;

/// The pauses of one reader.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// The time since which a write has been pending without any progress.
    waiting_since: Option<Instant>,
    /// The number of bytes written since the last pause; `None` if there was no pause.
    written_since: Option<usize>,
}

impl Stall {
    /// Records that a call begins. Pauses of earlier calls no longer count.
    pub fn begin_call(&mut self) {
        self.written_since = None;
    }

    /// Records that a write is pending.
    pub fn waits(&mut self) {
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// Records that `bytes` were written.
    pub fn moves(&mut self, bytes: usize) {
        if self.waiting_since.take().is_some_and(|since| since.elapsed() >= STALL) {
            self.written_since = Some(0);
        }
        if let Some(written) = &mut self.written_since {
            *written = written.saturating_add(bytes);
        }
    }

    /// The time since which a write has been pending without any progress.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// Whether the reader has recently made the writer wait: a write was pending for [`STALL`] or
    /// longer, and the bytes written since then may still be in the buffers of both machines.
    pub fn is_recent(&self) -> bool {
        self.waiting_since.is_some_and(|since| since.elapsed() >= STALL)
            || self.written_since.is_some_and(|written| written <= BUFFERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_until_more_was_written_than_buffers_hold() {
        let mut stall = Stall::default();
        stall.moves(1);
        assert!(!stall.is_recent(), "there was no pause");
        stall.waits();
        assert!(!stall.is_recent(), "the pause is short");
        stall.moves(1);
        assert!(!stall.is_recent(), "the pause was short");
        let long_ago = Instant::now().checked_sub(2 * STALL).unwrap();
        stall.waiting_since = Some(long_ago);
        assert!(stall.is_recent(), "the pause goes on");
        stall.moves(1);
        assert!(stall.is_recent());
        stall.moves(BUFFERED - 1);
        assert!(stall.is_recent());
        stall.moves(1);
        assert!(!stall.is_recent(), "the upstream sent this after the pause");
        stall.written_since = Some(0);
        stall.begin_call();
        assert!(!stall.is_recent(), "another call's pause");
    }
}
