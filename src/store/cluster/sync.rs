//! The sync between the stores: it writes the batches that Redis decided into Postgres, and applies
//! decisions of Postgres in Redis.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fred::types::Value;
use futures_util::future::join_all;

use crate::ledger::LedgerError;
use crate::ledger::config::Durability;
use crate::store::cluster::adaptive::{chunks_within, fitting};
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::compare;
use crate::store::cluster::locked_row;
use crate::store::cluster::postgres::{
    self, Appended, Checkpoint, Delivery, NumberedBatch, Written, digest,
};
use crate::store::cluster::redis::connection::args;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;

/// The number of deliveries that are read from Postgres at once.
const DELIVERIES: i64 = 500;

/// The number of batches in which a repair looks for the account whose row is locked.
const FIRST_UNWRITTEN: u64 = 16;

/// The time limit of a sync that no call waits for.
pub(crate) const NO_HURRY: Duration = Duration::from_secs(60);

/// The time limit of a sync for an account that a repair removed from Redis.
pub(crate) const IN_TIME: Duration = Duration::from_millis(500);

/// How often an operation that waits for a sync looks whether another gateway has written the batches, or a locked row
/// keeps them back.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The time between two attempts to write batches while a row is locked.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How long a batch that must be durable waits for the batches before it.
pub(crate) const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// The most that a stop appends in one statement: the text in bytes, and the number of batches. A large batch of `strict`
/// has as much text, and Postgres allows 1,664 columns.
pub(crate) const MAX_APPEND: usize = 256 << 10;
pub(crate) const MOST_APPENDED: usize = 1024;

/// Makes all decisions of Redis so far durable. With a long backlog this may take long. While a row is locked, or another
/// gateway writes, the batches are tried again for at most two seconds: a write waits for a row only a short time, and the
/// row may just be busy.
///
/// # Errors
/// [`LedgerError::RowLocked`] if another transaction keeps a row locked for longer.
pub(crate) async fn sync(shared: &Shared) -> Result<(), LedgerError> {
    let began = Instant::now();
    loop {
        match sync_within(shared, NO_HURRY).await {
            Err(LedgerError::RowLocked | LedgerError::Behind)
                if began.elapsed() < WRITTEN_WITHIN =>
            {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            // Another task has written meanwhile, and waits for the row.
            Err(LedgerError::Behind) if shared.stuck.are_left(shared.redo.checkpoint()) => {
                return Err(LedgerError::RowLocked);
            }
            synced => return synced,
        }
    }
}

/// Makes all decisions of Redis so far durable.
///
/// # Errors
/// [`LedgerError::Behind`] if there was not enough time. The batches that were written stay
/// written.
pub(crate) async fn sync_within(shared: &Shared, limit: Duration) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    let known = shared.redo.durable(scripts.epoch.number);
    let (newest, durable) = announce_checkpoint(shared, &scripts, known).await?;
    if newest <= durable {
        return Ok(());
    }
    let synced = sync_up_to(shared, &scripts, newest, limit).await;
    if shared.redo.durable(scripts.epoch.number) > durable {
        // The other gateways learn from Redis that the batches are durable.
        announce_durable(shared, &scripts).await?;
    }
    synced
}

/// Waits until all decisions of Redis so far are durable, for an operation that needs them in Postgres. They are written
/// by the gateway's rounds (`rounds`), so that a write goes on where this wait ends.
///
/// # Errors
/// [`LedgerError::Behind`] if there was not enough time.
pub(crate) async fn catch_up(shared: &Shared, limit: Duration) -> Result<(), LedgerError> {
    wait_until_synced(shared, limit, || false).await
}

/// The same as [`catch_up`], for an operation that others wait for. It does not wait while a locked row is known to keep
/// the batches back.
///
/// # Errors
/// [`LedgerError::Behind`] if there was not enough time, or if a row is locked.
pub(crate) async fn catch_up_unless_stuck(
    shared: &Shared,
    limit: Duration,
) -> Result<(), LedgerError> {
    wait_until_synced(shared, limit, || shared.stuck.are_left(shared.redo.checkpoint())).await
}

