//! What the batches and the tasks beside them share.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use fred::types::Value;
use tokio::sync::Notify;

use crate::ledger::LedgerError;
use crate::ledger::clock::Clock;
use crate::ledger::config::{Durability, LedgerConfig};
use crate::ledger::operation::{HoldId, Operation};
use crate::metrics::Metrics;
use crate::store::cluster::adaptive::Slice;
use crate::store::cluster::postgres::{self, LEASE, Store};

use crate::store::cluster::redis::connection::{Redis, Stopped};
use crate::store::cluster::redis::script::{LAYOUT, Scripts};
use crate::store::cluster::redo::Ring;

/// The lease as this gateway counts it is shorter than Postgres has it, so that it is never the last
/// to know.
const LEASE_MARGIN: Duration = Duration::from_millis(300);

/// How old a reply may be without a lease. Less than [`RECOVERY_TAKES`], so that nothing that Redis said
/// before it lost its data is believed after it has been brought back.
const REPLY_LIMIT: Duration = Duration::from_millis(500);

/// How long a recovery takes at the least where a gateway has not checked in.
pub(crate) const RECOVERY_TAKES: Duration = Duration::from_secs(1);

/// How much of the stream is written into Postgres in one transaction at the most, in bytes: some 20,000
/// operations.
const WRITTEN_AT_ONCE: usize = 1 << 20;

/// How much is handed over in one transaction at the most, in bytes.
const HANDED_AT_ONCE: usize = 4 << 20;

/// For how long a batch that was not decided says something of the next one.
const FAILURE_LASTS: Duration = Duration::from_secs(5);

/// The right to answer.
#[derive(Debug, Default)]
struct Lease {
    until: Option<Instant>,
    /// Counts the leases that did not follow another without a gap.
    term: u64,
}

/// When something was asked of Redis, and under which lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    at: Instant,
    term: Option<u64>,
}

