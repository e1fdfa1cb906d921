//! Decides whether Postgres takes the appends that `strict` waits for.
//!
//! Postgres may answer reads, and even renew leases, while it refuses every append: its disk is full, it is set to
//! read-only, or the role of the gateways lacks a right. A hold that Redis grants then cannot be answered, and its
//! release leaves a record. So after an append that failed no hold is asked for, until Postgres has taken a trial
//! (`append_trials`).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::NumberedBatch;

/// Whether Postgres takes appends.
#[derive(Debug, Default)]
pub(crate) struct WriteGate {
    /// Whether Postgres did not take the newest append, and has taken no trial since.
    refuses: AtomicBool,
    /// The size of that append, in bytes.
    bytes: AtomicUsize,
    /// Wakes the task that makes trials.
    pub wake: Notify,
}

impl WriteGate {
    /// Whether Postgres takes appends, as far as is known.
    pub fn takes_appends(&self) -> bool {
        !self.refuses.load(Ordering::Relaxed)
    }

    /// Records that Postgres did not take an append of these batches.
    pub fn note_refused(&self, error: &LedgerError, batches: &[NumberedBatch]) {
        self.bytes.store(batches.iter().map(|batch| batch.text.len()).sum(), Ordering::Relaxed);
        // An outage has its own line in the log.
        if !self.refuses.swap(true, Ordering::Relaxed) && !error.is_outage() {
            tracing::error!(
                %error,
                "Postgres answers, and refuses what `strict` must have there before a call goes on: new calls get 503 \
                 until it takes that again; see whether its disk is full, whether it is set to read-only, and the \
                 rights of the role in `postgres_url`"
            );
        }
        self.wake.notify_one();
    }

    /// Records that Postgres has taken a trial.
    pub fn note_taken(&self) {
        self.refuses.store(false, Ordering::Relaxed);
        tracing::info!("Postgres takes batches again");
    }

    /// The size of the append that Postgres did not take, in bytes.
    pub fn refused_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}
