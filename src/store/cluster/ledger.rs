//! The cluster ledger as a backend of the pipeline.
//!
//! - Operations on holds are decided in Redis: `work` lets `decide.lua` decide a batch
//!   (`redis::request`, `redis::reply`), and `warm` loads the accounts that the batch needs into Redis.
//!   The script adds each batch to a stream.
//! - `sync` writes the stream into Postgres (it folds the batches into entries and holds), and applies in Redis what
//!   Postgres decided. A batch is folded within a quarter of a second. Until then it is also in Postgres as a text in
//!   `strict`, appended before it is answered, and in the gateway's redo log (`redo`) in `relaxed`.
//! - All other operations are decided in Postgres, beside the pipeline (`beside`, `in_postgres`). Calls of accounts that
//!   Redis does not have are also decided there, once their accounts are loaded (`in_redis`).
//! - `heartbeat` renews the lease and follows the ledger from epoch to epoch. An epoch ends when
//!   Redis loses its data, and a `recovery` begins the next one. `janitor` does the upkeep.
//! - `compare` compares Redis with Postgres, and `repair` makes Redis agree with Postgres again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::ledger::LedgerError;
use crate::ledger::backend::{Aside, Backend, Begun, Expired, IsLive, Later, Outcomes, Ticked};
use crate::ledger::config::{Durability, LedgerConfig};
use crate::ledger::operation::{Operation, Outcome};
use crate::metrics::Metrics;
use crate::store::cluster::answers::ClusterAnswers;
use crate::store::cluster::append_trials;
use crate::store::cluster::beside::{Beside, Rest, Way};
use crate::store::cluster::election;
use crate::store::cluster::group::{self, LIMIT};
use crate::store::cluster::hand_over;
use crate::store::cluster::heartbeat;
use crate::store::cluster::in_postgres::is_refund;
use crate::store::cluster::in_redis::{self, outcomes_of};
use crate::store::cluster::janitor;
use crate::store::cluster::lost_gateways;
use crate::store::cluster::owed::{Taken, decide_owed};
use crate::store::cluster::postgres::{self, Store};
use crate::store::cluster::reader::ClusterReader;
use crate::store::cluster::redis::fitness;
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::redis::script::LAYOUT;
use crate::store::cluster::redis_look;
use crate::store::cluster::rounds;
use crate::store::cluster::setup;
use crate::store::cluster::shared::{HoldsToAskFor, Shared};
use crate::store::cluster::sweep::Sweep;
use crate::store::cluster::sync;
use crate::store::cluster::undo::release_of;
use crate::store::cluster::warm;
use crate::store::cluster::work::{self, DecidedBatch, MAX_BATCH, OnMiss};

/// The time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// In `strict`, how long the ends of calls' holds wait for the next hold, so that one append writes both.
const ENDS_WAIT: Duration = Duration::from_millis(2);

/// The fewest callers of a batch that does not wait for all who are ready. A smaller batch costs more for each call than it
/// saves, above all in `strict`, where each batch is an append.
const FEWEST_CALLERS_RELAXED: usize = 8;
const FEWEST_CALLERS_STRICT: usize = 40;

/// How long a start waits for an open epoch. After that the gateway serves 503 until an epoch is open.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// How long a stop waits for Redis, and until Postgres has folded everything. After that, the gateway hands over to Postgres
/// the batches that only this gateway remembers, or appends them if Redis answers.
const HAND_OVER_AFTER: Duration = Duration::from_secs(4);

/// How long a stop goes on appending batches, as long as it has no charge to hand over.
const APPENDS_FOR: Duration = Duration::from_secs(8);

/// How long a stop waits, if this gateway has just led a recovery, until the accounts with live
/// holds are loaded into Redis.
const WARM_LIMIT: Duration = Duration::from_secs(2);

