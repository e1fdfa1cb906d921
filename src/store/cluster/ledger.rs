//! The cluster ledger as a backend of the pipeline.
//!
//! - Operations on holds are decided in Redis: `work` lets `decide.lua` decide a batch
//!   (`redis::request`, `redis::reply`), and `warm` loads the accounts that the batch needs into Redis.
//!   The script adds each batch to a stream.
//! - `sync` writes the stream into Postgres (it folds the batches into entries and holds), and applies in Redis what
//!   Postgres decided. A batch is folded within a quarter of a second. Until then it is also in Postgres as a text in
//!   `strict`, appended before it is answered, and in the gateway's redo log (`redo`) in `relaxed`.
//! - All other operations are decided in Postgres.
//! - `heartbeat` renews the lease and follows the ledger from epoch to epoch. An epoch ends when
//!   Redis loses its data, and a `recovery` begins the next one. `janitor` does the upkeep.
//! - `compare` compares Redis with Postgres, and `repair` makes Redis agree with Postgres again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::ledger::LedgerError;
use crate::ledger::backend::{Backend, Begun, Expired, IsLive};
use crate::ledger::config::{Durability, LedgerConfig};
use crate::ledger::operation::{Operation, Origin, Outcome, Refusal};
use crate::ledger::wall_ms;
use crate::metrics::Metrics;
use crate::store::cluster::answers::ClusterAnswers;
use crate::store::cluster::api_ends;
use crate::store::cluster::append_trials;
use crate::store::cluster::election;
use crate::store::cluster::hand_over;
use crate::store::cluster::heartbeat;
use crate::store::cluster::janitor;
use crate::store::cluster::lost_gateways;
use crate::store::cluster::postgres::{self, Store};
use crate::store::cluster::reader::ClusterReader;
use crate::store::cluster::redis::fitness;
use crate::store::cluster::redis::reply::{Decision, Verdict};
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::redis::script::LAYOUT;
use crate::store::cluster::redis_look;
use crate::store::cluster::rounds;
use crate::store::cluster::setup;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sweep::Sweep;
use crate::store::cluster::sync::{self, IN_TIME, WRITTEN_WITHIN};
use crate::store::cluster::warm;
use crate::store::cluster::work::{self, MAX_BATCH};

/// The time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// In `strict`, how long the ends of calls' holds wait for the next hold, so that one append writes both.
const ENDS_WAIT: Duration = Duration::from_millis(2);

/// In `relaxed`, the fewest callers of a batch that does not wait for all who are ready. A smaller batch costs more for
/// each call than it saves.
const FEWEST_CALLERS: usize = 8;

/// How long a start waits for an open epoch. After that the gateway serves 503 until an epoch is open.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// How long a stop waits for Redis. After that, the gateway hands over to Postgres the batches that only this gateway
/// remembers.
const HAND_OVER_AFTER: Duration = Duration::from_secs(4);

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
    /// Holds of an earlier start of this gateway, which this start has let expire.
    expired: Vec<Expired>,
    /// The heartbeat, the syncer and the janitor. They end with the ledger.
    tasks: JoinSet<()>,
    /// The moment at which a stop began to write all changes.
    stopping_since: Option<Instant>,
    closed: bool,
}

/// The place where an operation is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecidedIn {
    Redis,
    Postgres,
    /// By itself, never together with other operations.
    Alone,
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

    /// Makes everything durable, at a stop. If Redis has been unreachable for a while, or has not
    /// decided the charges of calls, the rest is handed over to the next recovery. Returns whether
    /// the gateway may end.
    async fn write_all(&mut self, unsettled: &mut Vec<Operation>) -> bool {
        let shared = &self.shared;
        let synced = sync::sync_within(shared, HAND_OVER_AFTER).await;
        let owes = shared.debts.has_charges() || unsettled.iter().any(Operation::is_charge);
        match synced {
            Ok(()) if !owes => return shared.redo.is_empty(),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "not everything is in Postgres yet; the stop tries again")
            }
        }
        let is_settled = unsettled.is_empty() && shared.debts.is_empty();
        if is_settled && shared.redo.is_empty() {
            // There is nothing to hand over, so there is nothing to wait for.
            return true;
        }
        let since = *self.stopping_since.get_or_insert_with(Instant::now);
        // The last check finds operations from an epoch that ended before they were handed over.
        since.elapsed() >= HAND_OVER_AFTER
            && hand_over::hand_over(shared, unsettled).await
            && !shared.debts.has_charges()
    }
}

