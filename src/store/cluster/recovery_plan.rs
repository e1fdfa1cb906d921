//! `farebox recover`: what a recovery would do, and setting one off.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ledger::backend::Backend as _;
use crate::ledger::config::LedgerConfig;
use crate::ledger::report::in_credits;
use crate::ledger::{Durability, LedgerError};
use crate::metrics::Metrics;
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::postgres::{
    self, LayoutUsers, NumberedBatch, Snapshot, Store, StoredAccount, digest,
};

use crate::store::cluster::compare::{HotAccount, follow};
use crate::store::cluster::ledger::{ClusterLedger, needed, redis_of};
use crate::store::cluster::redis::connection::{Marks, Redis};
use crate::store::cluster::redis::script::{Epoch, Scripts, tag};

/// How many accounts are named.
const NAMED: usize = 50;

/// How many batches or accounts are read at once.
const AT_ONCE: usize = 500;

/// How long a recovery may take that was set off here: gateways have 3 s to hand over what they have.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);

/// What a recovery would find and do. Nothing was changed to learn it.
#[derive(Clone, Debug)]
pub struct RecoveryPlan {
    /// Whether gateways serve, wait for a recovery, or need one; one line each.
    pub state: Vec<String>,
    /// What would be taken from where.
    pub steps: Vec<String>,
    /// What nobody has any more. Empty where nothing is lost.
    pub lost: Vec<String>,
    /// Accounts whose balance in Redis is not what they would have afterwards.
    pub accounts: Vec<ChangedAccount>,
    /// How many of them there are, those that are not listed too.
    pub changed: usize,
}

/// An account that a recovery would leave with another balance than Redis shows now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedAccount {
    /// Whose.
    pub account: String,
    /// What Redis has now, in micro-credits; `None` where that cannot be read.
    pub redis: Option<i64>,
    /// What Postgres has now.
    pub postgres: i64,
    /// What it would have afterwards.
    pub after: i64,
}

/// Says what a recovery of the ledger would do, from what Redis and Postgres have now.
///
/// # Errors
/// Where Postgres cannot be read. A Redis that does not answer is a part of the plan.
pub async fn plan_recovery(config: &LedgerConfig) -> Result<RecoveryPlan, LedgerError> {
    let store =
        Store::new(needed(config.postgres_url.as_ref(), "postgres_url")?, &config.postgres_schema)?;
    let redis = redis_of(config)?;
    let snapshot = postgres::snapshot(&store).await?;
    let mut planner = Planner { store, redis, snapshot, plan: RecoveryPlan::empty() };
    planner.describe_gateways(config.durability);
    let theirs = planner.snapshot.checkpoint.layout;
    if theirs != config.layout {
        let ours = config.layout;
        let what = format!("it has layout {theirs} of Redis's data, this version has {ours}");
        planner.plan.state.push(what);
    }
    match planner.redis.wait().await {
        Ok(()) => planner.look_at_redis().await?,
        Err(error) => planner.without_redis(&error),
    }
    Ok(planner.plan)
}