/// The cluster ledger, as one gateway uses it.
#[derive(Debug)]
pub struct ClusterLedger {
    pub(super) shared: Arc<Shared>,
    /// The database that lists are read from.
    lists: Store,
    sweep: Sweep,
    /// The operations that are decided beside the pipeline.
    beside: Beside,
    /// Holds of an earlier start of this gateway, which this start has let expire.
    expired: Vec<Expired>,
    /// The heartbeat, the syncer and the janitor. They end with the ledger.
    tasks: JoinSet<()>,
    /// The moment at which a stop began to write all changes.
    stopping_since: Option<Instant>,
    closed: bool,
}

impl ClusterLedger {
    /// Registers this gateway with the ledger, and creates the ledger if it does not exist.
    ///
    /// # Errors
    /// Fails if Postgres cannot be reached, or the settings of this gateway differ from those of the others.
    pub async fn open(config: &LedgerConfig, metrics: Metrics) -> Result<Self, LedgerError> {
        let store = setup::retry_outages(|| setup::open_database(config)).await?;
        let lists = match &config.postgres_read_url {
            Some(url) => Store::new(url, config)?,
            None => store.clone(),
        };
        let redis = setup::open_redis(config)?;
        let mut open_limit = OPEN_LIMIT;
        if let Err(error) = redis.wait().await {
            tracing::error!(
                %error,
                "Redis cannot be reached yet: calls get 503 until it can; see that it runs and that `redis_url` leads \
                 to it"
            );
            if config.is_command {
                open_limit = Duration::ZERO;
            }
        }
        let name = match &config.gateway_name {
            Some(name) => name.clone(),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let joined =
            setup::retry_outages(|| postgres::join(&store, &name, config.layout.unwrap_or(LAYOUT)))
                .await?;
        if joined.still_serves {
            tracing::warn!(
                name,
                "another gateway has had this `gateway_name` until just now. If it still runs, give each its \
                 own: the start of one has the holds of the other's calls expire"
            );
        }
        let shared = Shared::new(store, redis, config, name, joined.incarnation, metrics);
        let fit = match fitness::check(&shared.redis).await {
            Ok(()) => janitor::check_redis(&shared).await,
            unfit => unfit,
        };
        match fit {
            Err(error @ LedgerError::Disagrees { .. }) => {
                postgres::leave(&shared.store, joined.incarnation).await?;
                return Err(error);
            }
            Err(error) => {
                tracing::error!(%error, "Redis does not reply: calls get 503 until it does")
            }
            Ok(()) => {}
        }
        let mut ledger = Self {
            shared,
            lists,
            sweep: Sweep::new(),
            beside: Beside::default(),
            expired: Vec::new(),
            tasks: JoinSet::new(),
            stopping_since: None,
            closed: false,
        };
        ledger.start(joined.replaced, open_limit).await;
        Ok(ledger)
    }

    /// Waits until an epoch is open, for at most `open_limit`, ends the calls of an earlier start, and starts the
    /// background tasks.
    async fn start(&mut self, replaced: Option<i64>, open_limit: Duration) {
        wait_until_open(&self.shared, open_limit).await;
        if let Err(error) = election::start(&self.shared, replaced).await {
            tracing::debug!(%error, "the syncer is elected later");
        }
        if let Some(earlier) = replaced
            && let Err(error) = self.expire_calls_of_replaced(earlier).await
        {
            tracing::error!(%error, "the holds of an earlier start of this gateway expire later");
        }
        if let Err(error) = postgres::recover_if_owed(&self.shared.store).await {
            tracing::error!(%error, "the charges that calls owed at a stop are written later");
        }
        self.tasks.spawn(heartbeat::run(self.shared.clone()));
        self.tasks.spawn(redis_look::run(self.shared.clone()));
        self.tasks.spawn(rounds::run(self.shared.clone()));
        self.tasks.spawn(append_trials::run(self.shared.clone()));
        self.tasks.spawn(janitor::run(self.shared.clone()));
    }

    async fn expire_calls_of_replaced(&mut self, earlier: i64) -> Result<(), LedgerError> {
        sync::sync(&self.shared).await?;
        let calls = postgres::call_holds(&self.shared.store, earlier).await?;
        lost_gateways::expire_calls(&self.shared, earlier, calls);
        self.expired = self.sweep.run(&self.shared, &|_| false).await?;
        Ok(())
    }

    /// Returns a reader of this ledger.
    pub fn reader(&self) -> ClusterReader {
        ClusterReader { shared: self.shared.clone(), lists: self.lists.clone() }
    }

    /// Opens the answers that the ledger keeps for retries, in Postgres. The answers of all gateways together take at
    /// most `max_total` bytes.
    ///
    /// # Errors
    /// Fails if Postgres cannot be reached.
    pub async fn answers(&self, max_total: u64) -> Result<ClusterAnswers, LedgerError> {
        let gateway = self.shared.settings.incarnation;
        ClusterAnswers::open(self.shared.store.clone(), gateway, max_total).await
    }

    /// Removes from Redis the accounts that have been idle for at least `idle`. Returns how many it
    /// removed.
    ///
    /// # Errors
    /// Fails if Redis does not reply.
    pub async fn retire(&self, idle: Duration) -> Result<i64, LedgerError> {
        janitor::retire(&self.shared, idle).await
    }

    /// Makes everything durable, at a stop. If Postgres does not fold the batches of Redis in time, this gateway's are
    /// appended, and the others fold them. If Redis has been unreachable for a while, or has not decided the charges of
    /// calls, the rest is handed over to the next recovery. Returns whether the gateway may end.
    async fn write_all(&mut self, unsettled: &mut Vec<Operation>) -> bool {
        let shared = &self.shared;
        let since = *self.stopping_since.get_or_insert_with(Instant::now);
        shared.is_stopping.store(true, Ordering::Relaxed);
        let synced = sync::sync_within(shared, HAND_OVER_AFTER).await;
        let owes = shared.debts.has_charges() || unsettled.iter().any(Operation::is_charge);
        match synced {
            Ok(()) if !owes => return shared.redo.is_empty(),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "not everything is in Postgres's tables yet; the stop tries again");
                let is_late = since.elapsed() >= HAND_OVER_AFTER;
                let goes_on = hand_over::append_if_stuck(shared, is_late).await;
                // Charges that no store has are handed over in time, whatever that begins.
                if goes_on && !owes && since.elapsed() < APPENDS_FOR {
                    return false;
                }
            }
        }
        let is_settled = unsettled.is_empty() && shared.debts.is_empty();
        if is_settled && shared.redo.is_empty() {
            // There is nothing to hand over, so there is nothing to wait for.
            return true;
        }
        // The last check finds operations from an epoch that ended before they were handed over.
        since.elapsed() >= HAND_OVER_AFTER
            && hand_over::hand_over(shared, unsettled).await
            && !shared.debts.has_charges()
    }
}

