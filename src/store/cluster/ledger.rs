//! The cluster ledger: Redis decides, Postgres remembers. Any number of gateways share it.
//!
//! - `decide.lua` decides a batch of operations on holds in one call, and writes it into a stream:
//!   `question.rs` asks it, `batch.rs` reads the answer.
//! - `drain.rs` writes the stream into Postgres, and lets Redis hear what Postgres decided: grants and
//!   everything rare. In `strict` a batch is in Postgres before it is answered; in `relaxed` it is there
//!   within a quarter of a second, and until then also in the memory of the gateway (`ring.rs`).
//! - `bring.rs` brings to Redis what a batch needs and Redis does not have.
//! - `compare.rs` holds Redis against Postgres, and drops from it what differs.
//! - `lease.rs` leads from one epoch to the next: an epoch is one life of Redis's data, and the scripts'
//!   own text names it, so that a Redis that lost data does not know them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::types::Value;
use tokio::task::JoinSet;

use crate::config::Secret;
use crate::metrics::Metrics;
use crate::store::cluster::late;
use crate::store::cluster::reader::ClusterReader;

use crate::ledger::LedgerError;
use crate::ledger::backend::{Backend, Expired, IsLive};
use crate::ledger::config::LedgerConfig;
use crate::ledger::crash::CrashedCall;
use crate::ledger::hold::CALL_TTL_MS;
use crate::ledger::operation::{HoldId, Operation, Outcome, Refusal};
use crate::ledger::report::RepairReport;
use crate::ledger::wall_ms;
use crate::store::cluster::postgres::{self, Store};
use crate::store::cluster::redis::connection::{Redis, Stopped};
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::{Sent, Shared, text, texts};
use crate::store::cluster::work::{Answer, Asked, Code, Place, Reply, Work, route_of};

/// The largest batch of one call.
pub(crate) const MAX_BATCH: usize = 1024;

/// How often one batch may ask for something that it needs. Each time it gets further.
const MAX_ROUNDS: usize = 64;

/// How often holds are looked over for expiry.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// How long a start waits for the ledger to open; after that it serves 503 until it does.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// How long a start waits for Postgres.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it says so while nothing is heard at all.
const SAY_EVERY: Duration = Duration::from_secs(3);

/// How often it tries.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// How long a stop waits for Redis before it hands what only this gateway remembers to Postgres, for
/// the recovery that follows.
const HAND_OVER_AFTER: Duration = Duration::from_secs(4);

/// How long a batch waits until Postgres has what Redis decided before it: all calls of this gateway wait
/// with it.
pub(crate) const IN_TIME: Duration = Duration::from_millis(500);

/// How long a batch that must be in Postgres waits for others to be written before it.
const SEALED_WITHIN: Duration = Duration::from_secs(2);

/// How long after its deadline a call's hold is left to its own gateway, which renews it while the
/// call runs.
const GRACE_MS: &str = "60000";

/// How many holds a sweep ends.
const SWEPT: &str = "500";

/// One gateway's way into the cluster ledger.
#[derive(Debug)]
pub struct ClusterLedger {
    pub(super) shared: Arc<Shared>,
    lists: Store,
    /// How far the live holds have been looked over for expiry: a cursor of Redis.
    swept: String,
    /// Holds that expired at the start, of the start before.
    expired: Vec<Expired>,
    /// The lease, the syncer and the janitor. They end with it.
    tasks: JoinSet<()>,
    /// Since when not all could be written, at a stop.
    stopping: Option<Instant>,
    closed: bool,
}

