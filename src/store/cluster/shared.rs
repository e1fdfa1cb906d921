//! The parts of a gateway's cluster ledger that the batches and the background tasks share.

use std::sync::Arc;

use fred::types::Value;
use tokio::sync::Notify;

use crate::ledger::LedgerError;
use crate::ledger::clock::Clock;
use crate::ledger::config::{Durability, LedgerConfig};
use crate::metrics::Metrics;
use crate::store::cluster::adaptive::AdaptiveLimit;
use crate::store::cluster::debts::Debts;
use crate::store::cluster::intake::Intake;
use crate::store::cluster::lease::{Lease, Sent};
use crate::store::cluster::open_epoch::OpenEpoch;
use crate::store::cluster::postgres::Store;
use crate::store::cluster::redis::connection::{Redis, ScriptError};
use crate::store::cluster::redis::script::{LAYOUT, Scripts};
use crate::store::cluster::redis_watch::RedisWatch;
use crate::store::cluster::redo::RedoLog;

/// The most text that one transaction writes into Postgres, in bytes: some 20,000 operations.
const MAX_WRITE: usize = 1 << 20;

/// The most text that one transaction hands over to a recovery, in bytes.
const MAX_HAND_OVER: usize = 4 << 20;

/// One gateway's part of the cluster ledger. Each member has its own lock, if it needs one; the functions that
/// work on it are in `work`, `warm`, `sync`, `heartbeat`, `recovery`, `hand_over`, `janitor`, `sweep`, `api_ends`,
/// `compare` and `repair`.
#[derive(Debug)]
pub(crate) struct Shared {
    pub store: Store,
    pub redis: Redis,
    /// Which Redis is reached, and its clock.
    pub watch: RedisWatch,
    pub settings: Settings,
    pub metrics: Metrics,
    pub clock: Clock,
    /// The lease, which is the right to answer callers.
    pub lease: Lease,
    /// The epoch that is served.
    pub epoch: OpenEpoch,
    /// Acknowledged batches that Postgres may not have yet.
    pub redo: RedoLog,
    /// Captures, releases and expiries that this gateway must still carry out, since nobody else will ask for
    /// them.
    pub debts: Debts,
    /// Whether new holds are taken.
    pub intake: Intake,
    /// The size of a transaction of the syncer, in bytes of text.
    pub write_size: AdaptiveLimit,
    /// The size of a transaction that hands batches over to a recovery, in bytes of text.
    pub hand_over_size: AdaptiveLimit,
    /// Wakes the janitor.
    pub wake_janitor: Notify,
}

/// The values that stay the same while a gateway runs.
#[derive(Debug)]
pub(crate) struct Settings {
    pub durability: Durability,
    /// The most that one account may put on hold before Postgres has stored it, in micro-credits; 0 means no limit.
    pub unsynced_cap: u64,
    /// The layout of the data in Redis: `LAYOUT` of the scripts.
    pub layout: i32,
    /// The name of this gateway's place among the gateways.
    pub name: String,
    /// The number of this start of the gateway.
    pub incarnation: i64,
}

/// The new holds for which Redis may be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldsToAskFor {
    pub calls: bool,
    /// Holds of the API, which must be in Postgres before they are answered.
    pub api: bool,
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
            write_size: AdaptiveLimit::new(MAX_WRITE),
            hand_over_size: AdaptiveLimit::new(MAX_HAND_OVER),
            wake_janitor: Notify::new(),
        })
    }

    /// Fails at once where Postgres is known to be unreachable, instead of waiting for it.
    pub fn require_postgres(&self) -> Result<(), LedgerError> {
        if self.store.is_up() { Ok(()) } else { Err(LedgerError::Slow { what: "Postgres" }) }
    }

    /// Whether new holds are taken.
    pub fn takes_holds(&self) -> bool {
        self.intake.takes_holds(self.redo.bytes())
    }

    /// For which new holds Redis may be asked: those whose answer the caller can be given. For any other, Redis would
    /// set credits aside, and keep a record of their release, though the call gets 503.
    pub fn holds_to_ask_for(&self, sent: Sent) -> HoldsToAskFor {
        let any = self.takes_holds() && self.lease.may_answer(sent);
        let durable = any && self.store.is_up();
        let is_relaxed = self.settings.durability == Durability::Relaxed;
        HoldsToAskFor { calls: if is_relaxed { any } else { durable }, api: durable }
    }

    /// Runs a command of `maintain.lua`. A Redis without the epoch's data sets off a recovery.
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

    /// Notes that Redis does not have the data of an epoch. The heartbeat finds out whether they are lost, or this
    /// gateway reaches another Redis; until then nothing is decided here.
    pub fn epoch_lost(&self, epoch: i64) {
        if self.epoch.lose(epoch) {
            self.epoch.wake_heartbeat.notify_one();
        }
    }
}