impl Backend for ClusterLedger {
    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        // Refunds of a group are decided after all others.
        let keep_order = |a: &_, b: &_| Way::of(a) == Way::of(b) && is_refund(a) == is_refund(b);
        for part in batch.chunk_by(keep_order) {
            for some in part.chunks(MAX_BATCH) {
                if let Some(owed) = self.owed() {
                    owed.outcomes.await;
                }
                let decided = group::decide(&self.shared, Way::of(&some[0]), some);
                outcomes.extend(Box::pin(decided).await);
            }
        }
        outcomes
    }

    /// Redis decides the calls of warm accounts. In `strict` the returned future waits until Postgres has them, and
    /// Redis decides the next batch meanwhile. All other operations are set aside.
    async fn begin(&mut self, batch: &Arc<Vec<Operation>>, rejoins: bool) -> Begun {
        let mut aside: Vec<_> = self.owed().into_iter().collect();
        self.beside.begin_batch(rejoins);
        let (mut parts, mut rest) = (Vec::with_capacity(1), Rest::default());
        for from in (0..batch.len()).step_by(MAX_BATCH) {
            let part = from..batch.len().min(from + MAX_BATCH);
            let allowed = || self.shared.holds_to_wait_for();
            let some = self.beside.to_decide(batch, part.clone(), allowed, &mut rest);
            let (items, holds): (Vec<_>, _) = match &some {
                None => {
                    (batch[part].iter().map(BatchItem::Operation).collect(), HoldsToAskFor::ALL)
                }
                Some((places, holds)) => {
                    (places.iter().map(|at| BatchItem::Operation(&batch[*at])).collect(), *holds)
                }
            };
            let decided = work::ask_redis(&self.shared, &items, holds, OnMiss::SetAside).await;
            let places = some.map(|(places, _)| places);
            let mut part = Part { from, places, decided };
            rest.add_cold(batch, part.decided.cold.iter().map(|nth| part.place(*nth)));
            aside.extend(part.repeated(&self.shared, batch));
            parts.push(part);
        }
        let mut waiting = Vec::new();
        if !rest.is_empty() {
            let (groups, wait) = self.beside.group(batch, rest);
            aside.extend(groups.into_iter().flat_map(|group| group::start(group, &self.shared)));
            waiting = wait;
        }
        let waits = parts.iter().any(|part| part.decided.waits_for_postgres());
        let (shared, batch) = (self.shared.clone(), batch.clone());
        let outcomes = async move {
            let mut outcomes = Vec::with_capacity(batch.len());
            for part in parts {
                outcomes.extend(part.outcomes(&shared, &batch).await);
            }
            outcomes
        };
        let outcomes = match waits {
            true => Outcomes::Committing(Box::pin(outcomes)),
            false => Outcomes::Ready(outcomes.await),
        };
        Begun { outcomes, aside, waiting }
    }

    /// The operations in `debts`, to be decided before all later operations that name the same. `None` if there are none, while others of them are being decided, if the last attempt has failed just now, or if
    /// they are known to be undecidable.
    fn owed(&mut self) -> Option<Aside> {
        let shared = &self.shared;
        if !shared.debts.are_due() || self.beside.has_owed() || shared.is_away() {
            return None;
        }
        let takes_appends = shared.store.is_up() && shared.writes.takes_appends();
        if shared.settings.durability == Durability::Strict && !takes_appends {
            return None;
        }
        let owed = Taken::all(shared);
        let guard = self.beside.start_owed(owed.operations());
        let shared = self.shared.clone();
        let outcomes: Later<_> = Box::pin(async move {
            let _guard = guard;
            // Operations that are not decided in time are put back.
            let _ = tokio::time::timeout(LIMIT, decide_owed(&shared, owed)).await;
            Vec::new()
        });
        Some(Aside { places: Vec::new(), outcomes })
    }

    fn lets_rejoin(&mut self) -> bool {
        self.beside.lets_rejoin()
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        if let Some(owed) = self.owed() {
            owed.outcomes.await;
        }
        match self.begin_tick(is_live).await {
            Ticked::Done(expired) => expired,
            Ticked::Going(rest) => rest.await,
        }
    }

    async fn begin_tick(&mut self, is_live: &IsLive<'_>) -> Ticked {
        let mut expired = std::mem::take(&mut self.expired);
        match self.sweep.due(&self.shared, is_live).await {
            Ok(Some(due)) => {
                let shared = self.shared.clone();
                Ticked::Going(Box::pin(async move {
                    expired.extend(due.end(&shared).await);
                    expired
                }))
            }
            Ok(None) => Ticked::Done(expired),
            Err(error) => {
                tracing::debug!(%error, "no hold was swept");
                Ticked::Done(expired)
            }
        }
    }

    fn tick_after(&self) -> Duration {
        SWEEP_EVERY
    }

    /// An append costs Postgres about as much for one operation as for thirty.
    fn ends_wait(&self) -> Duration {
        match self.shared.settings.durability {
            Durability::Strict => ENDS_WAIT,
            Durability::Relaxed => Duration::ZERO,
        }
    }

    fn fewest_callers(&self) -> Option<usize> {
        Some(match self.shared.settings.durability {
            Durability::Strict => FEWEST_CALLERS_STRICT,
            Durability::Relaxed => FEWEST_CALLERS_RELAXED,
        })
    }

    async fn hand_over(&mut self, unsettled: &mut Vec<Operation>) {
        self.write_all(unsettled).await;
    }

    async fn close(&mut self) -> bool {
        if self.closed {
            return true;
        }
        if let Some(owed) = self.owed() {
            owed.outcomes.await;
        }
        let written = self.write_all(&mut Vec::new()).await;
        if written {
            // Other gateways load the remaining accounts when a call needs them.
            let warmed = warm::warm_after_recovery(&self.shared);
            if !matches!(tokio::time::timeout(WARM_LIMIT, warmed).await, Ok(Ok(()))) {
                tracing::warn!(
                    "not every account with a live hold is in Redis yet; the other gateways bring the rest"
                );
            }
            self.tasks.shutdown().await;
            election::leave(&self.shared).await;
            if let Err(error) =
                postgres::leave(&self.shared.store, self.shared.settings.incarnation).await
            {
                tracing::warn!(%error, "the lease could not be given back; it runs out within seconds");
            }
            self.closed = true;
        }
        written
    }
}

