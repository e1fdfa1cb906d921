//! `farebox recover`: plans a recovery, or begins one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::ledger::backend::Backend as _;
use crate::ledger::config::LedgerConfig;
use crate::ledger::report::in_credits;
use crate::ledger::{Durability, LedgerError};
use crate::metrics::Metrics;
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::compare::{AtOnce, at_once, follow};
use crate::store::cluster::epoch::Epoch;
use crate::store::cluster::ledger::ClusterLedger;
use crate::store::cluster::postgres::{
    self, LayoutUsers, NumberedBatch, Snapshot, Store, StreamBatch, Syncer, digest,
};
use crate::store::cluster::redis::connection::Redis;
use crate::store::cluster::redis::meta::Meta;
use crate::store::cluster::redis::record::HotAccount;
use crate::store::cluster::redis::script::LAYOUT;
use crate::store::cluster::redis::script::{SHARD, Scripts, tag};
use crate::store::cluster::setup;
use crate::store::cluster::stream_marks::StreamId;

/// The most accounts that are listed.
const NAMED: usize = 50;

/// The number of batches that are read at once.
const AT_ONCE: usize = 500;

/// How often an account that seems to differ is looked at again, and the time between two looks.
const LOOKS: usize = 10;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a recovery that is begun here may take. Up to 3 s of this time pass until the gateways
/// have handed over their batches.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);

/// The plan of a recovery: the state that it would find, and its steps. Making the plan changes
/// nothing in the stores.
#[derive(Clone, Debug)]
pub struct RecoveryPlan {
    /// The state of Postgres, of each gateway and of Redis; one line each.
    pub state: Vec<String>,
    /// The steps of the recovery.
    pub steps: Vec<String>,
    /// The batches that neither a store nor a gateway has any more, and the grants that only Redis knows; empty if
    /// nothing is lost.
    pub lost: Vec<String>,
    /// Accounts whose balance after the recovery would differ from their balance in Redis now. At
    /// most 50 are listed.
    pub accounts: Vec<ChangedAccount>,
    /// The number of all such accounts, including those that are not listed.
    pub changed: usize,
}

/// An account whose balance after a recovery would differ from its balance in Redis now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedAccount {
    /// The account's id.
    pub account: String,
    /// The balance in Redis now, in micro-credits; `None` if it cannot be read.
    pub redis: Option<i64>,
    /// The balance in Postgres now, in micro-credits.
    pub postgres: i64,
    /// The balance after the recovery, in micro-credits.
    pub after: i64,
}

/// Plans a recovery of the ledger from the present state of Redis and Postgres.
///
/// # Errors
/// Fails if Postgres cannot be read. If Redis does not reply, the plan says so.
pub async fn plan_recovery(config: &LedgerConfig) -> Result<RecoveryPlan, LedgerError> {
    let store = setup::database(config)?;
    let redis = setup::open_redis(config)?;
    let snapshot = postgres::snapshot(&store).await?;
    let server = postgres::server_identity(&store).await?;
    let mut planner = Planner { store, redis, snapshot, plan: RecoveryPlan::empty() };
    planner.describe_postgres(&server);
    planner.describe_gateways(config.durability);
    let theirs = planner.snapshot.checkpoint.layout;
    let ours = config.layout.unwrap_or(LAYOUT);
    if theirs != ours {
        let what =
            format!("Redis: its data has layout {theirs}, this version of Farebox has {ours}");
        planner.plan.state.push(what);
    }
    match planner.redis.wait().await {
        Ok(()) => planner.plan_with_redis(config.durability).await?,
        Err(error) => planner.plan_without_redis(&error),
    }
    Ok(planner.plan)
}

