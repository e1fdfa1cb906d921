//! The way of what Redis decided into Postgres, and of what Postgres decided into Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::types::Value;
use futures_util::future::join_all;

use crate::ledger::LedgerError;
use crate::ledger::config::Durability;
use crate::store::cluster::adaptive::fitting;
use crate::store::cluster::postgres::{self, Checkpoint, Delivery, NumberedBatch, Written, digest};

use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::{Shared, texts};

/// How long the syncer leaves Postgres alone. Half of what the lag may be, with room for the write.
const SYNC_EVERY: Duration = Duration::from_millis(50);

/// How often it is looked whether Postgres decided something that Redis has not heard: whoever had it
/// decided tells Redis at once, and this is for the one that could not.
const DELIVER_EVERY: Duration = Duration::from_millis(500);

/// How many batches are read from the stream at once.
const BATCHES: u64 = 128;

/// How many deliveries are taken at once.
const DELIVERIES: i64 = 500;

/// How long the syncer writes before it looks at what else there is to do.
const SYNC_FOR: Duration = Duration::from_secs(1);

/// For whom no call waits.
pub(crate) const NO_HURRY: Duration = Duration::from_secs(60);

impl Shared {
    /// Makes durable everything that Redis has decided so far. Where that is much, it may take long.
    pub async fn drain(&self) -> Result<(), LedgerError> {
        self.drain_within(NO_HURRY).await
    }

    /// The same; an error where it is not done in time. What was written until then is written.
    pub async fn drain_within(&self, patience: Duration) -> Result<(), LedgerError> {
        let scripts = self.open_scripts()?;
        let known = self.ring().durable();
        let (newest, durable) = self.announce(&scripts, known).await?;
        if newest > durable { self.drain_upto(&scripts, newest, patience).await } else { Ok(()) }
    }

    /// Makes durable the batches of this epoch up to one. No step is begun after `patience`.
    pub async fn drain_upto(
        &self,
        scripts: &Scripts,
        seq: i64,
        patience: Duration,
    ) -> Result<(), LedgerError> {
        let began = Instant::now();
        while began.elapsed() < patience {
            let checkpoint = postgres::checkpoint(&self.store).await?;
            if checkpoint.epoch != scripts.epoch.number || checkpoint.recovering {
                self.look.notify_one();
                return Err(LedgerError::Slow { what: "the next epoch of Redis" });
            }
            if checkpoint.seq >= seq {
                self.durable(scripts, checkpoint.seq);
                return Ok(());
            }
            let batches = self.read_stream(scripts, &checkpoint).await?;
            let mut rest = &batches[..];
            while !rest.is_empty() && began.elapsed() < patience {
                let fit = fitting(rest, self.writing.now(), |batch| batch.text.len());
                let (some, others) = rest.split_at(fit);
                let started = Instant::now();
                match self.settle(scripts, some).await {
                    Ok(true) => self.writing.grow(started.elapsed()),
                    // Others are at it: the checkpoint is read again.
                    Ok(false) => break,
                    Err(error) => {
                        self.writing.shrink(some.iter().map(|batch| batch.text.len()).sum());
                        return Err(error);
                    }
                }
                rest = others;
            }
        }
        let (epoch, durable) = self.ring().known();
        let is_done = epoch == scripts.epoch.number && durable >= seq;
        if is_done { Ok(()) } else { Err(LedgerError::Behind) }
    }

    /// Writes batches that follow the checkpoint, if they still do. True where they are durable.
    pub async fn settle(
        &self,
        scripts: &Scripts,
        batches: &[NumberedBatch],
    ) -> Result<bool, LedgerError> {
        let Some(last) = batches.last() else { return Ok(true) };
        let started = Instant::now();
        match postgres::write_batches(&self.store, scripts.epoch.number, batches).await? {
            Written::Upto(seq) => {
                self.metrics.ledger_commit_seconds.observe(started.elapsed().as_secs_f64());
                self.durable(scripts, seq);
                Ok(seq >= last.seq)
            }
            Written::ByAnother => Ok(false),
        }
    }

    fn durable(&self, scripts: &Scripts, seq: i64) {
        self.ring().trim(scripts.epoch.number, seq);
    }

