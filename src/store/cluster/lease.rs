//! The lease of this gateway, and its way from one epoch to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::ledger::operation::{Ending, Operation, Origin};
use crate::ledger::{LedgerError, wall_ms};
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::postgres::{
    self, Checkpoint, LayoutUsers, NumberedBatch, Recovery, digest,
};

use crate::store::cluster::ledger::MAX_BATCH;
use crate::store::cluster::redis::script::{Epoch, Scripts};
use crate::store::cluster::shared::{RECOVERY_TAKES, Shared};

/// How often the lease is renewed: two may fail in a row.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether a recovery can go on.
const RECOVER_EVERY: Duration = Duration::from_millis(100);

/// For how long no gateway of another layout may be heard of, while Postgres is there, before its epoch is
/// given up: each that lives would have renewed its lease several times.
const UNHEARD: Duration = Duration::from_secs(5);

/// How often a recovery that asks Redis lets Postgres hear of it.
const STAY_EVERY: Duration = Duration::from_secs(1);

/// The one shard that there is.
const SHARD: i32 = 0;

/// How many batches are read from a stream at once.
const BATCHES: u64 = 128;

impl Shared {
    /// Renews the lease, and follows the ledger from epoch to epoch.
    pub async fn run_lease(self: Arc<Self>) {
        loop {
            let is_at_rest = self.scripts().is_some() || self.is_left_to_others();
            let wait = if is_at_rest { RENEW_EVERY } else { RECOVER_EVERY };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.look.notified() => {}
            }
            if let Err(error) = self.look_up().await {
                tracing::debug!(%error, "the ledger's state is not known");
            }
        }
    }

    /// Renews the lease once, and does what the state of the ledger asks for.
    pub async fn look_up(&self) -> Result<(), LedgerError> {
        let done = self.look_once().await;
        if done.is_err() {
            // Who could not be heard of is not silent.
            *self.unheard_since() = None;
        }
        done
    }

    async fn look_once(&self) -> Result<(), LedgerError> {
        let (asked, known) = (Instant::now(), self.ring().known());
        let checkpoint = match postgres::renew(&self.store, self.incarnation).await? {
            Some(checkpoint) => checkpoint,
            None => self.rejoin().await?,
        };
        if checkpoint.recovering {
            // Before the lease: what ends is not answered under a new one.
            self.close_epoch();
            self.ring().close(checkpoint.epoch);
            self.extend_lease(asked);
            return self.recover(checkpoint.epoch).await;
        }
        if checkpoint.layout != self.layout {
            return self.leave_to_others(&checkpoint).await;
        }
        if known.0 == checkpoint.epoch && known.1 > checkpoint.seq {
            tracing::error!(
                known = known.1,
                checkpoint = checkpoint.seq,
                "Postgres was taken back to an earlier point"
            );
            self.lost(checkpoint.epoch).await;
            return Ok(());
        }
        let served = self.scripts().map(|scripts| scripts.epoch.number);
        if served != Some(checkpoint.epoch) {
            self.follow(checkpoint);
        }
        self.extend_lease(asked);
        Ok(())
    }

    /// Takes a place again: the others gave this gateway up, and the holds of its calls with it. What
    /// these calls still owe is captured late.
    async fn rejoin(&self) -> Result<Checkpoint, LedgerError> {
        let (checkpoint, name) =
            postgres::rejoin(&self.store, &self.name, self.incarnation, self.layout).await?;
        if name == self.name {
            tracing::warn!("this gateway was taken for gone; it serves again");
        } else {
            tracing::error!(
                taken = self.name,
                name,
                "another gateway has this one's `gateway_name`: give each its own, or each start of \
                 one gives back what calls of the other hold"
            );
        }
        Ok(checkpoint)
    }

    /// The open epoch is another version's of Farebox, whose scripts and data in Redis are others. While its
    /// gateways are there it stays theirs: they alone can settle the calls that they have begun. After that the
    /// next epoch, by the ordinary recovery, is this one's. Postgres may have been away from them as from
    /// here: gateways that have not left get the time to be heard of again.
    async fn leave_to_others(&self, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        self.close_epoch();
        let (epoch, theirs, ours) = (checkpoint.epoch, checkpoint.layout, self.layout);
        let others = postgres::layout_users(&self.store, theirs).await?;
        if others == LayoutUsers::Serving {
            *self.unheard_since() = None;
            if !self.left_to_others.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    theirs,
                    ours,
                    "gateways of another version of Farebox serve this ledger, with another layout of \
                     Redis's data: this one answers 503 until they have been stopped, or it is replaced \
                     by their version"
                );
            }
            return Ok(());
        }
        let since = *self.unheard_since().get_or_insert_with(Instant::now);
        if others == LayoutUsers::Gone && since.elapsed() < UNHEARD {
            return Ok(());
        }
        tracing::warn!(epoch, theirs, ours, "the layout of Redis's data changes, by a recovery");
        *self.unheard_since() = None;
        self.left_to_others.store(false, Ordering::Relaxed);
        postgres::give_up(&self.store, epoch).await
    }

    /// Serves an epoch that has opened.
    fn follow(&self, checkpoint: Checkpoint) {
        self.left_to_others.store(false, Ordering::Relaxed);
        let left = self.ring().begin(checkpoint.epoch);
        if !left.batches.is_empty() {
            tracing::warn!(
                batches = left.batches.len(),
                "an epoch opened without what this gateway had to hand over; it is asked again"
            );
        }
        let batches = left.batches.iter().filter_map(|batch| Batch::parse(&batch.text));
        self.owe(batches.flat_map(again).chain(left.repeated));
        let epoch = Epoch { number: checkpoint.epoch, nonce: checkpoint.nonce };
        tracing::info!(epoch = epoch.number, "the ledger is open");
        self.serve(Scripts::new(SHARD, epoch));
    }

    /// Hands over what only this gateway remembers of an epoch that it has given up, and opens the next one
    /// if nobody else does.
    async fn recover(&self, epoch: i64) -> Result<(), LedgerError> {
        if !self.check_in(epoch).await? || !self.open_next().await? {
            return Ok(());
        }
        let Some(checkpoint) = postgres::renew(&self.store, self.incarnation).await? else {
            return Ok(());
        };
        if !checkpoint.recovering && checkpoint.layout == self.layout {
            // Beside the lease, which is renewed meanwhile.
            self.must_bring.store(checkpoint.epoch, Ordering::Relaxed);
            self.follow(checkpoint);
            self.house.notify_one();
        }
        Ok(())
    }

    /// Hands over what only this gateway remembers, a slice in each transaction, and checks in with the last
    /// one. False where the next epoch has opened without it, or the lease has to be renewed before the rest.
    async fn check_in(&self, epoch: i64) -> Result<bool, LedgerError> {
        let began = Instant::now();
        while began.elapsed() < RENEW_EVERY {
            let (some, are_all) = self.ring().oldest(epoch, self.handing.now());
            let started = Instant::now();
            let handed =
                postgres::check_in(&self.store, self.incarnation, epoch, &some, are_all).await;
            match handed {
                Ok(true) => self.handing.grow(started.elapsed()),
                Ok(false) => return Ok(false),
                Err(error) => {
                    self.handing.shrink(some.iter().map(|batch| batch.text.len()).sum());
                    return Err(error);
                }
            }
            if let Some(last) = some.last() {
                self.ring().handed(epoch, last.seq);
            }
            if are_all {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands what only this gateway remembers to the recovery that Redis, away as it is, will need: what that
    /// had decided, and the charges that it had not. Holds to be given back expire as this gateway goes. True
    /// where Postgres has it; then nothing is unsettled any more.
    pub async fn hand_over(&self, unsettled: &mut Vec<Operation>) -> bool {
        let handed = async {
            self.hand_over_charges(unsettled).await?;
            self.hand_over_ring().await
        };
        handed.await.unwrap_or_else(|error| {
            tracing::error!(%error, "what only this gateway remembers cannot be handed over");
            false
        })
    }

    async fn hand_over_charges(&self, unsettled: &mut Vec<Operation>) -> Result<(), LedgerError> {
        let owed = self.take_owed();
        let mut charges: Vec<_> = owed.iter().chain(&*unsettled).cloned().collect();
        charges.extend(self.ring().repeated().cloned());
        charges.retain(Operation::is_charge);
        for some in charges.chunks(MAX_BATCH) {
            if let Err(error) = postgres::leave_owed(&self.store, some).await {
                self.owe(owed);
                return Err(error);
            }
        }
        if !charges.is_empty() {
            tracing::warn!(
                charges = charges.len(),
                "Redis cannot be asked; what calls owe is handed over"
            );
        }
        unsettled.clear();
        self.ring().forget_repeated();
        Ok(())
    }

    async fn hand_over_ring(&self) -> Result<bool, LedgerError> {
        let Some(scripts) = self.scripts() else { return Ok(self.ring().is_empty()) };
        let epoch = scripts.epoch.number;
        self.close_epoch();
        self.ring().close(epoch);
        postgres::give_up(&self.store, epoch).await?;
        let is_handed = self.check_in(epoch).await?;
        if is_handed {
            tracing::warn!("Redis is away; what it had decided is handed over");
        }
        Ok(is_handed)
    }

    /// Opens the next epoch; false where that is not for this gateway, or not yet.
    async fn open_next(&self) -> Result<bool, LedgerError> {
        self.redis.info().await?.check()?;
        self.is_unfit.store(false, Ordering::Relaxed);
        let Some(mut recovery) = postgres::begin_recovery(&self.store, self.layout).await? else {
            return Ok(false);
        };
        let Checkpoint { epoch, ref nonce, .. } = recovery.checkpoint;
        let ending = Scripts::new(SHARD, Epoch { number: epoch, nonce: nonce.clone() });
        // Postgres may have been taken back to an earlier epoch: keys of a later one must stay unread.
        let seen = self.redis.marks(&ending).await?.number;
        // Whoever has not heard yet is stopped by Redis itself, if it still has the old script.
        self.redis.fence(&ending).await?;
        if epoch > 0 && recovery.awaits_check_in().await? {
            // It may have an answer of Redis in its hands; by then that is too old.
            tokio::time::sleep(RECOVERY_TAKES).await;
        }
        let survived = self.surviving(&ending, &mut recovery).await?;
        let (replayed, missing) = recovery.replay(survived).await?;
        let charged = recovery.charge_owed(wall_ms()).await?;
        if missing > 0 {
            tracing::error!(
                epoch,
                batches = missing,
                "nobody has these batches: Redis and a gateway were lost at once (at most the unsynced \
                 cap of each account is lost), or Postgres was taken back to an earlier point"
            );
        }
        let number = epoch.max(seen).saturating_add(1);
        let next = Epoch { number, nonce: uuid::Uuid::new_v4().simple().to_string() };
        let scripts = Scripts::new(SHARD, next);
        self.redis.begin(&scripts).await?;
        recovery.open(scripts.epoch.number, &scripts.epoch.nonce, self.layout).await?;
        if let Err(error) = self.redis.drop_earlier(&scripts).await {
            tracing::debug!(%error, "the stream of the epoch before goes with the first batches of this one");
        }
        if epoch > 0 {
            self.metrics.ledger_recoveries.inc();
            tracing::warn!(epoch = number, replayed, charged, "the ledger is recovered");
        }
        Ok(true)
    }

    /// The batches that Redis still has and Postgres does not.
    async fn surviving(
        &self,
        scripts: &Scripts,
        recovery: &mut Recovery,
    ) -> Result<Vec<NumberedBatch>, LedgerError> {
        let mut survived: Vec<NumberedBatch> = Vec::new();
        let (mut from, mut heard) = (recovery.checkpoint.seq, Instant::now());
        loop {
            if heard.elapsed() >= STAY_EVERY {
                recovery.keep_alive().await?;
                heard = Instant::now();
            }
            let checkpoint = &recovery.checkpoint;
            let batches = self.redis.batches(scripts, from, BATCHES).await?;
            let Some(last) = batches.last() else { return Ok(survived) };
            from = last.seq + 1;
            for batch in batches {
                if batch.seq == checkpoint.seq && digest(&batch.text) != checkpoint.digest {
                    tracing::error!("the stream of Redis is another one's; Postgres counts alone");
                    return Ok(Vec::new());
                }
                if batch.seq > checkpoint.seq {
                    survived.push(batch);
                }
            }
        }
    }
}

/// What a batch ended, to be asked once more: by its ids it takes effect once. Its holds are not:
/// whose calls still run, capture late.
fn again(batch: Batch) -> Vec<Operation> {
    let mut operations = Vec::new();
    for decided in batch.decided {
        match decided {
            Decided::Captured { id, account, amount, route, origin, .. } => {
                let account = (origin == Origin::Call).then_some(account);
                operations.push(Operation::Capture { hold: id, account, amount, route, origin });
            }
            Decided::Ended { id, account, origin, ending: Ending::Released, .. } => {
                operations.push(Operation::Release { hold: id, account: Some(account), origin });
            }
            // An expiry comes again by itself, if nothing is captured before.
            Decided::Held { .. } | Decided::Renewed { .. } | Decided::Ended { .. } => {}
        }
    }
    operations
}