/// Has the next epoch begin, with all that Redis and the gateways still know: its number.
///
/// # Errors
/// Where Redis or Postgres cannot be reached, or it takes too long.
pub async fn recover_cluster(config: &LedgerConfig, metrics: Metrics) -> Result<i64, LedgerError> {
    let limit = Instant::now() + RECOVERED_WITHIN;
    let store =
        Store::new(needed(config.postgres_url.as_ref(), "postgres_url")?, &config.postgres_schema)?;
    let before = postgres::checkpoint(&store).await?;
    if before.layout != config.layout
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
        match ledger.shared.scripts() {
            Some(scripts) if scripts.epoch.number > before.epoch => break Ok(scripts.epoch.number),
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

struct Planner {
    store: Store,
    redis: Redis,
    snapshot: Snapshot,
    plan: RecoveryPlan,
}

impl Planner {
    fn describe_gateways(&mut self, durability: Durability) {
        let Snapshot { checkpoint, gateways, .. } = &self.snapshot;
        self.plan.state.push(format!(
            "Postgres: epoch {}, written up to batch {}, {} accounts, {} live holds ({} credits), {} \
             decisions that Redis has not heard{}",
            checkpoint.epoch,
            checkpoint.seq,
            self.snapshot.accounts,
            self.snapshot.live_holds,
            in_credits(self.snapshot.held),
            self.snapshot.deliveries,
            if checkpoint.recovering { "; it waits for a recovery" } else { "" }
        ));
        for place in gateways {
            let lease = if place.lease_ms > 0 {
                format!("has a lease for {} ms more", place.lease_ms)
            } else {
                format!("has not been heard of for {} s", -place.lease_ms / 1000)
            };
            let handed = match (checkpoint.recovering, place.checked_in >= checkpoint.epoch) {
                (true, true) => ", has handed over what it remembers",
                (true, false) if place.lease_ms > 0 => ", and is waited for",
                (true, false) => ", and is not waited for",
                (false, _) => "",
            };
            self.plan.state.push(format!("gateway {}: {lease}{handed}", place.name));
        }
        let serving = gateways.iter().filter(|place| place.lease_ms > 0).count();
        self.plan.steps.push(match (serving, durability) {
            (0, _) => "no gateway runs: what only their memory had is not to be had".to_owned(),
            (n, Durability::Relaxed) => format!(
                "the {n} gateways that run stop answering (503) and hand over what Postgres does not \
                 have yet; it takes up to 4 s"
            ),
            (n, Durability::Strict) => format!(
                "the {n} gateways that run stop answering (503) for up to 4 s; in `strict` they have \
                 nothing that Postgres lacks"
            ),
        });
    }

    fn without_redis(&mut self, error: &LedgerError) {
        self.plan.state.push(format!("Redis: does not answer ({error})"));
        self.plan.steps.push("it waits until a Redis answers, this one or an empty one".to_owned());
    }

    async fn look_at_redis(&mut self) -> Result<(), LedgerError> {
        let checkpoint = self.snapshot.checkpoint.clone();
        let epoch = Epoch { number: checkpoint.epoch, nonce: checkpoint.nonce.clone() };
        let scripts = Scripts::new(0, epoch);
        let marks = self.redis.marks(&scripts).await?;
        self.describe_redis(&marks, &scripts);
        let survived = self.survived(&scripts).await?;
        let handed = self.snapshot.redo.clone();
        let mut batches: BTreeMap<i64, &NumberedBatch> =
            handed.iter().map(|batch| (batch.seq, batch)).collect();
        batches.extend(survived.iter().map(|batch| (batch.seq, batch)));
        batches.retain(|seq, _| *seq > checkpoint.seq);
        self.plan.steps.push(format!(
            "{} batches are written to Postgres: {} from the stream of Redis, {} that gateways handed \
             over",
            batches.len(),
            survived.len(),
            handed.len()
        ));
        let owed = self.snapshot.owed.clone();
        if !owed.is_empty() {
            self.plan.steps.push(format!(
                "{} charges are written that gateways left when they stopped without Redis",
                owed.len()
            ));
        }
        self.find_gaps(&marks, batches.keys().copied());
        let parsed = batches.values().filter_map(|batch| Batch::parse(&batch.text));
        let decided = parsed.flat_map(|batch| batch.decided).chain(owed).collect();
        self.compare_accounts(&marks, decided).await?;
        self.plan.steps.push(format!(
            "epoch {} begins, with every account as Postgres then has it; holds that are live are \
             restored, with a minute or more to go",
            marks.number.max(checkpoint.epoch) + 1
        ));
        Ok(())
    }

    fn describe_redis(&mut self, marks: &Marks, scripts: &Scripts) {
        let Marks { epoch, number, newest, durable, .. } = marks;
        let what = match epoch.as_str() {
            "" => "has nothing of this ledger".to_owned(),
            "closed" => format!("epoch {number} is closed, up to batch {newest}"),
            name if name == scripts.epoch.name() && marks.is_same_reign => {
                format!(
                    "serves epoch {number}, decided up to batch {newest}, {durable} of them durable"
                )
            }
            name if name == scripts.epoch.name() => {
                format!("was a replica, or restarted from a copy, since epoch {number} began")
            }
            _ => format!("epoch {number}, which is not the one that Postgres has"),
        };
        self.plan.state.push(format!("Redis: {what}"));
    }

    /// What the stream has beyond Postgres; nothing where it is another one's.
    async fn survived(&mut self, scripts: &Scripts) -> Result<Vec<NumberedBatch>, LedgerError> {
        let checkpoint = self.snapshot.checkpoint.clone();
        let (mut survived, mut from) = (Vec::new(), checkpoint.seq);
        loop {
            let batches = self.redis.batches(scripts, from, AT_ONCE as u64).await?;
            let Some(last) = batches.last() else { return Ok(survived) };
            from = last.seq + 1;
            for batch in batches {
                if batch.seq == checkpoint.seq && digest(&batch.text) != checkpoint.digest {
                    let what = "Redis has another batch than Postgres under one number: nothing of its \
                                stream is used";
                    self.plan.state.push(what.to_owned());
                    return Ok(Vec::new());
                }
                if batch.seq > checkpoint.seq {
                    survived.push(batch);
                }
            }
        }
    }

    /// Numbers that were decided and that nobody has.
    fn find_gaps(&mut self, marks: &Marks, found: impl Iterator<Item = i64>) {
        let checkpoint = &self.snapshot.checkpoint;
        if marks.number > checkpoint.epoch {
            self.plan.lost.push(format!(
                "Postgres is at epoch {}, and Redis has seen epoch {}: Postgres was taken back to an \
                 earlier point, and what it did not have then of these epochs is gone",
                checkpoint.epoch, marks.number
            ));
        }
        let newest = if marks.number == checkpoint.epoch { marks.newest } else { 0 };
        let mut expected = checkpoint.seq + 1;
        let mut missing = Vec::new();
        for seq in found.chain([newest + 1]) {
            if seq > expected {
                missing.push((expected, seq - 1));
            }
            expected = expected.max(seq + 1);
        }
        for (first, last) in missing {
            let why = if last <= marks.durable {
                "Postgres had them once: it was taken back to an earlier point"
            } else {
                "they may be in the memory of gateways that run"
            };
            self.plan
                .lost
                .push(format!("batches {first} to {last} of epoch {}: {why}", marks.number));
        }
    }

    /// Which accounts would have another balance than Redis shows now.
    async fn compare_accounts(
        &mut self,
        marks: &Marks,
        decided: Vec<Decided>,
    ) -> Result<(), LedgerError> {
        let prefix = format!("{}{}:a:", tag(0), marks.number);
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
                    if seen.insert(name.clone()) {
                        self.note(name, value, &stored, &after);
                    }
                }
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    fn note(
        &mut self,
        account: String,
        value: Option<Bytes>,
        stored: &BTreeMap<String, StoredAccount>,
        after: &BTreeMap<String, StoredAccount>,
    ) {
        let Some(value) = value else { return };
        let redis = HotAccount::parse(&value).map(|hot| hot.balance);
        let (postgres, after) = (stored[&account].balance, after[&account].balance);
        if redis != Some(after) {
            self.plan.changed += 1;
            if self.plan.accounts.len() < NAMED {
                self.plan.accounts.push(ChangedAccount { account, redis, postgres, after });
            }
        }
    }
}
