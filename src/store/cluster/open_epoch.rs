//! The epoch that this gateway serves.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::ledger::LedgerError;
use crate::metrics::Metrics;
use crate::store::cluster::redis::script::Scripts;

/// How sure a gateway is that the data of an epoch are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// A script did not run on the server that a connection led to at that moment, which may have been another one.
    Suspected,
    /// The data are there in part, or contradict Postgres. The scripts run nevertheless.
    Certain,
}

/// The open epoch, as far as this gateway knows, and whether this gateway serves it.
#[derive(Debug)]
pub(crate) struct OpenEpoch {
    scripts: ArcSwapOption<Scripts>,
    /// Whether gateways of another layout serve the ledger, and this gateway does not.
    left_to_others: AtomicBool,
    /// The time since which no gateway of another layout has had a lease, while some of them are still registered.
    others_silent_since: Mutex<Option<Instant>>,
    /// The number of an epoch whose data were not in the Redis that this gateway reached; 0 for
    /// none.
    lost: AtomicI64,
    /// Whether the loss of that epoch's data is certain ([`Loss::Certain`]).
    is_certain: AtomicBool,
    /// The number of renewals of the lease, as Postgres last counted them.
    renewals: AtomicI64,
    /// Whether it has been logged that a loss of data cannot be recovered because Postgres is
    /// unreachable.
    waits_for_postgres: AtomicBool,
    /// The time since which this gateway has reached another Redis than the epoch's.
    elsewhere_since: Mutex<Option<Instant>>,
    /// The epoch that this gateway opened, as long as the keys of earlier epochs are still in
    /// Redis; otherwise 0.
    unswept: AtomicI64,
    /// The epoch that this gateway opened, as long as the accounts with live holds are not yet in
    /// Redis again; otherwise 0.
    unwarmed: AtomicI64,
    metrics: Metrics,
    /// Wakes the heartbeat, because the epoch may have ended.
    pub wake_heartbeat: Notify,
}