async fn wait_until_synced(
    shared: &Shared,
    limit: Duration,
    gives_up: impl Fn() -> bool,
) -> Result<(), LedgerError> {
    let until = Instant::now() + limit;
    if gives_up() {
        return Err(LedgerError::Behind);
    }
    let scripts = shared.epoch.require()?;
    let known = shared.redo.durable(scripts.epoch.number);
    let (newest, _) = announce_checkpoint(shared, &scripts, known).await?;
    let mut asked: Option<Instant> = None;
    loop {
        let written = shared.written.notified();
        if is_known_durable(shared, &scripts, newest) {
            return Ok(());
        }
        shared.require_postgres()?;
        if gives_up() || Instant::now() >= until {
            return Err(LedgerError::Behind);
        }
        if shared.epoch.number() != Some(scripts.epoch.number) {
            return Err(LedgerError::Slow { what: "the next epoch of Redis" });
        }
        if asked.is_none_or(|at| at.elapsed() >= AGAIN_AFTER) {
            asked = Some(Instant::now());
            shared.wake_rounds.notify_one();
        }
        // A write by another gateway wakes nobody here.
        let _ = tokio::time::timeout(LOOK_EVERY, written).await;
    }
}

/// The accounts that the first batches charge which Postgres does not have. If a locked row keeps these batches back, it
/// is the row of one of them.
pub(crate) async fn first_unwritten_charges(
    shared: &Shared,
    scripts: &Scripts,
) -> Result<BTreeSet<String>, LedgerError> {
    let checkpoint = postgres::checkpoint(&shared.store).await?;
    let batches = shared.redis.batches(scripts, checkpoint.seq + 1, FIRST_UNWRITTEN).await?;
    let batches = batches.iter().filter_map(|batch| Batch::parse(&batch.text));
    let charged = batches.flat_map(|batch| batch.decided).filter_map(|decided| match decided {
        Decided::Captured { account, .. } => Some(account.as_str().to_owned()),
        _ => None,
    });
    Ok(charged.collect())
}

/// Makes durable the batches of this epoch up to `seq`. No step begins after `limit`.
///
/// # Errors
/// [`LedgerError::Behind`] if there was not enough time. The batches that were written stay
/// written.
pub(crate) async fn sync_up_to(
    shared: &Shared,
    scripts: &Scripts,
    seq: i64,
    limit: Duration,
) -> Result<(), LedgerError> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if is_known_durable(shared, scripts, seq) {
            return Ok(());
        }
        let checkpoint = postgres::checkpoint(&shared.store).await?;
        if checkpoint.epoch != scripts.epoch.number || checkpoint.recovering {
            shared.epoch.wake_heartbeat.notify_one();
            return Err(LedgerError::Slow { what: "the next epoch of Redis" });
        }
        if checkpoint.seq >= seq {
            shared.redo.trim(scripts.epoch.number, checkpoint.seq);
            return Ok(());
        }
        let batches = read_stream(shared, scripts, &checkpoint).await?;
        let mut rest = &batches[..];
        while !rest.is_empty() && began.elapsed() < limit {
            let fit = fitting(rest, shared.write_size.get(), |batch| batch.text.len());
            let (some, others) = rest.split_at(fit);
            let started = Instant::now();
            match write_batches(shared, scripts, some).await {
                Ok(true) => shared.write_size.grow(started.elapsed()),
                // Another syncer has written, so the checkpoint is read again.
                Ok(false) => break,
                // Another task or gateway writes, and nothing was tried.
                Err(LedgerError::Behind) => return Err(LedgerError::Behind),
                Err(error) => {
                    if matches!(error, LedgerError::RowLocked)
                        && let Some(batch) = some.last()
                    {
                        let newest = (scripts.epoch.number, batch.seq);
                        shared.stuck.note(newest, shared.redo.checkpoint());
                        if shared.stuck.are_news() {
                            Box::pin(locked_row::tell_of_batches(shared)).await;
                        }
                    }
                    shared.write_size.shrink(some.iter().map(|batch| batch.text.len()).sum());
                    return Err(error);
                }
            }
            rest = others;
        }
    }
    if is_known_durable(shared, scripts, seq) { Ok(()) } else { Err(LedgerError::Behind) }
}

/// Whether Postgres is known to have the batches up to `seq` in its tables.
fn is_known_durable(shared: &Shared, scripts: &Scripts, seq: i64) -> bool {
    let (epoch, durable) = shared.redo.checkpoint();
    epoch == scripts.epoch.number && durable >= seq
}

