//! Counts how many answered batches can be read from the file's tables. Readers that must not miss an answered call
//! wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// The longest time that a reader waits for rows. While the disk fails, the reader shows the rows that are there.
const WAIT_LIMIT: Duration = Duration::from_millis(250);

/// Counts the batches that were answered, and the batches whose rows can be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Arc<Batches>);

#[derive(Debug, Default)]
struct Batches {
    answered: AtomicU64,
    written: watch::Sender<u64>,
}

impl Written {
    /// Counts a batch that is answered before its rows are written.
    pub fn count_answered(&self) {
        self.0.answered.fetch_add(1, Ordering::Release);
    }

    /// The number of batches that have been answered so far.
    pub fn answered(&self) -> u64 {
        self.0.answered.load(Ordering::Acquire)
    }

    /// Records that the rows of the first `batches` answered batches are written.
    pub fn count_written(&self, batches: u64) {
        self.0.written.send_if_modified(|written| {
            let is_more = *written < batches;
            if is_more {
                *written = batches;
            }
            is_more
        });
    }

    /// Waits until the rows of every batch that has been answered so far can be read.
    pub async fn wait(&self) {
        let answered = self.answered();
        let mut written = self.0.written.subscribe();
        let all = written.wait_for(|written| *written >= answered);
        // After a timeout, the reader shows the rows that are there.
        let _ = tokio::time::timeout(WAIT_LIMIT, all).await;
    }
}
