//! The parts of a gateway's cluster ledger that the batches and the background tasks share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use fred::types::Value;
use tokio::sync::{Notify, Semaphore, watch};

use crate::ledger::LedgerError;
use crate::ledger::clock::Clock;
use crate::ledger::config::{Durability, LedgerConfig};
use crate::ledger::operation::Origin;
use crate::metrics::Metrics;
use crate::store::cluster::adaptive::{AdaptiveLimit, ReadLimit};
use crate::store::cluster::debts::Debts;
use crate::store::cluster::intake::Intake;
use crate::store::cluster::lease::{Lease, Sent};
use crate::store::cluster::open_epoch::{Loss, OpenEpoch};
use crate::store::cluster::postgres::Store;
use crate::store::cluster::redis::connection::{Redis, ScriptError};
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::redis::script::{LAYOUT, Scripts};
use crate::store::cluster::redis_watch::RedisWatch;
use crate::store::cluster::redo::RedoLog;
use crate::store::cluster::stream_marks::Marks;
use crate::store::cluster::stuck::StuckBatches;
use crate::store::cluster::syncer::Syncer;
use crate::store::cluster::write_gate::WriteGate;

/// The most text that one transaction writes into Postgres, in bytes: some 20,000 operations.
const MAX_WRITE: usize = 1 << 20;

/// The approximate size of one read from the stream, in bytes, and the number of batches in the first read.
const READ: usize = 2 * MAX_WRITE;
const READ_FIRST: usize = 128;

/// The most text that one transaction hands over to a recovery, in bytes.
const MAX_HAND_OVER: usize = 4 << 20;

/// One gateway's part of the cluster ledger. A member that needs a lock has its own. The functions on it are in `work`,
/// `warm`, `sync`, `heartbeat`, `recovery`, `hand_over`, `janitor`, `sweep`, `api_ends`, `compare` and `repair`.
#[derive(Debug)]
pub(crate) struct Shared {
    pub store: Store,
    pub redis: Redis,
    /// The Redis that this gateway reaches, and its clock.
    pub watch: RedisWatch,
    pub settings: Settings,
    pub metrics: Metrics,
    pub clock: Clock,
    /// The lease, which is the right to answer callers.
    pub lease: Lease,
    /// The epoch that this gateway serves.
    pub epoch: OpenEpoch,
    /// Acknowledged batches that Postgres may not have yet.
    pub redo: RedoLog,
    /// Captures, releases and expiries that this gateway must still carry out. No other gateway
    /// knows of them.
    pub debts: Debts,
    /// Whether new holds are taken.
    pub intake: Intake,
    /// Whether Postgres takes the appends that `strict` waits for.
    pub writes: WriteGate,
    /// Whether this gateway is the syncer, and how far Postgres lags behind.
    pub syncer: Syncer,
    /// Wakes the rounds: an operation waits until Postgres has caught up with Redis.
    pub wake_rounds: Notify,
    /// Wakes the operations that wait for this, once a write has ended.
    pub written: Notify,
    /// The permit to write batches. Without it, several transactions would wait for one lock, each with a connection.
    pub writing: Semaphore,
    /// The permit to wait until a batch is folded. One of the batches that wait folds them all.
    pub folding: Semaphore,
    /// The permits to wait for locked rows, so that these waits leave connections for others.
    pub waiting_for_rows: Semaphore,
    /// The batches that Postgres did not take, because a row was locked.
    pub stuck: StuckBatches,
    /// Whether this gateway stops.
    pub is_stopping: AtomicBool,
    /// The size of a transaction of the syncer, in bytes of text.
    pub write_size: AdaptiveLimit,
    /// How many batches are read from the stream at once.
    pub read_size: ReadLimit,
    /// The size of a transaction that hands batches over to a recovery, in bytes of text.
    pub hand_over_size: AdaptiveLimit,
    /// The marks up to which the stream may be trimmed.
    pub kept: Marks,
    /// Wakes the janitor.
    pub wake_janitor: Notify,
    /// How many failovers of Postgres were noticed since this gateway began, by any gateway.
    pub failovers: watch::Sender<u64>,
    /// The number of failovers that Postgres counted last; negative before the first look.
    counted_failovers: AtomicI64,
}

/// The values that stay the same while a gateway runs.
#[derive(Debug)]
pub(crate) struct Settings {
    pub durability: Durability,
    /// The most credits that calls of one account may take before Postgres has stored the calls, in micro-credits; 0
    /// means no limit.
    pub unsynced_cap: u64,
    /// The layout of the data in Redis: the `LAYOUT` of the scripts.
    pub layout: i32,
    /// The name under which this gateway is registered.
    pub name: String,
    /// The number of this start of the gateway.
    pub incarnation: i64,
}

/// The kinds of new holds that may be sent to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HoldsToAskFor {
    pub calls: bool,
    /// Holds of the API. They must be in Postgres before they are answered.
    pub api: bool,
}

impl HoldsToAskFor {
    /// All new holds.
    pub const ALL: Self = Self { calls: true, api: true };

    /// No new holds.
    const NONE: Self = Self { calls: false, api: false };

    /// The holds that both allow.
    pub fn and(self, other: Self) -> Self {
        Self { calls: self.calls && other.calls, api: self.api && other.api }
    }