/// Writes batches into Postgres, if they continue the checkpoint. Returns whether they are durable.
pub(crate) async fn write_batches(
    shared: &Shared,
    scripts: &Scripts,
    batches: &[NumberedBatch],
) -> Result<bool, LedgerError> {
    let Some(last) = batches.last() else { return Ok(true) };
    let Ok(Ok(_place)) = tokio::time::timeout(WRITTEN_WITHIN, shared.writing.acquire()).await
    else {
        return Err(LedgerError::Behind);
    };
    if is_known_durable(shared, scripts, last.seq) {
        return Ok(true);
    }
    let started = Instant::now();
    match postgres::write_batches(&shared.store, scripts.epoch.number, batches).await? {
        Written::Upto(seq) => {
            shared.metrics.ledger_commit_seconds.observe(started.elapsed().as_secs_f64());
            let epoch = scripts.epoch.number;
            let texts = batches.iter().filter(|batch| batch.seq <= seq).map(|batch| &batch.text);
            let bytes: usize = texts.map(String::len).sum();
            shared.kept.wrote((epoch, seq), bytes as u64, Instant::now());
            shared.redo.trim(epoch, seq);
            shared.written.notify_waiters();
            Ok(seq >= last.seq)
        }
        Written::ByAnother => Ok(false),
    }
}

/// Appends batches, which is what `strict` promises: after this, a loss of Redis does not lose them. In `relaxed` a gateway
/// does so at a stop, with batches that cannot be folded.
///
/// # Errors
/// Fails if the epoch has ended, or if a gateway is about to end it.
pub(crate) async fn append(
    shared: &Shared,
    scripts: &Scripts,
    batches: &[NumberedBatch],
) -> Result<(), LedgerError> {
    let started = Instant::now();
    let appended = postgres::append(&shared.store, &scripts.epoch, batches).await;
    let appended = appended.inspect_err(|error| {
        // In `relaxed` no call waits for this.
        if shared.settings.durability == Durability::Strict {
            shared.writes.note_refused(error, batches);
        }
    })?;
    match appended {
        Appended::Durable => {
            shared.metrics.ledger_commit_seconds.observe(started.elapsed().as_secs_f64());
            Ok(())
        }
        Appended::Refused => {
            shared.epoch.wake_heartbeat.notify_one();
            Err(LedgerError::Slow { what: "the next epoch of Redis" })
        }
        Appended::Forked => {
            let what = "it has another batch than was appended under one number";
            Err(forked(shared, scripts, what))
        }
    }
}

/// Appends the batches of the stream after the checkpoint, up to `seq`.
///
/// # Errors
/// [`LedgerError::Behind`] if there was not enough time, or if the stream does not have them all.
pub(crate) async fn append_stream(
    shared: &Shared,
    scripts: &Scripts,
    seq: i64,
    limit: Duration,
) -> Result<(), LedgerError> {
    let began = Instant::now();
    let mut after = postgres::checkpoint(&shared.store).await?;
    if after.epoch != scripts.epoch.number || after.recovering {
        shared.epoch.wake_heartbeat.notify_one();
        return Err(LedgerError::Slow { what: "the next epoch of Redis" });
    }
    while after.seq < seq {
        let batches = read_stream(shared, scripts, &after).await?;
        let follow = batches.iter().zip(after.seq + 1..).all(|(batch, next)| batch.seq == next);
        let Some(last) = batches.last().filter(|_| follow) else {
            return Err(LedgerError::Behind);
        };
        let (epoch, first) = (scripts.epoch.number, after.seq + 1);
        (after.seq, after.digest) = (last.seq, digest(&last.text));
        // An earlier attempt may have had too little time, and in `strict` the other gateways append theirs.
        let appended = postgres::appended(&shared.store, epoch, first, after.seq).await?;
        let missing: Vec<_> =
            batches.into_iter().filter(|batch| !appended.contains(&batch.seq)).collect();
        for some in chunks_within(&missing, MOST_APPENDED, MAX_APPEND, |batch| batch.text.len()) {
            if began.elapsed() >= limit {
                return Err(LedgerError::Behind);
            }
            append(shared, scripts, some).await?;
        }
    }
    Ok(())
}

/// Reads the batches after the checkpoint. The batch of the checkpoint itself is usually still in the stream. If the
/// stream has another text for that batch, the stream and Postgres have forked.
async fn read_stream(
    shared: &Shared,
    scripts: &Scripts,
    checkpoint: &Checkpoint,
) -> Result<Vec<NumberedBatch>, LedgerError> {
    let limit = u64::try_from(shared.read_size.get()).unwrap_or(u64::MAX);
    let mut batches = shared.redis.batches(scripts, checkpoint.seq, limit).await?;
    shared.read_size.note(batches.len(), batches.iter().map(|batch| batch.text.len()).sum());
    let own = batches.first().filter(|batch| batch.seq == checkpoint.seq);
    if own.is_some_and(|batch| digest(&batch.text) != checkpoint.digest) {
        let what = "it has another batch than Postgres under one number";
        return Err(forked(shared, scripts, what));
    }
    if own.is_none() && !batches.is_empty() {
        // Nothing in these batches tells whose they are, and the connection may lead to another Redis by now. This
        // command is refused there. The future is boxed, because it is large and rarely needed.
        Box::pin(announce_durable(shared, scripts)).await?;
    }
    batches.retain(|batch| batch.seq > checkpoint.seq);
    let follows = batches.first().is_none_or(|batch| batch.seq == checkpoint.seq + 1);
    if !follows && postgres::checkpoint(&shared.store).await? == *checkpoint {
        let what = "it lacks a batch that Postgres does not have";
        return Err(forked(shared, scripts, what));
    }
    Ok(batches)
}