impl ClusterLedger {
    /// Takes a place among the gateways of the ledger, and makes the ledger where there is none.
    ///
    /// # Errors
    /// Where Postgres cannot be reached, or this gateway is set up otherwise than the others.
    pub async fn open(config: &LedgerConfig, metrics: Metrics) -> Result<Self, LedgerError> {
        let store = patiently(|| prepare(config)).await?;
        let lists = match &config.postgres_read_url {
            Some(url) => Store::new(url, &config.postgres_schema)?,
            None => store.clone(),
        };
        let redis = redis_of(config)?;
        if let Err(error) = redis.wait().await {
            tracing::error!(%error, "Redis cannot be reached yet");
        }
        let name = match &config.gateway_name {
            Some(name) => name.clone(),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let joined = patiently(|| postgres::join(&store, &name, config.layout)).await?;
        if joined.still_serves {
            tracing::warn!(
                name,
                "another gateway has had this `gateway_name` until just now. If it still runs, give each its \
                 own: the start of one has the holds of the other's calls expire"
            );
        }
        let shared = Shared::new(store, redis, config, name, joined.incarnation, metrics);
        match shared.look_at_redis().await {
            Err(error @ LedgerError::Disagrees { .. }) => {
                postgres::leave(&shared.store, joined.incarnation).await?;
                return Err(error);
            }
            Err(error) => tracing::error!(%error, "Redis does not answer"),
            Ok(()) => {}
        }
        let (swept, tasks) = ("0".to_owned(), JoinSet::new());
        let expired = Vec::new();
        let mut ledger =
            Self { shared, lists, swept, expired, tasks, stopping: None, closed: false };
        ledger.wait_until_open().await;
        if let Some(earlier) = joined.replaced
            && let Err(error) = ledger.expire_calls_of_replaced(earlier).await
        {
            tracing::error!(%error, "the holds of an earlier start expire later");
        }
        if let Err(error) = postgres::recover_if_owed(&ledger.shared.store).await {
            tracing::error!(%error, "what calls owed at a stop is charged later");
        }
        ledger.tasks.spawn(ledger.shared.clone().run_lease());
        ledger.tasks.spawn(ledger.shared.clone().run_syncer());
        ledger.tasks.spawn(ledger.shared.clone().run_janitor());
        Ok(ledger)
    }

    async fn expire_calls_of_replaced(&mut self, earlier: i64) -> Result<(), LedgerError> {
        self.shared.drain().await?;
        let calls = postgres::call_holds(&self.shared.store, earlier).await?;
        self.shared.expire_calls(earlier, calls);
        self.expired = self.sweep(&|_| false).await?;
        Ok(())
    }

    async fn wait_until_open(&mut self) {
        let limit = Instant::now() + OPEN_LIMIT;
        loop {
            let open = async {
                self.shared.look_up().await?;
                self.shared.drain().await?;
                // Redis has said by now where Postgres was: it may have been taken back since.
                self.shared.look_up().await?;
                self.shared.open_scripts().map(drop)
            };
            let open = open.await;
            match open {
                Ok(()) => return,
                // It has said so, and may wait for long.
                Err(_) if self.shared.is_left_to_others() => return,
                Err(error) if Instant::now() >= limit => {
                    return tracing::error!(%error, "the ledger is not open; it answers 503 until it is");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A reader of the same ledger.
    pub fn reader(&self) -> ClusterReader {
        ClusterReader { shared: self.shared.clone(), lists: self.lists.clone() }
    }

    /// Lets accounts leave Redis that nothing has touched for `idle`; how many went.
    ///
    /// # Errors
    /// Where Redis cannot be asked.
    pub async fn retire(&self, idle: Duration) -> Result<i64, LedgerError> {
        self.shared.retire(idle).await
    }

    /// Decides operations on holds in Redis, in order.
    async fn apply_hot(&mut self, operations: &[Operation]) -> Vec<Outcome> {
        self.settle_owed().await;
        let asked: Vec<_> = operations.iter().map(Asked::Operation).collect();
        let answers = self.ask(&asked).await;
        for (operation, answer) in operations.iter().zip(&answers) {
            if answer.code == Code::Expired
                && let Some(call) = CrashedCall::released(operation, wall_ms())
            {
                call.log();
            }
        }
        let mut outcomes: Vec<_> = answers.into_iter().map(Answer::outcome).collect();
        self.shared.look_over_ends(operations, &mut outcomes).await;
        outcomes
    }

    /// Ends the holds whose end this gateway owes.
    async fn settle_owed(&self) {
        let owed = self.shared.take_owed();
        for some in owed.chunks(MAX_BATCH) {
            let asked: Vec<_> = some.iter().map(Asked::Operation).collect();
            let answers = self.ask(&asked).await;
            let unsettled =
                some.iter().zip(answers).filter(|(_, answer)| answer.code == Code::Unavailable);
            self.shared.owe(unsettled.map(|(operation, _)| operation.clone()));
        }
    }

    /// Has a batch decided and made as durable as is promised.
    async fn ask(&self, asked: &[Asked<'_>]) -> Vec<Answer> {
        let mut work = Work::new(asked, self.shared.takes_holds());
        let sent = self.shared.sending();
        if let Some(scripts) = self.shared.scripts() {
            self.decide(&scripts, &mut work).await;
            if !self.seal(&scripts, &work, sent).await {
                work.take_back();
            }
        }
        self.shared.owe(work.owed());
        work.answers
    }

    /// Goes on until each has its answer, and brings what is needed for that.
    async fn decide(&self, scripts: &Scripts, work: &mut Work<'_>) {
        for _ in 0..MAX_ROUNDS {
            if work.is_done() {
                return;
            }
            let durable = self.shared.ring().durable();
            let question = work.question(self.shared.incarnation);
            let packed = question.packed(scripts, durable, self.shared.cap);
            let stream = question.text();
            let args = vec![Value::Bytes(packed.into()), text(&stream)];
            let reply = match self.shared.redis.decide(scripts, args).await {
                Ok(value) => Reply::parse(value, &question),
                Err(Stopped::Epoch) => return self.shared.lost(scripts.epoch.number).await,
                Err(Stopped::Failed(error)) => {
                    tracing::warn!(%error, "Redis does not decide");
                    None
                }
            };
            self.shared.note_decided(reply.is_some());
            let Some(reply) = reply else { return work.doubt_the_rest() };
            let needs = work.take(reply, &stream, scripts, &self.shared);
            if work.is_done() {
                return;
            }
            let (accounts, holds) = (needs.accounts.clone(), needs.holds.clone());
            if let Err(error) = self.shared.bring(scripts, needs).await {
                tracing::warn!(%error, "a batch lacks what only Postgres knows");
                work.give_up(&accounts, &holds);
            }
        }
    }

    /// Whether the answers may be given: with a lease, and in Postgres where that is promised.
    async fn seal(&self, scripts: &Scripts, work: &Work<'_>, sent: Sent) -> bool {
        if !self.shared.may_answer(sent) || !self.shared.ring().is_open(scripts.epoch.number) {
            return false;
        }
        if !work.must_be_durable(self.shared.durability) || work.seq <= self.shared.ring().durable()
        {
            return true;
        }
        // Its own batches may be all that is missing; if not, the stream has the others.
        let own = self.shared.settle(scripts, &work.batches).await;
        let sealed = match own {
            Ok(true) if work.seq <= self.shared.ring().durable() => Ok(()),
            Ok(_) => self.shared.drain_upto(scripts, work.seq, SEALED_WITHIN).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &sealed {
            tracing::warn!(%error, "what Redis decided is not in Postgres yet");
        }
        sealed.is_ok() && self.shared.may_answer(sent)
    }

    /// Decides in Postgres, and lets Redis hear of it. What Redis decided before is there first.
    async fn apply_rare(&self, operations: &[Operation]) -> Vec<Outcome> {
        let decided = async {
            self.shared.need_postgres()?;
            self.shared.drain_within(IN_TIME).await?;
            postgres::decide(&self.shared.store, operations, self.shared.clock.now(0)).await
        };
        match decided.await {
            Ok(outcomes) => {
                if let Err(error) = self.shared.deliver().await {
                    tracing::warn!(%error, "Redis hears later what Postgres decided");
                }
                outcomes
            }
            Err(error) => {
                tracing::warn!(%error, "Postgres does not decide");
                vec![Outcome::Refused(Refusal::Unavailable); operations.len()]
            }
        }
    }

    /// The same, without Postgres where Redis knows the answer: an account that it has, is there.
    async fn apply_rare_unless_known(&self, operations: &[Operation]) -> Vec<Outcome> {
        let known = self.shared.are_open(operations).await;
        let rest = operations.iter().zip(&known).filter(|(_, known)| !**known);
        let rest: Vec<_> = rest.map(|(operation, _)| operation.clone()).collect();
        let mut decided = match rest.is_empty() {
            true => Vec::new(),
            false => self.apply_rare(&rest).await,
        }
        .into_iter();
        let outcome = |known| match known {
            true => Some(Outcome::Opened { new: false }),
            false => decided.next(),
        };
        let unknown = Outcome::Refused(Refusal::Unavailable);
        known.into_iter().map(outcome).map(|outcome| outcome.unwrap_or(unknown.clone())).collect()
    }

    /// Makes durable what is left of it. The comparison with Postgres is the reader's: it may take long.
    async fn audit(&self) -> Outcome {
        match self.shared.drain_within(SEALED_WITHIN).await {
            Ok(()) => Outcome::Audited(Vec::new()),
            Err(error) => {
                tracing::warn!(%error, "not everything is in Postgres yet");
                Outcome::Refused(Refusal::Unavailable)
            }
        }
    }

    /// Makes durable what is left of it, at a stop. Where Redis has been away for a while, or has not decided
    /// what calls owe, that is handed to the recovery that follows. True where nobody needs this gateway any more.
    async fn write_all(&mut self, unsettled: &mut Vec<Operation>) -> bool {
        let drained = self.shared.drain_within(HAND_OVER_AFTER).await;
        let owes = self.shared.owes_charges() || unsettled.iter().any(Operation::is_charge);
        match drained {
            Ok(()) if !owes => return self.shared.ring().is_empty(),
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "not everything is in Postgres yet"),
        }
        let since = *self.stopping.get_or_insert_with(Instant::now);
        // Its next epoch may have opened meanwhile, without what it remembered of the last.
        since.elapsed() >= HAND_OVER_AFTER
            && self.shared.hand_over(unsettled).await
            && !self.shared.owes_charges()
    }

    /// Renews or expires the holds whose time is up.
    async fn sweep(&mut self, is_live: &IsLive<'_>) -> Result<Vec<Expired>, LedgerError> {
        let Some(scripts) = self.shared.scripts() else { return Ok(Vec::new()) };
        let owner = self.shared.incarnation.to_string();
        let args = texts(["due", &owner, GRACE_MS, SWEPT, &self.swept]);
        let mut due: Vec<String> = self.shared.keep(&scripts, args).await?.convert()?;
        let records = due.split_off(due.len().min(1));
        self.swept = due.pop().unwrap_or_else(|| "0".to_owned());
        let mut renewed = Vec::new();
        let mut expiring: Vec<(HoldId, Arc<str>, bool)> = Vec::new();
        for due in records.chunks_exact(2) {
            let (Ok(id), record) = (due[0].parse::<HoldId>(), &due[1]) else { continue };
            if is_live(&id) {
                renewed.push(Operation::Renew { hold: id, ttl_ms: CALL_TTL_MS });
            } else {
                expiring.push((id, route_of(record), false));
            }
        }
        let lapsed = std::mem::take(&mut *self.shared.lapsed());
        expiring.extend(lapsed.into_iter().map(|(id, route)| (id, route, true)));
        let mut asked: Vec<_> = renewed.iter().map(Asked::Operation).collect();
        asked.extend(expiring.iter().map(|(id, _, sure)| Asked::Expire(id, *sure)));
        let mut answers = Vec::with_capacity(asked.len());
        for some in asked.chunks(MAX_BATCH) {
            answers.extend(self.ask(some).await);
        }
        let expired = expiring.iter().zip(&answers[renewed.len()..]);
        // Nobody else tells of these: they are asked for until they are answered.
        let open = expired
            .clone()
            .filter(|((_, _, sure), answer)| *sure && answer.code == Code::Unavailable);
        let open = open.map(|((hold, route, _), _)| (hold.clone(), route.clone()));
        self.shared.lapsed().extend(open);
        Ok(expired
            .filter(|(_, answer)| answer.code == Code::Expired)
            .map(|((hold, route, _), _)| Expired { hold: hold.clone(), route: route.clone() })
            .collect())
    }
}

impl Backend for ClusterLedger {
    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let go_together = |a: &Operation, b: &Operation| {
            Place::of(a).takes_with(Place::of(b)) && !late::ends_its_batch(a)
        };
        for part in batch.chunk_by(go_together) {
            for some in part.chunks(MAX_BATCH) {
                match (Place::of(&some[0]), some) {
                    (Place::Redis, some) => outcomes.extend(self.apply_hot(some).await),
                    (_, [Operation::Audit]) => outcomes.push(self.audit().await),
                    (_, some) => outcomes.extend(self.apply_rare_unless_known(some).await),
                }
            }
        }
        outcomes
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        self.settle_owed().await;
        let mut expired = std::mem::take(&mut self.expired);
        match self.sweep(is_live).await {
            Ok(some) => expired.extend(some),
            Err(error) => tracing::debug!(%error, "no hold was looked at"),
        }
        expired
    }

    fn tick_after(&self) -> Duration {
        SWEEP_EVERY
    }

    async fn hand_over(&mut self, unsettled: &mut Vec<Operation>) {
        self.write_all(unsettled).await;
    }

    async fn close(&mut self) -> bool {
        if self.closed {
            return true;
        }
        self.settle_owed().await;
        let written = self.write_all(&mut Vec::new()).await;
        if written {
            // The others bring what is left, when it is asked for.
            let brought = tokio::time::timeout(SEALED_WITHIN, self.shared.bring_what_was_lost());
            if !matches!(brought.await, Ok(Ok(()))) {
                tracing::warn!("not everything that is held is in Redis yet");
            }
            self.tasks.shutdown().await;
            // A lease that is not given back runs out.
            if let Err(error) = postgres::leave(&self.shared.store, self.shared.incarnation).await {
                tracing::warn!(%error, "left without a word to the other gateways");
            }
            self.closed = true;
        }
        written
    }
}

/// Tries until Postgres is there: it may still be starting, or another gateway is migrating.
async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, LedgerError>
where
    F: Future<Output = Result<T, LedgerError>>,
{
    let limit = Instant::now() + PATIENCE;
    loop {
        match out_loud(attempt()).await {
            Err(error) if error.is_outage() && Instant::now() < limit => {
                tracing::warn!(%error, "the start waits for Postgres");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            result => return result,
        }
    }
}

/// Says now and then that it still waits: an attempt may take as long as another gateway migrates.
async fn out_loud<T>(attempt: impl Future<Output = T>) -> T {
    let mut attempt = std::pin::pin!(attempt);
    loop {
        if let Ok(result) = tokio::time::timeout(SAY_EVERY, &mut attempt).await {
            return result;
        }
        tracing::warn!("the start waits for Postgres, or for another gateway that migrates it");
    }
}

/// Brings the database to where this gateway can use it.
async fn prepare(config: &LedgerConfig) -> Result<Store, LedgerError> {
    let store = migrate(config).await?;
    postgres::agree_on_settings(&store, config.durability).await?;
    postgres::make_partitions(&store).await?;
    Ok(store)
}

/// Brings the schema of a cluster ledger up to date.
async fn migrate(config: &LedgerConfig) -> Result<Store, LedgerError> {
    let url = needed(config.postgres_url.as_ref(), "postgres_url")?;
    let store = Store::new(url, &config.postgres_schema)?;
    postgres::migrate(&store).await?;
    Ok(store)
}

/// Makes the schema of a cluster ledger, or brings it up to date; safe from several places at once.
///
/// # Errors
/// Where Postgres cannot be reached or refuses.
pub async fn migrate_cluster(config: &LedgerConfig) -> Result<(), LedgerError> {
    patiently(|| async { postgres::make_partitions(&migrate(config).await?).await }).await
}

/// Puts right what `farebox reconcile` finds and what can be put right; gateways may serve meanwhile.
///
/// # Errors
/// Where Redis or Postgres cannot be reached.
pub async fn repair_cluster(
    config: &LedgerConfig,
    metrics: Metrics,
) -> Result<RepairReport, LedgerError> {
    let mut ledger = ClusterLedger::open(config, metrics).await?;
    let report = ledger.shared.repair().await;
    let limit = Instant::now() + PATIENCE;
    while !ledger.close().await && Instant::now() < limit {
        tokio::time::sleep(RETRY_EVERY).await;
    }
    report
}

/// The database of a cluster ledger that is about to be filled, where there is a Redis to serve it.
pub(crate) async fn target(config: &LedgerConfig) -> Result<Store, LedgerError> {
    let redis = redis_of(config)?;
    redis.wait().await?;
    redis.info().await?.check()?;
    patiently(|| prepare(config)).await
}

pub(crate) fn redis_of(config: &LedgerConfig) -> Result<Redis, LedgerError> {
    let url = needed(config.redis_url.as_ref(), "redis_url")?;
    Redis::new(url, config.redis_ca_file.as_deref())
}

pub(crate) fn needed<'a>(
    url: Option<&'a Secret>,
    key: &'static str,
) -> Result<&'a Secret, LedgerError> {
    url.ok_or_else(|| LedgerError::Disagrees {
        what: format!("`{key}` is missing"),
        hint: "set it under [ledger]",
    })
}