/// Recovers the ledger: begins the next epoch, with everything that Redis and the gateways still
/// have. Returns the number of the new epoch.
///
/// # Errors
/// Fails if Redis or Postgres cannot be reached, if gateways of another layout serve the ledger, or
/// if the recovery takes too long.
pub async fn recover_cluster(config: &LedgerConfig, metrics: Metrics) -> Result<i64, LedgerError> {
    let limit = Instant::now() + RECOVERED_WITHIN;
    let store = setup::database(config)?;
    let before = postgres::checkpoint(&store).await?;
    if before.layout != config.layout.unwrap_or(LAYOUT)
        && postgres::layout_users(&store, before.layout).await? == LayoutUsers::Serving
    {
        return Err(LedgerError::Disagrees {
            what: "gateways of a version with another layout of Redis's data serve it".to_owned(),
            hint: "run the command of their version, or stop them first",
        });
    }
    postgres::give_up(&store, before.epoch).await?;
    let mut ledger = ClusterLedger::open(config, metrics).await?;
    let opened = loop {
        match ledger.shared.epoch.number() {
            Some(number) if number > before.epoch => break Ok(number),
            _ if Instant::now() >= limit => break Err(LedgerError::Slow { what: "the recovery" }),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    while !ledger.close().await && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    opened
}

impl RecoveryPlan {
    fn empty() -> Self {
        let (state, steps, lost, accounts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { state, steps, lost, accounts, changed: 0 }
    }
}

/// Whether a recovery would change the account's balance, or lose a grant of it.
fn differs(AtOnce { hot, after, .. }: &AtOnce) -> bool {
    hot.as_ref().is_none_or(|hot| hot.balance != after.balance || after.missing(hot).is_some())
}

struct Planner {
    store: Store,
    redis: Redis,
    snapshot: Snapshot,
    plan: RecoveryPlan,
}

impl Planner {
    fn describe_postgres(&mut self, server: &str) {
        let checkpoint = &self.snapshot.checkpoint;
        self.plan.state.push(format!(
            "Postgres: epoch {}, written up to batch {}, {} accounts, {} live holds ({} credits), {} \
             decisions that Redis has not applied{}",
            checkpoint.epoch,
            checkpoint.seq,
            self.snapshot.accounts,
            self.snapshot.live_holds,
            in_credits(self.snapshot.held),
            self.snapshot.deliveries,
            if checkpoint.recovering { "; a recovery is due" } else { "" }
        ));
        let is_another =
            !checkpoint.postgres.is_empty() && !server.is_empty() && checkpoint.postgres != server;
        if checkpoint.failed_over || is_another {
            self.plan.state.push(format!(
                "Postgres: was failed over or restored since epoch {} began; what Redis has is built anew \
                 from it, and a grant that it lacks is lost there",
                checkpoint.epoch
            ));
        }
    }

    fn describe_gateways(&mut self, durability: Durability) {
        let Snapshot { checkpoint, gateways, .. } = &self.snapshot;
        for place in gateways {
            let lease = if place.lease_ms > 0 {
                format!("has a lease for {} ms more", place.lease_ms)
            } else {
                format!("has had no lease for {} s", -place.lease_ms / 1000)
            };
            let handed = match (checkpoint.recovering, place.checked_in >= checkpoint.epoch) {
                (true, true) => ", has handed over its batches",
                (true, false) if place.lease_ms > 0 => ", and the recovery waits for it",
                (true, false) => ", and the recovery does not wait for it",
                (false, _) => "",
            };
            self.plan.state.push(format!("gateway {}: {lease}{handed}", place.name));
        }
        self.plan.state.push(match &self.snapshot.syncer {
            None => "syncer: no gateway, since none runs or none was elected yet".to_owned(),
            Some(Syncer { name: None, .. }) => {
                "syncer: a gateway that has left; another one is elected when it runs".to_owned()
            }
            Some(Syncer { name: Some(name), lease_ms }) if *lease_ms > 0 => {
                format!("syncer: gateway {name} writes the batches of the stream")
            }
            Some(Syncer { name: Some(name), lease_ms }) => format!(
                "syncer: gateway {name} is stuck or gone, since it has not renewed its place for {} s; the other \
                 gateways write the batches meanwhile",
                -lease_ms / 1000
            ),
        });
        let serving = gateways.iter().filter(|place| place.lease_ms > 0).count();
        self.plan.steps.push(match (serving, durability) {
            (0, _) => "no gateway runs: batches that only a gateway remembered are lost".to_owned(),
            (n, Durability::Relaxed) => format!(
                "the {n} running gateways answer 503 and hand over the batches that Postgres does not \
                 have yet; this takes up to 4 s"
            ),
            (n, Durability::Strict) => format!(
                "the {n} running gateways answer 503 for up to 4 s; in `strict` they have answered no call \
                 whose batch Postgres lacks"
            ),
        });
    }

    fn plan_without_redis(&mut self, error: &LedgerError) {
        self.plan.state.push(format!("Redis: does not reply ({error})"));
        self.plan.steps.push(
            "the recovery waits for a Redis that replies, this one or an empty one".to_owned(),
        );
    }

    async fn plan_with_redis(&mut self, durability: Durability) -> Result<(), LedgerError> {
        let checkpoint = self.snapshot.checkpoint.clone();
        let epoch = Epoch { number: checkpoint.epoch, nonce: checkpoint.nonce.clone() };
        let scripts = Scripts::new(SHARD, epoch);
        let meta = self.redis.meta(&scripts).await?;
        self.describe_redis(&meta, &scripts);
        self.describe_servers(&scripts).await?;
        let ours = postgres::ledger_id(&self.store).await?;
        let is_another = meta.is_of_another(&ours);
        let survived = if is_another {
            self.plan.state.push(format!(
                "Redis: has the data of another ledger ({}), of which nothing is used; give each ledger a Redis of its own",
                meta.ledger
            ));
            Vec::new()
        } else {
            self.survived(&scripts, meta.ledger == ours).await?
        };
        let (handed, appended) = (self.snapshot.redo.clone(), self.snapshot.appends.clone());
        // If two batches have the same number, the one that comes later in this list counts.
        let of_epoch = |batch| StreamBatch { epoch: checkpoint.epoch, batch };
        let all = handed.iter().cloned().map(of_epoch).chain(survived.iter().cloned());
        let all: Vec<_> = all.chain(appended.iter().cloned().map(of_epoch)).collect();
        let mut batches: BTreeMap<StreamId, &NumberedBatch> =
            all.iter().map(|found| ((found.epoch, found.batch.seq), &found.batch)).collect();
        batches.retain(|place, _| *place > (checkpoint.epoch, checkpoint.seq));
        self.plan.steps.push(format!(
            "{} batches are written to Postgres: {} from the stream of Redis, {} that gateways handed \
             over{}",
            batches.len(),
            survived.len(),
            handed.len(),
            if appended.is_empty() { String::new() } else { format!(", {} appended", appended.len()) }
        ));
        let owed = self.snapshot.owed.clone();
        if !owed.is_empty() {
            self.plan.steps.push(format!(
                "{} charges of gateways that stopped while Redis was away are written",
                owed.len()
            ));
        }
        if !is_another {
            self.find_gaps(&meta, durability, batches.keys().copied());
        }
        let parsed = batches.values().filter_map(|batch| Batch::parse(&batch.text));
        let decided = parsed.flat_map(|batch| batch.decided).chain(owed).collect();
        let is_served = !checkpoint.recovering
            && meta.epoch == scripts.epoch.name()
            && meta.has_same_replication_id;
        if !is_another {
            self.compare_accounts(&meta, decided, is_served.then_some(&scripts)).await?;
        }
        self.plan.steps.push(format!(
            "epoch {} begins, with every account as Postgres then has it; live holds are restored, and \
             last for at least another minute",
            meta.number.max(checkpoint.epoch) + 1
        ));
        Ok(())
    }

    fn describe_redis(&mut self, meta: &Meta, scripts: &Scripts) {
        let Meta { epoch, number, newest, durable, .. } = meta;
        let what = match epoch.as_str() {
            "" => "has nothing of this ledger".to_owned(),
            "closed" => format!("epoch {number} is closed, up to batch {newest}"),
            name if name == scripts.epoch.name() && meta.has_same_replication_id => {
                format!(
                    "serves epoch {number}, decided up to batch {newest}, {durable} of them durable"
                )
            }
            name if name == scripts.epoch.name() => {
                format!("was a replica, or restarted from a copy, since epoch {number} began")
            }
            _ => format!("serves epoch {number}, and Postgres has another one"),
        };
        self.plan.state.push(format!("Redis: {what}"));
    }

    /// Describes which Redis this command and the gateways reach, and the stream there.
    async fn describe_servers(&mut self, scripts: &Scripts) -> Result<(), LedgerError> {
        let here = self.redis.who().await?;
        if here.is_replica {
            self.plan.state.push(
                "Redis: is a replica, which decides nothing; a recovery waits for its master"
                    .to_owned(),
            );
        }
        let of_epoch = &self.snapshot.checkpoint.redis;
        if !of_epoch.is_empty() && *of_epoch != here.identity() {
            self.plan.state.push(format!(
                "Redis: another server than the one of epoch {}, or restarted or promoted since: {}, not {of_epoch}",
                self.snapshot.checkpoint.epoch,
                here.identity()
            ));
        }
        for place in &self.snapshot.gateways {
            if place.lease_ms > 0 && !place.redis.is_empty() && place.redis != here.identity() {
                let (name, redis) = (&place.name, &place.redis);
                self.plan.state.push(format!(
                    "gateway {name}: reached another Redis than this command last: {redis}"
                ));
            }
        }
        let kib = self.redis.stream_bytes(scripts).await? / 1024;
        self.plan.state.push(format!(
            "Redis: the stream takes {kib} KiB; it also has the batches of the last minutes that Postgres had, for a \
             Postgres that fails over without them"
        ));
        Ok(())
    }

    /// The batches of the stream that Postgres does not have; empty if the two have forked. With `later`, batches of
    /// epochs that Postgres does not know are included.
    async fn survived(
        &mut self,
        scripts: &Scripts,
        later: bool,
    ) -> Result<Vec<StreamBatch>, LedgerError> {
        let checkpoint = self.snapshot.checkpoint.clone();
        let (mut survived, mut from) = (Vec::new(), (checkpoint.epoch, checkpoint.seq));
        loop {
            let batches = self.redis.all_batches(scripts, from, AT_ONCE as u64).await?;
            let Some(last) = batches.last() else { return Ok(survived) };
            from = (last.epoch, last.batch.seq + 1);
            for StreamBatch { epoch, batch } in batches {
                if epoch > checkpoint.epoch {
                    if later {
                        survived.push(StreamBatch { epoch, batch });
                    }
                } else if batch.seq == checkpoint.seq && digest(&batch.text) != checkpoint.digest {
                    let what = "Redis has another batch than Postgres under one number: nothing of its \
                                stream is used";
                    self.plan.state.push(what.to_owned());
                    return Ok(Vec::new());
                } else if batch.seq > checkpoint.seq {
                    survived.push(StreamBatch { epoch, batch });
                }
            }
        }
    }

    /// Finds the batches after the checkpoint that were decided and are not among `found`.
    fn find_gaps(
        &mut self,
        meta: &Meta,
        durability: Durability,
        found: impl Iterator<Item = StreamId>,
    ) {
        let checkpoint = &self.snapshot.checkpoint;
        if meta.number > checkpoint.epoch {
            self.plan.lost.push(format!(
                "Postgres is at epoch {}, and Redis has seen epoch {}: Postgres was taken back to an \
                 earlier point, and the batches of these epochs that it did not have then are gone, but for \
                 those that are still in the stream",
                checkpoint.epoch, meta.number
            ));
        }
        // Only for the newest epoch is it known how many batches were decided.
        let end = (meta.number >= checkpoint.epoch).then_some((meta.number, meta.newest + 1));
        let (mut epoch, mut expected) = (checkpoint.epoch, checkpoint.seq + 1);
        let mut missing = Vec::new();
        for (of, seq) in found.chain(end) {
            if of > epoch {
                (epoch, expected) = (of, 1);
            }
            if seq > expected {
                missing.push((epoch, expected, seq - 1));
            }
            expected = expected.max(seq + 1);
        }
        for (epoch, first, last) in missing {
            let why = if epoch < meta.number || last <= meta.durable {
                "Postgres had them once: it was taken back to an earlier point"
            } else if durability == Durability::Strict {
                // A batch that was not appended was never acknowledged.
                continue;
            } else {
                "they may be in the memory of gateways that run"
            };
            self.plan.lost.push(format!("batches {first} to {last} of epoch {epoch}: {why}"));
        }
    }

    /// Finds the accounts whose balance after the recovery would differ from their balance in Redis
    /// now. If gateways serve the epoch, `served` has its scripts: the two stores were read at different moments then,
    /// so each difference is looked at again.
    async fn compare_accounts(
        &mut self,
        meta: &Meta,
        decided: Vec<Decided>,
        served: Option<&Scripts>,
    ) -> Result<(), LedgerError> {
        let prefix = format!("{}{}:a:", tag(SHARD), meta.number);
        let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
        loop {
            let keys;
            (cursor, keys) = self.redis.scan(&cursor, &format!("{prefix}*")).await?;
            let names: Vec<_> = keys.iter().filter_map(|key| key.get(prefix.len()..)).collect();
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            if !names.is_empty() {
                let values = self.redis.values(keys.clone()).await?;
                let (_, stored) = postgres::stored_accounts(&self.store, &names).await?;
                let mut after = stored.clone();
                decided.iter().for_each(|decided| follow(&mut after, decided.clone()));
                for (name, value) in names.into_iter().zip(values) {
                    let Some(value) = value.filter(|_| seen.insert(name.clone())) else { continue };
                    let hot = HotAccount::parse(&value);
                    let (stored, after) = (stored[&name].clone(), after[&name].clone());
                    let first = AtOnce { hot, stored, after };
                    let found = match served {
                        Some(scripts) if differs(&first) && self.plan.accounts.len() < NAMED => {
                            self.look_again(scripts, &name, first).await
                        }
                        _ => first,
                    };
                    self.note(name, found);
                }
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    /// Looks at both stores at one moment, until they agree or a few attempts have failed. Postgres and Redis differ for
    /// a moment after each grant.
    async fn look_again(&self, scripts: &Scripts, account: &str, first: AtOnce) -> AtOnce {
        let mut found = first;
        for _ in 0..LOOKS {
            tokio::time::sleep(LOOK_EVERY).await;
            match at_once(&self.store, &self.redis, scripts, account).await {
                Ok(Some(now)) => found = now,
                Ok(None) => continue,
                Err(_) => return found,
            }
            if !differs(&found) {
                return found;
            }
        }
        found
    }

    fn note(&mut self, account: String, AtOnce { hot, stored, after }: AtOnce) {
        let missing = hot.as_ref().and_then(|hot| after.missing(hot));
        if let Some(amount) = missing.filter(|_| self.plan.lost.len() < NAMED) {
            self.plan.lost.push(format!(
                "grants, refunds or freezes of {account} that Redis had heard of: {} credits; what was bought comes \
                 back from Stripe, give the rest again",
                in_credits(amount)
            ));
        }
        let redis = hot.map(|hot| hot.balance);
        let (postgres, after) = (stored.balance, after.balance);
        if redis != Some(after) {
            self.plan.changed += 1;
            if self.plan.accounts.len() < NAMED {
                self.plan.accounts.push(ChangedAccount { account, redis, postgres, after });
            }
        }
    }
}