    /// Whether the item may be sent to Redis.
    pub fn allow(self, item: BatchItem<'_>) -> bool {
        let is_api = item.origin() == Some(Origin::Api);
        !item.takes_credits() || if is_api { self.api } else { self.calls }
    }
}

impl Shared {
    pub fn new(
        store: Store,
        redis: Redis,
        config: &LedgerConfig,
        name: String,
        incarnation: i64,
        metrics: Metrics,
    ) -> Arc<Self> {
        let durability = config.durability;
        let unsynced_cap = match durability {
            Durability::Strict => 0,
            Durability::Relaxed => config.unsynced_cap.micros(),
        };
        Arc::new(Self {
            lease: Lease::new(durability, redis.has_sentinel),
            store,
            redis,
            watch: RedisWatch::new(metrics.clone()),
            settings: Settings {
                durability,
                unsynced_cap,
                layout: config.layout.unwrap_or(LAYOUT),
                name,
                incarnation,
            },
            clock: Clock::start(),
            epoch: OpenEpoch::new(metrics.clone()),
            metrics,
            redo: RedoLog::default(),
            debts: Debts::default(),
            intake: Intake::new(config.redo_limit_bytes),
            writes: WriteGate::default(),
            syncer: Syncer::default(),
            wake_rounds: Notify::new(),
            written: Notify::new(),
            writing: Semaphore::new(1),
            folding: Semaphore::new(1),
            waiting_for_rows: Semaphore::new((config.postgres_connections as usize / 5).max(1)),
            stuck: StuckBatches::default(),
            is_stopping: AtomicBool::new(false),
            write_size: AdaptiveLimit::new(MAX_WRITE),
            read_size: ReadLimit::new(READ_FIRST, READ),
            hand_over_size: AdaptiveLimit::new(MAX_HAND_OVER),
            kept: Marks::default(),
            wake_janitor: Notify::new(),
            failovers: watch::Sender::new(0),
            counted_failovers: AtomicI64::new(-1),
        })
    }

    /// Records how many failovers of Postgres were noticed, as Postgres counts. A Postgres that was failed over may
    /// have forgotten some, so a lower number also means a failover.
    pub fn note_failovers(&self, count: i64) {
        let before = self.counted_failovers.swap(count, Ordering::Relaxed);
        if before >= 0 && before != count {
            self.failovers.send_modify(|failovers| *failovers += 1);
        }
    }

    /// Fails at once if Postgres is known to be unreachable, instead of waiting for it.
    pub fn require_postgres(&self) -> Result<(), LedgerError> {
        if self.store.is_up() { Ok(()) } else { Err(LedgerError::Slow { what: "Postgres" }) }
    }

    /// Whether new holds are taken.
    pub fn takes_holds(&self) -> bool {
        self.intake.takes_holds(self.redo.bytes())
    }

    /// The kinds of new holds that may be sent to Redis: those that this gateway is able to answer. The caller of any
    /// other hold gets 503, so sending the hold would only make Redis set credits aside and store a record of their
    /// release.
    pub fn holds_to_ask_for(&self, sent: Sent) -> HoldsToAskFor {
        let any = self.takes_holds() && self.lease.may_answer(sent);
        let durable = any && self.store.is_up() && self.writes.takes_appends();
        let is_relaxed = self.settings.durability == Durability::Relaxed;
        HoldsToAskFor { calls: if is_relaxed { any } else { durable }, api: durable }
    }

    /// The kinds of new holds that may be granted, as far as this gateway knows without asking anybody. Holds of other
    /// kinds are refused at once.
    pub fn holds_to_wait_for(&self) -> HoldsToAskFor {
        if self.is_away() {
            return HoldsToAskFor::NONE;
        }
        self.holds_to_ask_for(self.lease.sending())
    }

    /// Whether Redis is known to decide nothing: it is unreachable, or no epoch is open.
    pub fn is_away(&self) -> bool {
        !self.redis.is_up() || self.epoch.number().is_none()
    }

    /// Whether this gateway stops while a locked row keeps batches back. The row may stay locked for longer than a stop takes.
    pub fn is_stopping_stuck(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed) && self.stuck.are_left(self.redo.checkpoint())
    }

    /// Runs a command of `maintain.lua`. If Redis does not have the epoch's data, this begins a
    /// recovery.
    pub async fn maintain(
        &self,
        scripts: &Scripts,
        args: Vec<Value>,
    ) -> Result<Value, LedgerError> {
        let result = self.redis.maintain(scripts, args).await;
        if let Err(ScriptError::EpochLost) = &result {
            self.epoch_lost(scripts.epoch.number);
        }
        Ok(result?)
    }

    /// Records that Redis does not have the data of an epoch. The heartbeat finds out whether the data are lost, or
    /// whether this gateway reaches another Redis. Until then this gateway decides nothing.
    pub fn epoch_lost(&self, epoch: i64) {
        self.lose(epoch, Loss::Suspected);
    }

    /// Records that Redis has only a part of an epoch's data, or other data than Postgres, so that a recovery must begin.
    pub fn data_lost(&self, epoch: i64) {
        self.lose(epoch, Loss::Certain);
    }

    fn lose(&self, epoch: i64, loss: Loss) {
        if self.epoch.lose(epoch, loss) {
            self.epoch.wake_heartbeat.notify_one();
        }
    }
}