    /// The batches after the checkpoint. The checkpoint's own batch is still in the stream, unless
    /// nothing came after it for long: another one in its place is a fork.
    async fn read_stream(
        &self,
        scripts: &Scripts,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<NumberedBatch>, LedgerError> {
        let mut batches = self.redis.batches(scripts, checkpoint.seq, BATCHES).await?;
        let own = batches.first().filter(|batch| batch.seq == checkpoint.seq);
        if own.is_some_and(|batch| digest(&batch.text) != checkpoint.digest) {
            return Err(self
                .forked(scripts, "it has another batch than Postgres under one number")
                .await);
        }
        batches.retain(|batch| batch.seq > checkpoint.seq);
        let follows = batches.first().is_none_or(|batch| batch.seq == checkpoint.seq + 1);
        if !follows && postgres::checkpoint(&self.store).await? == *checkpoint {
            return Err(self
                .forked(scripts, "a batch is missing that Postgres does not have")
                .await);
        }
        Ok(batches)
    }

    async fn forked(&self, scripts: &Scripts, what: &str) -> LedgerError {
        tracing::error!(what, "the stream of Redis contradicts Postgres");
        self.lost(scripts.epoch.number).await;
        LedgerError::Corrupt { what: format!("the stream of Redis: {what}") }
    }

    /// Tells Redis up to which batch Postgres is known to be.
    pub async fn tell_durable(&self, scripts: &Scripts) -> Result<(), LedgerError> {
        let durable = self.ring().durable();
        self.announce(scripts, durable).await.map(drop)
    }

    /// Tells Redis up to which batch Postgres is known to be; the number of the newest batch, and up
    /// to which they are in Postgres.
    async fn announce(&self, scripts: &Scripts, durable: i64) -> Result<(i64, i64), LedgerError> {
        let args = ["durable", &durable.to_string(), &self.incarnation.to_string()];
        let meta = self.keep(scripts, texts(args)).await?;
        let (newest, durable) = meta.convert()?;
        self.durable(scripts, durable);
        Ok((newest, durable))
    }

    /// Lets Redis hear what Postgres decided. Repeated, it does nothing.
    pub async fn deliver(&self) -> Result<(), LedgerError> {
        loop {
            let waiting = postgres::deliveries(&self.store, DELIVERIES).await?;
            if waiting.is_empty() {
                return Ok(());
            }
            let scripts = self.open_scripts()?;
            // All are sent, in their order, before the first is answered. One that overtook another of its
            // account is not heard, and comes again.
            let told = join_all(waiting.iter().map(|delivery| self.tell(&scripts, delivery))).await;
            let mut heard: Vec<Delivery> = Vec::new();
            for (delivery, told) in waiting.iter().zip(told) {
                if told? {
                    heard.push(delivery.clone());
                }
            }
            postgres::remove_deliveries(&self.store, &heard).await?;
            if heard.len() < waiting.len() {
                // An earlier one is with another gateway that delivers.
                return Ok(());
            }
        }
    }

    /// Tells Redis of one thing that Postgres decided; false where it has not heard of an earlier one.
    async fn tell(&self, scripts: &Scripts, delivery: &Delivery) -> Result<bool, LedgerError> {
        let (grant_seq, amount) = (delivery.grant_seq.to_string(), delivery.amount.to_string());
        let frozen = if delivery.frozen { "1" } else { "0" };
        let args = texts(["deliver", &delivery.account, &grant_seq, &amount, frozen]);
        Ok(self.keep(scripts, args).await? == Value::Integer(1))
    }

    /// Says whether a new call would be taken. `strict` needs both stores, `relaxed` can go on without
    /// Postgres: with a lease or on a lone Redis, and while not too much waits.
    fn note_health(&self, error: Option<&LedgerError>) {
        let stores = match error {
            None => true,
            Some(LedgerError::Redis(_)) => false,
            Some(_) => self.durability == Durability::Relaxed,
        };
        let takes_calls =
            self.scripts().is_some() && self.may_answer(self.sending()) && self.takes_holds();
        let takes_calls = takes_calls && !self.fails_to_decide();
        self.metrics.ledger_up.set(i64::from(stores && takes_calls));
    }

    /// Keeps Postgres near what Redis decides, and the other way round.
    pub async fn run_syncer(self: Arc<Self>) {
        let (mut delivered, mut behind_since) = (Instant::now(), None);
        loop {
            tokio::time::sleep(SYNC_EVERY).await;
            let behind = behind_since.map_or(0.0, |since: Instant| since.elapsed().as_secs_f64());
            self.metrics.ledger_sync_lag_seconds.set(self.ring().lag().max(behind));
            if self.scripts().is_none() {
                self.note_health(None);
                continue;
            }
            let mut synced = self.drain_within(SYNC_FOR).await;
            if delivered.elapsed() >= DELIVER_EVERY {
                // Also where more is left to write: what Postgres decided does not wait for that.
                if matches!(synced, Ok(()) | Err(LedgerError::Behind)) {
                    synced = self.deliver().await.and(synced);
                }
                delivered = Instant::now();
            }
            self.note_health(synced.as_ref().err());
            // In `strict` nothing is in the ring; what is not known while Redis is away is no lag.
            behind_since = match &synced {
                Ok(()) | Err(LedgerError::Redis(_)) => None,
                Err(_) if self.durability == Durability::Relaxed => None,
                Err(_) => Some(behind_since.unwrap_or_else(Instant::now)),
            };
            match synced {
                Ok(()) | Err(LedgerError::Behind) => {}
                Err(error) => {
                    tracing::debug!(%error, "nothing was synced");
                    // What is away is asked less often.
                    tokio::time::sleep(SYNC_EVERY * 4).await;
                }
            }
        }
    }
}
