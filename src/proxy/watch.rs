//! Records how long a client's connection has waited for a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;

/// How long a connection has waited for a whole request head.
#[derive(Debug)]
pub(crate) struct HeadWatch {
    opened: Instant,
    /// The time since which a head has been awaited, in milliseconds after `opened`: 0 before the
    /// first head. While a call runs, and until the rest of its body was read, the value is
    /// [`BUSY`].
    waiting_since_ms: AtomicU64,
    /// The number of bytes of the head that have been read.
    bytes: AtomicUsize,
    /// The number of running calls of an HTTP/2 connection. `waiting_since_ms` counts only while it
    /// is 0.
    streams: AtomicUsize,
}

const BUSY: u64 = u64::MAX;

impl HeadWatch {
    /// Creates the watch of a connection that has just been opened and waits for its first head.
    pub fn new() -> Self {
        Self {
            opened: Instant::now(),
            waiting_since_ms: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
        }
    }

    fn set(&self, waiting_since_ms: u64) {
        self.waiting_since_ms.store(waiting_since_ms, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Records that a whole head was read.
    pub fn begins(&self) {
        self.set(BUSY);
    }

    /// Records that from now on the connection waits for its next head. Does nothing for a new
    /// connection, which already waits for its first head.
    pub fn awaits_next(&self) {
        if self.is_busy() {
            self.set(self.elapsed_ms().max(1));
        }
    }

    /// Records that a call begins on an HTTP/2 connection. The call ends when the returned value is
    /// dropped.
    pub fn begins_stream(self: &Arc<Self>) -> OpenStream {
        self.streams.fetch_add(1, Ordering::AcqRel);
        OpenStream(self.clone())
    }

    /// Records that bytes were sent. If they belong to an answer whose call has already ended, the
    /// connection counts as waiting only from now on.
    pub fn sends(&self) {
        let since = self.waiting_since_ms();
        if since != BUSY && since != 0 {
            self.waiting_since_ms.store(self.elapsed_ms().max(1), Ordering::Relaxed);
        }
    }

    /// Whether a call runs: true from the end of a head until the connection waits for the next
    /// one.
    pub fn is_busy(&self) -> bool {
        self.waiting_since_ms() == BUSY
    }

    fn waiting_since_ms(&self) -> u64 {
        if self.streams.load(Ordering::Acquire) > 0 {
            return BUSY;
        }
        self.waiting_since_ms.load(Ordering::Relaxed)
    }

    /// How long the connection has waited for a head; `None` while a call runs.
    pub fn waited(&self) -> Option<Duration> {
        match self.waiting_since_ms() {
            BUSY => None,
            since => Some(self.opened.elapsed().saturating_sub(Duration::from_millis(since))),
        }
    }

    /// How many bytes of an unfinished head have been read; `None` while a call runs.
    pub fn bytes_of_head(&self) -> Option<usize> {
        (!self.is_busy()).then(|| self.bytes.load(Ordering::Relaxed))
    }

    /// Records that bytes of a head were read.
    pub fn grew(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Resolves once the client has taken longer than `limits` allow. This runs in the connection's
    /// own task, so no head can be read while it decides.
    pub async fn too_slow(&self, limits: Limits) {
        let shortest = limits.header_timeout.min(limits.keepalive_timeout);
        loop {
            let deadline = match self.waiting_since_ms() {
                BUSY => Instant::now() + shortest,
                0 => self.opened + limits.header_timeout,
                since => self.opened + Duration::from_millis(since) + limits.keepalive_timeout,
            };
            let now = Instant::now();
            if deadline <= now {
                return;
            }
            // A call that ends in the meantime may bring a nearer deadline. It cannot be nearer
            // than the shortest limit, so the sleep is never longer than that.
            tokio::time::sleep_until(deadline.min(now + shortest)).await;
        }
    }
}

/// A call that runs on an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<HeadWatch>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        let watch = &self.0;
        // The time is set before the count is lowered, so that a task that sees a count of 0 also
        // sees the right time.
        watch.set(watch.elapsed_ms().max(1));
        watch.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn an_http_2_connection_waits_while_no_stream_is_open() {
        let watch = Arc::new(HeadWatch::new());
        assert!(watch.waited().is_some(), "it waits for its first request");
        let (first, second) = (watch.begins_stream(), watch.begins_stream());
        drop(first);
        assert!(watch.is_busy() && watch.waited().is_none());
        drop(second);
        assert!(watch.waited().is_some_and(|waited| waited < Duration::from_secs(1)));
        std::thread::sleep(Duration::from_millis(20));
        watch.sends();
        assert!(watch.waited().is_some_and(|waited| waited < Duration::from_millis(15)));
        let third = watch.begins_stream();
        assert!(watch.is_busy());
        drop(third);
        assert!(!watch.is_busy());
    }
}