impl Backend for ClusterLedger {
    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let go_together = |a: &Operation, b: &Operation| {
            DecidedIn::of(a).takes_with(DecidedIn::of(b)) && !api_ends::ends_its_batch(a)
        };
        for part in batch.chunk_by(go_together) {
            for some in part.chunks(MAX_BATCH) {
                match (DecidedIn::of(&some[0]), some) {
                    (DecidedIn::Redis, some) => {
                        outcomes.extend(decide_in_redis(&self.shared, some).await);
                    }
                    (_, [Operation::Audit]) => outcomes.push(audit(&self.shared).await),
                    (_, some) => {
                        // Boxed, because it is rare and large.
                        let decided = decide_in_postgres_unless_open(&self.shared, some);
                        outcomes.extend(Box::pin(decided).await);
                    }
                }
            }
        }
        outcomes
    }

    /// In `strict` the calls' operations wait for Postgres in the future that is returned: Redis decides the next batch
    /// meanwhile.
    async fn begin(&mut self, batch: &Arc<Vec<Operation>>) -> Begun {
        let shared = &self.shared;
        let is_usual = |operation: &Operation| {
            DecidedIn::of(operation) == DecidedIn::Redis && operation.origin() != Some(Origin::Api)
        };
        let is_strict = shared.settings.durability == Durability::Strict;
        if !is_strict || batch.len() > MAX_BATCH || !batch.iter().all(is_usual) {
            return Begun::Done(self.apply(batch).await);
        }
        decide_owed(shared).await;
        let items: Vec<_> = batch.iter().map(BatchItem::Operation).collect();
        let decided = work::ask_redis(shared, &items).await;
        let waits = decided.waits_for_postgres();
        let (shared, operations) = (shared.clone(), batch.clone());
        let outcomes = async move {
            let (decisions, uncertain) = decided.make_durable(&shared).await;
            let uncertain = uncertain.into_iter();
            shared.debts.owe(uncertain.filter_map(|place| work::release_of(&operations[place])));
            outcomes_of(&operations, decisions)
        };
        if waits { Begun::Committing(Box::pin(outcomes)) } else { Begun::Done(outcomes.await) }
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        decide_owed(&self.shared).await;
        let mut expired = std::mem::take(&mut self.expired);
        match self.sweep.run(&self.shared, is_live).await {
            Ok(some) => expired.extend(some),
            Err(error) => tracing::debug!(%error, "no hold was swept"),
        }
        expired
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

    /// In `strict` larger batches save appends.
    fn fewest_callers(&self) -> Option<usize> {
        (self.shared.settings.durability == Durability::Relaxed).then_some(FEWEST_CALLERS)
    }

    async fn hand_over(&mut self, unsettled: &mut Vec<Operation>) {
        self.write_all(unsettled).await;
    }

    async fn close(&mut self) -> bool {
        if self.closed {
            return true;
        }
        decide_owed(&self.shared).await;
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

impl DecidedIn {
    fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Hold(_)
            | Operation::Extend { .. }
            | Operation::Renew { .. }
            | Operation::Capture { .. }
            | Operation::Release { .. }
            | Operation::Abandon { .. }
            | Operation::MarkClaim { .. }
            | Operation::Leave { .. }
            | Operation::Balance { .. } => Self::Redis,
            Operation::Open { .. }
            | Operation::Post(_)
            | Operation::Refund { .. }
            | Operation::RefundPart { .. }
            | Operation::Import(_)
            | Operation::PutKeys(_)
            | Operation::RevokeKey { .. }
            | Operation::RecordEvent(_)
            | Operation::EndEvent { .. }
            | Operation::TakeFacts(_)
            | Operation::RecordCustomer { .. }
            | Operation::Thaw { .. } => Self::Postgres,
            Operation::Audit | Operation::Fold { .. } => Self::Alone,
        }
    }

    /// Whether an operation that is decided here can be decided together with the next one.
    fn takes_with(self, next: Self) -> bool {
        self == next && self != Self::Alone
    }
}