/// One gateway's part of the cluster ledger.
#[derive(Debug)]
pub(crate) struct Shared {
    pub store: Store,
    pub redis: Redis,
    pub durability: Durability,
    /// Under which name it has its place among the gateways.
    pub name: String,
    pub incarnation: i64,
    /// Of Redis's data: [`LAYOUT`](crate::store::cluster::redis::script::LAYOUT).
    pub layout: i32,
    /// The open epoch has another one, and gateways that serve it.
    pub left_to_others: AtomicBool,
    /// Since when none of them has been heard of, though not all have left.
    unheard_since: Mutex<Option<Instant>>,
    /// In micro-credits; 0 for none.
    pub cap: u64,
    /// How much is written into Postgres in one transaction, in bytes of the stream's text.
    pub writing: Slice,
    /// How much is handed over to a recovery in one transaction, in bytes.
    pub handing: Slice,
    /// How much the ring may hold before no new hold is taken, in bytes.
    redo_limit: usize,
    /// It holds as much: said once.
    is_full: AtomicBool,
    /// Redis would throw away what it has no room for, or is too old.
    pub is_unfit: AtomicBool,
    /// When Redis last did not decide a batch.
    failed_at: Mutex<Option<Instant>>,
    pub metrics: Metrics,
    pub clock: Clock,
    /// The epoch that is open, as far as this gateway knows.
    scripts: ArcSwapOption<Scripts>,
    ring: Mutex<Ring>,
    lease: Mutex<Lease>,
    /// Another Redis may take this one's place without our knowing.
    pub can_fail_over: AtomicBool,
    /// The epoch that this gateway has opened, until the accounts with live holds are in Redis again; 0 for
    /// none.
    pub must_bring: AtomicI64,
    /// Ends of holds that this gateway owes: of calls that were told nothing came of their hold, or
    /// out of a ring that nobody took over.
    owed: Mutex<Vec<Operation>>,
    /// Holds of calls whose gateway is gone for good, with their routes.
    lapsed: Mutex<Vec<(HoldId, Arc<str>)>>,
    /// Wakes the task that watches the epoch.
    pub look: Notify,
    /// Wakes the janitor.
    pub house: Notify,
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
        let cap = config.unsynced_cap.micros();
        Arc::new(Self {
            can_fail_over: AtomicBool::new(redis.has_sentinel),
            store,
            redis,
            durability,
            name,
            incarnation,
            layout: config.layout.unwrap_or(LAYOUT),
            left_to_others: AtomicBool::new(false),
            unheard_since: Mutex::default(),
            cap: if durability == Durability::Relaxed { cap } else { 0 },
            writing: Slice::of(WRITTEN_AT_ONCE),
            handing: Slice::of(HANDED_AT_ONCE),
            redo_limit: config.redo_limit_bytes,
            is_full: AtomicBool::new(false),
            is_unfit: AtomicBool::new(false),
            failed_at: Mutex::default(),
            metrics,
            clock: Clock::start(),
            scripts: ArcSwapOption::empty(),
            ring: Mutex::default(),
            lease: Mutex::default(),
            must_bring: AtomicI64::new(0),
            owed: Mutex::default(),
            lapsed: Mutex::default(),
            look: Notify::new(),
            house: Notify::new(),
        })
    }

    /// The scripts of the open epoch; `None` while none is.
    pub fn scripts(&self) -> Option<Arc<Scripts>> {
        self.scripts.load_full()
    }

    /// The same where there must be one.
    pub fn open_scripts(&self) -> Result<Arc<Scripts>, LedgerError> {
        self.scripts().ok_or(LedgerError::Slow { what: "the next epoch of Redis" })
    }

    /// Says at once what would otherwise be found out by waiting.
    pub fn need_postgres(&self) -> Result<(), LedgerError> {
        if self.store.is_up() { Ok(()) } else { Err(LedgerError::Slow { what: "Postgres" }) }
    }

    /// Serves this epoch from here on.
    pub fn serve(&self, scripts: Scripts) {
        self.metrics.ledger_epoch.set(scripts.epoch.number);
        self.scripts.store(Some(Arc::new(scripts)));
        self.metrics.ledger_up.set(1);
    }

    /// Serves nothing until the next epoch opens.
    pub fn close_epoch(&self) {
        self.scripts.store(None);
        self.metrics.ledger_up.set(0);
    }

    pub fn unheard_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.unheard_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while gateways of another layout serve the ledger.
    pub fn is_left_to_others(&self) -> bool {
        self.left_to_others.load(Ordering::Relaxed)
    }

    pub fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more may be set aside for calls that begin: what ends those that run is always taken.
    pub fn takes_holds(&self) -> bool {
        let full = self.ring().bytes() >= self.redo_limit;
        match (self.is_full.swap(full, Ordering::Relaxed), full) {
            (false, true) => tracing::error!(
                "as much waits for Postgres as `redo_limit_bytes` allows: new calls get 503"
            ),
            (true, false) => tracing::info!("new calls are taken again"),
            _ => {}
        }
        !full && !self.is_unfit.load(Ordering::Relaxed)
    }

    /// Notes whether Redis decided a batch.
    pub fn note_decided(&self, decided: bool) {
        let failed_at = (!decided).then(Instant::now);
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed_at;
    }

    /// True where it did not decide the newest one, a moment ago: it may have no room for more.
    pub fn fails_to_decide(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < FAILURE_LASTS)
    }

    /// Takes what is owed; what cannot be settled is given back by [`Shared::owe`].
    pub fn take_owed(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.owed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These ends of holds have to be settled.
    pub fn owe(&self, operations: impl IntoIterator<Item = Operation>) {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).extend(operations);
    }

    /// True where a charge is among them: it is nowhere else.
    pub fn owes_charges(&self) -> bool {
        let owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.iter().any(Operation::is_charge)
    }

    /// Holds that expire with the next sweep.
    pub fn lapsed(&self) -> MutexGuard<'_, Vec<(HoldId, Arc<str>)>> {
        self.lapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a lease that was asked for at `asked`.
    pub fn extend_lease(&self, asked: Instant) {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if lease.until.is_none_or(|until| until <= Instant::now()) {
            lease.term += 1;
        }
        lease.until = Some(asked + LEASE.saturating_sub(LEASE_MARGIN));
    }

    fn lease_term(&self) -> Option<u64> {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.until.is_some_and(|until| Instant::now() < until).then_some(lease.term)
    }

    /// Something is about to be asked of Redis.
    pub fn sending(&self) -> Sent {
        Sent { at: Instant::now(), term: self.lease_term() }
    }

    /// Whether what Redis has said may be told to anybody: under the lease of the question, never
    /// interrupted (this process may have been stopped while others went on), or where no other Redis
    /// can have taken this one's place and nobody can have brought it back meanwhile.
    pub fn may_answer(&self, sent: Sent) -> bool {
        if sent.term.is_some() && sent.term == self.lease_term() {
            return true;
        }
        self.durability == Durability::Relaxed
            && !self.can_fail_over.load(Ordering::Relaxed)
            && sent.at.elapsed() < REPLY_LIMIT
    }

    /// Runs what is beside the batches; a Redis without the epoch's data begins a recovery.
    pub async fn keep(&self, scripts: &Scripts, args: Vec<Value>) -> Result<Value, LedgerError> {
        let result = self.redis.keep(scripts, args).await;
        if let Err(Stopped::Epoch) = &result {
            self.lost(scripts.epoch.number).await;
        }
        Ok(result?)
    }

    /// Redis has lost the data of this epoch: gives it up, and lets the next one be opened.
    pub async fn lost(&self, epoch: i64) {
        let current = self.scripts().is_some_and(|scripts| scripts.epoch.number == epoch);
        if !current {
            return;
        }
        self.close_epoch();
        tracing::error!(epoch, "Redis has lost the ledger's data; it is recovered from Postgres");
        if let Err(error) = postgres::give_up(&self.store, epoch).await {
            tracing::error!(%error, "the recovery waits for Postgres");
        }
        self.look.notify_one();
    }
}

/// Arguments of a script.
pub(crate) fn texts<const N: usize>(args: [&str; N]) -> Vec<Value> {
    args.into_iter().map(text).collect()
}

/// One argument.
pub(crate) fn text(arg: &str) -> Value {
    Value::String(arg.into())
}
