//! The janitor: lets the holds of lost gateways' calls expire, removes idle accounts from Redis, makes the partitions
//! of the coming months, deletes the answers whose time is up, and checks Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::retention;
use crate::ledger::{LedgerError, wall_ms};
use crate::store::cluster::cold_claims;
use crate::store::cluster::kept_stream;
use crate::store::cluster::lost_gateways::Silences;
use crate::store::cluster::postgres;
use crate::store::cluster::redis::connection::{arg, args};
use crate::store::cluster::redis::script::{SHARD, tag};
use crate::store::cluster::shared::Shared;
use crate::store::cluster::warm;

/// The time between two rounds.
const EVERY: Duration = Duration::from_secs(2);

/// The time between two rounds of the upkeep.
const UPKEEP_EVERY: Duration = Duration::from_secs(3600);

/// The time between two deletions of answers whose time is up.
const ANSWERS_EVERY: Duration = Duration::from_secs(60);

/// The time until the next upkeep if a part of the last one failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How long an account must be idle before it is removed from Redis.
const COLD_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Runs until the task is aborted. If one step fails, the others are still done.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut next_purge = Instant::now() + ANSWERS_EVERY;
    let (mut next_upkeep, mut silences) = (Instant::now() + UPKEEP_EVERY, Silences::default());
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shared.wake_janitor.notified() => {}
        }
        is_done("checking Redis", check_redis(&shared).await);
        is_done("trimming the stream", kept_stream::trim(&shared).await);
        is_done("warming after a recovery", warm::warm_after_recovery(&shared).await);
        if shared.epoch.is_unswept()
            && is_done("removing the keys of ended epochs", remove_earlier_epochs(&shared).await)
        {
            shared.epoch.end_sweeping();
        }
        let expired = silences.expire_lost_calls(&shared).await;
        is_done("expiring the calls of lost gateways", expired);
        if Instant::now() >= next_purge {
            is_done("deleting old answers", postgres::purge_answers(&shared.store).await);
            next_purge = Instant::now() + ANSWERS_EVERY;
        }
        if Instant::now() >= next_upkeep {
            let wait = if upkeep(&shared).await { UPKEEP_EVERY } else { RETRY_AFTER };
            next_upkeep = Instant::now() + wait;
        }
    }
}

/// Does the work that is due every hour. Returns false if some of it failed.
async fn upkeep(shared: &Shared) -> bool {
    let before = |kept: Duration| {
        wall_ms().saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX))
    };
    let purged = postgres::purge_ended_holds(
        &shared.store,
        before(retention::ENDED_CALLS),
        before(retention::CRASHED_CALLS),
    )
    .await;
    let now_ms = shared.watch.now_ms();
    let done = [
        is_done("purging claims", postgres::purge_claims(&shared.store, now_ms).await),
        is_done("making partitions", postgres::make_partitions(&shared.store).await),
        is_done("making partitions", postgres::make_answer_partitions(&shared.store).await),
        is_done("making partitions", postgres::make_call_partitions(&shared.store).await),
        is_done("removing the ids of folded calls", postgres::forget_calls(&shared.store).await),
        is_done("purging", purged),
        is_done("removing the keys of earlier epochs", remove_earlier_epochs(shared).await),
        is_done("retiring accounts", retire(shared, COLD_AFTER).await),
        // A repair may have removed accounts from Redis, and been interrupted before it loaded them
        // again.
        is_done("warming accounts with live holds", warm::warm_held_accounts(shared).await),
        is_done("loading claims", cold_claims::load_all_if_cold(shared).await),
    ];
    done == [true; 10]
}

/// Records whether Redis is fit for a ledger, whether it has replicas, and the numbers for the
/// metrics.
///
/// # Errors
/// Fails if Redis does not reply, is too old, or evicts keys. New calls get 503 then.
pub(crate) async fn check_redis(shared: &Shared) -> Result<(), LedgerError> {
    let info = shared.redis.info().await?;
    let fit = info.check();
    shared.intake.note_fitness(fit.is_ok());
    shared.metrics.ledger_redis_memory.set(info.used_memory);
    if info.replicas > 0 {
        shared.lease.note_replica();
    }
    if let Some(scripts) = shared.epoch.scripts() {
        let meta = shared.redis.meta(&scripts).await?;
        shared.metrics.ledger_outbox.set(meta.newest.saturating_sub(meta.durable).max(0));
    }
    if info.is_nearly_full() {
        kept_stream::give_back(shared).await?;
    }
    fit.inspect_err(|error| tracing::error!(%error, "new calls get 503"))
}

/// Removes from Redis the accounts that have been idle for at least `idle`. Returns how many it
/// removed.
pub(crate) async fn retire(shared: &Shared, idle: Duration) -> Result<i64, LedgerError> {
    let scripts = shared.epoch.require()?;
    let (mut cursor, mut removed) = ("0".to_owned(), 0);
    let pattern = format!("{}*", scripts.account_key(""));
    loop {
        let keys;
        (cursor, keys) = shared.redis.scan(&cursor, &pattern).await?;
        let mut words = args(["retire", &idle.as_millis().to_string()]);
        words.extend(keys.iter().map(|key| arg(key)));
        removed += shared.maintain(&scripts, words).await?.as_i64().unwrap_or(0);
        if cursor == "0" {
            return Ok(removed);
        }
    }
}

/// Removes the keys of earlier epochs from Redis. No gateway reads them any more.
async fn remove_earlier_epochs(shared: &Shared) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    let tag = tag(SHARD);
    let mut cursor = "0".to_owned();
    loop {
        let mut keys;
        (cursor, keys) = shared.redis.scan(&cursor, &format!("{tag}*")).await?;
        keys.retain(|key| is_of_earlier_epoch(key, &tag, scripts.epoch.number));
        if !keys.is_empty() {
            shared.redis.remove(keys).await?;
        }
        if cursor == "0" {
            return Ok(());
        }
    }
}

fn is_done<T>(step: &str, result: Result<T, LedgerError>) -> bool {
    if let Err(error) = &result {
        tracing::debug!(step, %error, "a step of the janitor failed; it is tried again");
    }
    result.is_ok()
}

fn is_of_earlier_epoch(key: &str, tag: &str, epoch: i64) -> bool {
    let number = key.strip_prefix(tag).and_then(|rest| rest.split_once(':'));
    number.and_then(|(number, _)| number.parse::<i64>().ok()).is_some_and(|number| number < epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_earlier_epochs_are_removed() {
        let tag = tag(SHARD);
        for (key, goes) in [
            ("{s00}:6:a:alice", true),
            ("{s00}:7:a:alice", false),
            ("{s00}:8:live", false),
            ("{s00}:meta", false),
            ("{s00}:out", false),
            ("6:a:alice", false),
        ] {
            assert_eq!(is_of_earlier_epoch(key, &tag, 7), goes, "{key}");
        }
    }
}