fn forked(shared: &Shared, scripts: &Scripts, what: &str) -> LedgerError {
    tracing::error!(
        what,
        "the stream of Redis contradicts Postgres, so the epoch ends and a recovery begins from Postgres: one of the \
         two was taken back to an earlier point"
    );
    shared.data_lost(scripts.epoch.number);
    LedgerError::Corrupt { what: format!("the stream of Redis: {what}") }
}

/// Tells Redis the newest batch that Postgres is known to have.
pub(crate) async fn announce_durable(
    shared: &Shared,
    scripts: &Scripts,
) -> Result<(), LedgerError> {
    let known = shared.redo.durable(scripts.epoch.number);
    announce_checkpoint(shared, scripts, known).await.map(drop)
}

/// Tells Redis that Postgres has the batches up to `durable`, and that this gateway is alive.
/// Returns the newest batch and the newest durable one.
async fn announce_checkpoint(
    shared: &Shared,
    scripts: &Scripts,
    durable: i64,
) -> Result<(i64, i64), LedgerError> {
    let (durable, owner) = (durable.to_string(), shared.settings.incarnation.to_string());
    let reply = shared.maintain(scripts, args(["durable", &durable, &owner])).await?;
    let (newest, durable) = reply.convert()?;
    shared.redo.trim(scripts.epoch.number, durable);
    shared.syncer.note(scripts.epoch.number, newest, durable);
    Ok((newest, durable))
}

/// Applies the decisions of Postgres in Redis: grants, refunds, freezes. Each takes effect once,
/// however often it is delivered. Returns the accounts for which Redis has applied other decisions than Postgres has.
pub(crate) async fn deliver(shared: &Shared) -> Result<BTreeSet<String>, LedgerError> {
    let mut differing = BTreeSet::new();
    loop {
        let waiting = postgres::deliveries(&shared.store, DELIVERIES).await?;
        if waiting.is_empty() {
            return Ok(differing);
        }
        let scripts = shared.epoch.require()?;
        // All deliveries are sent in order before the first reply is read. If a delivery arrives
        // before an earlier one of the same account, it is not applied, and is sent again later.
        let sent = waiting.iter().map(|delivery| deliver_one(shared, &scripts, delivery));
        let mut applied: Vec<Delivery> = Vec::new();
        for (delivery, heard) in waiting.iter().zip(join_all(sent).await) {
            match heard? {
                Heard::Applied => applied.push(delivery.clone()),
                Heard::Waits => {}
                Heard::Differs => drop(differing.insert(delivery.account.clone())),
            }
        }
        postgres::remove_deliveries(&shared.store, &applied).await?;
        if applied.len() < waiting.len() {
            // The remaining deliveries wait for an earlier one of their account, which another
            // gateway is sending.
            return Ok(differing);
        }
    }
}

/// The reply of Redis to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// The delivery is applied.
    Applied,
    /// The account lacks an earlier delivery.
    Waits,
    /// Redis has applied another change under its number, or later changes that Postgres does not have.
    Differs,
}

async fn deliver_one(
    shared: &Shared,
    scripts: &Scripts,
    delivery: &Delivery,
) -> Result<Heard, LedgerError> {
    let (number, amount) = (delivery.grant_seq.to_string(), delivery.amount.to_string());
    let frozen = if delivery.frozen { "1" } else { "0" };
    let mut words = args(["deliver", &delivery.account, &number, &amount, frozen]);
    let digests = [&delivery.before, &delivery.digest];
    words.extend(digests.map(|digest| Value::Bytes(digest.clone().into())));
    match shared.maintain(scripts, words).await?.convert::<i64>()? {
        1 => Ok(Heard::Applied),
        2 => Ok(Heard::Differs),
        // Usually another gateway has delivered this change and later ones meanwhile.
        3 if compare::is_behind(shared, scripts, &delivery.account).await? => Ok(Heard::Differs),
        3 => Ok(Heard::Applied),
        _ => Ok(Heard::Waits),
    }
}
