//! Decides whether new holds are taken, and logs why not. Ends of holds are always taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::account::AccountId;

/// How long a failed batch is taken as evidence that the next one will fail.
const FAILURE_LASTS: Duration = Duration::from_secs(5);

/// The least time between two warnings that accounts are at `unsynced_cap`.
const CAP_IS_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// The reasons for which new holds are refused.
#[derive(Debug)]
pub(crate) struct Intake {
    /// The most memory that the redo log may take, in bytes.
    redo_limit: usize,
    /// Whether the redo log is at its limit, which has then been logged.
    is_full: AtomicBool,
    /// Whether Redis is too old, or is set to evict keys when its memory is full.
    redis_is_unfit: AtomicBool,
    /// The time at which Redis last failed to decide a batch; `None` once it has decided one again.
    failed_at: Mutex<Option<Instant>>,
    /// The time of the last warning that an account is at its cap.
    cap_logged_at: Mutex<Option<Instant>>,
}

impl Intake {
    pub fn new(redo_limit: usize) -> Self {
        Self {
            redo_limit,
            is_full: AtomicBool::new(false),
            redis_is_unfit: AtomicBool::new(false),
            failed_at: Mutex::default(),
            cap_logged_at: Mutex::default(),
        }
    }

    /// Returns whether new holds are taken while the redo log takes `redo_bytes` of memory.
    pub fn takes_holds(&self, redo_bytes: usize) -> bool {
        let full = redo_bytes >= self.redo_limit;
        match (self.is_full.swap(full, Ordering::Relaxed), full) {
            (false, true) => tracing::error!(
                "the batches that wait for Postgres have reached `redo_limit_bytes`: new calls get 503 until Postgres \
                 has taken some; see that it is neither away nor slow"
            ),
            (true, false) => tracing::info!("new calls are taken again"),
            _ => {}
        }
        !full && !self.redis_is_unfit.load(Ordering::Relaxed)
    }

    /// Records whether this Redis is fit for a ledger.
    pub fn note_fitness(&self, is_fit: bool) {
        self.redis_is_unfit.store(!is_fit, Ordering::Relaxed);
    }

    /// Records whether Redis decided a batch.
    pub fn note_decided(&self, decided: bool) {
        let failed_at = (!decided).then(Instant::now);
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed_at;
    }

    /// Whether Redis failed to decide the newest batch a short while ago ([`FAILURE_LASTS`]). Its
    /// memory may be full.
    pub fn fails_to_decide(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < FAILURE_LASTS)
    }

    /// Logs that a hold was refused because its account is at the unsynced cap, at most once in
    /// [`CAP_IS_LOGGED_EVERY`].
    pub fn log_capped(&self, account: Option<&AccountId>) {
        let mut logged_at = self.cap_logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_at.is_none_or(|at| at.elapsed() >= CAP_IS_LOGGED_EVERY) {
            *logged_at = Some(Instant::now());
            tracing::warn!(
                account = account.map(AccountId::as_str),
                "an account has taken `unsynced_cap` credits that Postgres does not know of yet: its new calls get 503 \
                 until Postgres has them; see that Postgres is neither away nor slow, or raise the cap"
            );
        }
    }
}