/// Waits until an epoch is open, for at most `limit`.
async fn wait_until_open(shared: &Shared, limit: Duration) {
    let limit = Instant::now() + limit;
    loop {
        let open = async {
            heartbeat::beat(shared).await?;
            match sync::sync(shared).await {
                // The gateway serves while a row is locked, as those do that run already.
                Err(LedgerError::RowLocked | LedgerError::Behind) => {}
                synced => synced?,
            }
            // The sync has read from Redis up to which batch Postgres had the stream. The second beat notices if
            // Postgres has been restored to an earlier point since then.
            heartbeat::beat(shared).await?;
            shared.epoch.require().map(drop)
        };
        match open.await {
            Ok(()) => return,
            // The wait may be long, and its reason was logged.
            Err(_) if shared.epoch.is_left_to_others() || shared.epoch.is_elsewhere() => return,
            Err(error) if Instant::now() >= limit => {
                return tracing::error!(
                    %error,
                    "the ledger is not open, and answers 503 until it is: a recovery waits for Redis, for Postgres or \
                     for another gateway, as other lines say"
                );
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A part of a batch that Redis was asked to decide.
struct Part {
    /// The place of the part's first operation in the batch.
    from: usize,
    /// The places of the operations that Redis was asked for; `None` for the whole part.
    places: Option<Vec<usize>>,
    decided: DecidedBatch,
}

impl Part {
    /// The place in the batch of the `nth` operation that Redis was asked for.
    fn place(&self, nth: usize) -> usize {
        self.places.as_ref().map_or(self.from + nth, |places| places[nth])
    }

    /// Takes out the decisions that repeat those of an earlier batch. They are answered once that batch is folded, which
    /// the others do not wait for.
    fn repeated(&mut self, shared: &Arc<Shared>, batch: &Arc<Vec<Operation>>) -> Option<Aside> {
        let (nths, decided) = self.decided.take_repeated()?;
        let places: Vec<_> = nths.iter().map(|nth| self.place(*nth)).collect();
        // The outcomes of the part are without these, as they are without those of cold calls.
        self.decided.cold.extend(nths);
        self.decided.cold.sort_unstable();
        let operations: Vec<_> = places.iter().map(|place| batch[*place].clone()).collect();
        let shared = shared.clone();
        let outcomes: Later<_> =
            Box::pin(
                async move { in_redis::durable_outcomes(&shared, &operations, decided).await },
            );
        Some(Aside { places, outcomes })
    }

    /// Makes the decisions durable. Returns their outcomes in order, without those of cold calls, which are decided
    /// beside the pipeline.
    async fn outcomes(mut self, shared: &Shared, batch: &[Operation]) -> Vec<Outcome> {
        let cold = std::mem::take(&mut self.decided.cold);
        let Self { from, places, decided } = self;
        let (decisions, uncertain) = decided.make_durable(shared).await;
        let operation = |nth: usize| &batch[places.as_ref().map_or(from + nth, |at| at[nth])];
        let uncertain = uncertain.into_iter();
        shared.debts.owe(uncertain.filter_map(|nth| release_of(operation(nth))));
        let operations = (0..decisions.len()).map(operation);
        let mut outcomes = outcomes_of(operations, decisions);
        cold.iter().rev().for_each(|nth| drop(outcomes.remove(*nth)));
        outcomes
    }
}