/// Waits until an epoch is open, for at most `limit`.
async fn wait_until_open(shared: &Shared, limit: Duration) {
    let limit = Instant::now() + limit;
    loop {
        let open = async {
            heartbeat::beat(shared).await?;
            sync::sync(shared).await?;
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

/// Decides operations on holds in Redis, in order.
async fn decide_in_redis(shared: &Shared, operations: &[Operation]) -> Vec<Outcome> {
    decide_owed(shared).await;
    let items: Vec<_> = operations.iter().map(BatchItem::Operation).collect();
    let mut outcomes = outcomes_of(operations, work::decide(shared, &items).await);
    api_ends::correct_outcomes(shared, operations, &mut outcomes).await;
    outcomes
}

/// The outcomes of operations as Redis has decided them. A call that was cut off is logged.
fn outcomes_of(operations: &[Operation], decisions: Vec<Decision>) -> Vec<Outcome> {
    for (operation, decision) in operations.iter().zip(&decisions) {
        if decision.verdict == Verdict::Expired
            && let Some(call) = operation.crashed_call(wall_ms())
        {
            call.log();
        }
    }
    decisions.into_iter().map(Decision::outcome).collect()
}

/// Decides the operations in `debts`. Those that cannot be decided stay there.
async fn decide_owed(shared: &Shared) {
    if !shared.redis.is_up() {
        return;
    }
    let owed = shared.debts.take_owed();
    for some in owed.chunks(MAX_BATCH) {
        let items: Vec<_> = some.iter().map(BatchItem::Operation).collect();
        let decisions = work::decide(shared, &items).await;
        let undecided = some
            .iter()
            .zip(decisions)
            .filter(|(_, decision)| decision.verdict == Verdict::Unavailable);
        shared.debts.owe(undecided.map(|(operation, _)| operation.clone()));
    }
}

/// Decides operations in Postgres, once Postgres has all decisions of Redis, and then applies them
/// in Redis.
async fn decide_in_postgres(shared: &Shared, operations: &[Operation]) -> Vec<Outcome> {
    let decided = async {
        shared.require_postgres()?;
        sync::sync_within(shared, IN_TIME).await?;
        postgres::decide(&shared.store, operations, shared.clock.now(0)).await
    };
    match decided.await {
        Ok(outcomes) => {
            if let Err(error) = sync::deliver(shared).await {
                tracing::warn!(
                    %error,
                    "a decision of Postgres, such as a grant, is applied in Redis with the next sync, since Redis did \
                     not answer"
                );
            }
            outcomes
        }
        Err(error) => {
            tracing::warn!(
                %error,
                "Postgres does not decide about a grant, a key or a payment; the caller gets 503, and may ask again \
                 under the same id"
            );
            vec![Outcome::Refused(Refusal::Unavailable); operations.len()]
        }
    }
}

/// Decides operations in Postgres. Openings of accounts that exist in Redis are skipped, because
/// these accounts are already open.
async fn decide_in_postgres_unless_open(shared: &Shared, operations: &[Operation]) -> Vec<Outcome> {
    let open = warm::are_open(shared, operations).await;
    let rest = operations.iter().zip(&open).filter(|(_, is_open)| !**is_open);
    let rest: Vec<_> = rest.map(|(operation, _)| operation.clone()).collect();
    let decided = match rest.is_empty() {
        true => Vec::new(),
        false => decide_in_postgres(shared, &rest).await,
    };
    let mut decided = decided.into_iter();
    let unavailable = Outcome::Refused(Refusal::Unavailable);
    let outcome = |is_open| match is_open {
        true => Outcome::Opened { new: false },
        false => decided.next().unwrap_or_else(|| unavailable.clone()),
    };
    open.into_iter().map(outcome).collect()
}

/// Makes all decisions of Redis durable. The comparison of Redis with Postgres is not made here but
/// by the reader, because it may take long and the pipeline would have to wait.
async fn audit(shared: &Shared) -> Outcome {
    match sync::sync_within(shared, WRITTEN_WITHIN).await {
        Ok(()) => Outcome::Audited(Vec::new()),
        Err(error) => {
            tracing::warn!(%error, "not everything is in Postgres yet");
            Outcome::Refused(Refusal::Unavailable)
        }
    }
}