impl OpenEpoch {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            scripts: ArcSwapOption::empty(),
            left_to_others: AtomicBool::new(false),
            others_silent_since: Mutex::default(),
            lost: AtomicI64::new(0),
            is_certain: AtomicBool::new(false),
            renewals: AtomicI64::new(0),
            waits_for_postgres: AtomicBool::new(false),
            elsewhere_since: Mutex::default(),
            unswept: AtomicI64::new(0),
            unwarmed: AtomicI64::new(0),
            metrics,
            wake_heartbeat: Notify::new(),
        }
    }

    /// The scripts of the open epoch; `None` while no epoch is open.
    pub fn scripts(&self) -> Option<Arc<Scripts>> {
        self.scripts.load_full()
    }

    /// The scripts of the open epoch.
    ///
    /// # Errors
    /// Fails if no epoch is open.
    pub fn require(&self) -> Result<Arc<Scripts>, LedgerError> {
        self.scripts().ok_or(LedgerError::Slow { what: "the next epoch of Redis" })
    }

    /// The number of the open epoch.
    pub fn number(&self) -> Option<i64> {
        self.scripts().map(|scripts| scripts.epoch.number)
    }

    /// Serves this epoch from now on.
    pub fn open(&self, scripts: Scripts) {
        self.left_to_others.store(false, Ordering::Relaxed);
        self.forget_loss();
        self.come_home();
        self.metrics.ledger_epoch.set(scripts.epoch.number);
        self.scripts.store(Some(Arc::new(scripts)));
        self.metrics.ledger_up.set(1);
    }

    /// Serves no epoch until the next one opens.
    pub fn close(&self) {
        self.scripts.store(None);
        self.metrics.ledger_up.set(0);
    }

    /// Stops serving an epoch, because the Redis that this gateway reached does not have its data.
    /// Returns false if this epoch was not served.
    pub fn lose(&self, epoch: i64, loss: Loss) -> bool {
        let is_served = self.number() == Some(epoch);
        if is_served {
            self.lost.store(epoch, Ordering::Relaxed);
        }
        if loss == Loss::Certain && self.is_lost(epoch) {
            self.is_certain.store(true, Ordering::Relaxed);
        }
        if is_served {
            self.close();
        }
        is_served
    }

    /// Whether the data of the epoch that was lost may be in Redis nevertheless.
    pub fn may_have_data(&self) -> bool {
        !self.is_certain.load(Ordering::Relaxed)
    }

    /// Whether the data of this epoch were found missing, and it is not known yet whether they are
    /// lost.
    pub fn is_lost(&self, epoch: i64) -> bool {
        self.lost.load(Ordering::Relaxed) == epoch
    }

    /// Forgets that data were missing: the question is settled, or another Redis was reached.
    pub fn forget_loss(&self) {
        self.lost.store(0, Ordering::Relaxed);
        self.is_certain.store(false, Ordering::Relaxed);
        self.waits_for_postgres.store(false, Ordering::Relaxed);
    }

    /// Records how often the lease has been renewed, as Postgres counts. Returns the count before.
    pub fn note_renewals(&self, renewals: i64) -> i64 {
        self.renewals.swap(renewals, Ordering::Relaxed)
    }

    /// Records that Postgres is unreachable. Returns true if a loss of data waits for it and this
    /// was not known before.
    pub fn waits_for_postgres(&self) -> bool {
        self.lost.load(Ordering::Relaxed) != 0
            && !self.waits_for_postgres.swap(true, Ordering::Relaxed)
    }

    /// Records that this gateway reaches another Redis than the epoch's. Returns for how long it
    /// has done so.
    pub fn go_elsewhere(&self) -> Duration {
        self.elsewhere().get_or_insert_with(Instant::now).elapsed()
    }

    /// Records that this gateway reaches another Redis for too long. Returns true if this was not
    /// known before.
    pub fn alarm(&self) -> bool {
        let is_news = self.metrics.ledger_other_redis.get() == 0;
        self.metrics.ledger_other_redis.set(1);
        is_news
    }

    /// Whether this gateway has reached another Redis for too long.
    pub fn is_elsewhere(&self) -> bool {
        self.metrics.ledger_other_redis.get() == 1
    }

    /// Records that this gateway reaches the epoch's Redis again, or that another epoch will be
    /// opened.
    pub fn come_home(&self) {
        *self.elsewhere() = None;
        self.metrics.ledger_other_redis.set(0);
    }

    fn elsewhere(&self) -> MutexGuard<'_, Option<Instant>> {
        self.elsewhere_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while gateways of another layout serve the ledger.
    pub fn is_left_to_others(&self) -> bool {
        self.left_to_others.load(Ordering::Relaxed)
    }

    /// Records that a gateway of another layout has a lease. Returns true if this was not known
    /// before.
    pub fn leave_to_others(&self) -> bool {
        self.forget_silence();
        !self.left_to_others.swap(true, Ordering::Relaxed)
    }

    /// Records that no gateway of another layout has a lease. Returns for how long none has had
    /// one.
    pub fn others_are_silent(&self) -> Duration {
        self.silence().get_or_insert_with(Instant::now).elapsed()
    }

    /// Forgets for how long the gateways of another layout have been without a lease: they may have been unable to
    /// reach Postgres.
    pub fn forget_silence(&self) {
        *self.silence() = None;
    }

    /// Ends the wait for gateways of another layout.
    pub fn take_from_others(&self) {
        self.forget_silence();
        self.left_to_others.store(false, Ordering::Relaxed);
    }

    fn silence(&self) -> MutexGuard<'_, Option<Instant>> {
        self.others_silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that this gateway has opened an epoch, and has to load the accounts with live holds into
    /// Redis.
    pub fn begin_warming(&self, epoch: i64) {
        self.unwarmed.store(epoch, Ordering::Relaxed);
        self.unswept.store(epoch, Ordering::Relaxed);
    }

    /// True if this gateway has opened an epoch, and the keys of the epochs before it are still in Redis.
    pub fn is_unswept(&self) -> bool {
        self.unswept.load(Ordering::Relaxed) != 0
    }

    /// Records that the keys of the earlier epochs were removed.
    pub fn end_sweeping(&self) {
        self.unswept.store(0, Ordering::Relaxed);
    }

    /// The epoch whose accounts with live holds this gateway has to load into Redis.
    pub fn unwarmed(&self) -> Option<i64> {
        Some(self.unwarmed.load(Ordering::Relaxed)).filter(|epoch| *epoch != 0)
    }

    /// Records that the accounts with live holds are loaded, unless another epoch has been opened meanwhile.
    pub fn end_warming(&self, epoch: i64) {
        let relaxed = Ordering::Relaxed;
        let _ = self.unwarmed.compare_exchange(epoch, 0, relaxed, relaxed);
    }
}
