//! What has to be done now and then: the calls of gateways that are gone, accounts that have gone cold,
//! partitions of the months to come, and a look at Redis itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::ledger::crash::CRASHED_KEPT;
use crate::ledger::{LedgerError, wall_ms};
use crate::store::cluster::postgres::{self, CallHold};

use crate::store::cluster::redis::script::tag;
use crate::store::cluster::shared::{Shared, text, texts};

/// How often it looks around.
const EVERY: Duration = Duration::from_secs(2);

/// How often what lasts for hours is done.
const RARELY: Duration = Duration::from_secs(3600);

/// When that is tried again where some of it failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// For how long nothing must have touched an account before it leaves Redis.
const COLD_AFTER: Duration = Duration::from_secs(24 * 3600);

/// For how long Redis must not have heard of a gateway that Postgres has not heard of either.
const SILENT_MS: i64 = 10_000;

/// How long the ending of a call's hold is remembered.
const ENDED_CALLS_KEPT: Duration = Duration::from_secs(48 * 3600);

impl Shared {
    /// Keeps house, until it is stopped. What fails keeps nothing else from being done.
    pub async fn run_janitor(self: Arc<Self>) {
        let mut rarely = Instant::now() + RARELY;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.house.notified() => {}
            }
            is_done("looking at Redis", self.look_at_redis().await);
            is_done("bringing what is held", self.bring_what_was_lost().await);
            is_done("expiring lost calls", self.expire_calls_of_the_gone().await);
            if Instant::now() >= rarely {
                let before = |kept: Duration| {
                    wall_ms().saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX))
                };
                let purged = postgres::purge_ended_holds(
                    &self.store,
                    before(ENDED_CALLS_KEPT),
                    before(CRASHED_KEPT),
                )
                .await;
                let done = [
                    is_done("making partitions", postgres::make_partitions(&self.store).await),
                    is_done("purging", purged),
                    is_done("forgetting epochs", self.forget_epochs().await),
                    is_done("retiring accounts", self.retire(COLD_AFTER).await),
                    // Whom a repair let go of and did not bring again.
                    is_done("bringing what is held", self.bring_held().await),
                ];
                let again = if done == [true; 5] { RARELY } else { RETRY_AFTER };
                rarely = Instant::now() + again;
            }
        }
    }

    /// Refuses a Redis that is too old, or throws away what it has no room for; notes whether it has replicas.
    pub async fn look_at_redis(&self) -> Result<(), LedgerError> {
        let info = self.redis.info().await?;
        let fit = info.check();
        self.is_unfit.store(fit.is_err(), Ordering::Relaxed);
        self.metrics.ledger_redis_memory.set(info.used_memory);
        if info.replicas > 0 {
            self.can_fail_over.store(true, Ordering::Relaxed);
        }
        if let Some(scripts) = self.scripts() {
            // The newest durable batch stays in the stream, so that a fork shows.
            let waiting = self.redis.stream_length(&scripts).await?.saturating_sub(1);
            self.metrics.ledger_outbox.set(waiting.max(0));
        }
        fit.inspect_err(|error| tracing::error!(%error, "new calls get 503"))
    }

    /// Calls of a gateway that has been without a lease for long have ended without a word.
    async fn expire_calls_of_the_gone(&self) -> Result<(), LedgerError> {
        for incarnation in postgres::gone_gateways(&self.store).await? {
            if incarnation == self.incarnation || self.is_heard_of(incarnation).await? {
                continue;
            }
            self.drain().await?;
            // It may have come back meanwhile.
            let calls = postgres::call_holds_of_gone(&self.store, incarnation).await?;
            if calls.is_empty() {
                postgres::remove_gone(&self.store, incarnation).await?;
            }
            self.expire_calls(incarnation, calls);
        }
        Ok(())
    }

    /// True where a gateway without a lease speaks to Redis all the same: it has lost Postgres alone.
    async fn is_heard_of(&self, incarnation: i64) -> Result<bool, LedgerError> {
        let scripts = self.open_scripts()?;
        let args = texts(["silence", &incarnation.to_string()]);
        let silence = self.keep(&scripts, args).await?.as_i64().unwrap_or(-1);
        Ok((0..SILENT_MS).contains(&silence))
    }

    /// Has the holds of a gateway's calls expire with the next sweep, whatever their deadlines say. It may
    /// be there all the same: what its calls capture counts, late.
    pub fn expire_calls(&self, incarnation: i64, calls: Vec<CallHold>) {
        if !calls.is_empty() {
            tracing::warn!(incarnation, calls = calls.len(), "the calls of a lost gateway expire");
        }
        self.lapsed().extend(calls.into_iter().map(|call| (call.id, call.route)));
    }

    /// Lets accounts leave Redis that nothing has touched for `idle`; how many went.
    pub async fn retire(&self, idle: Duration) -> Result<i64, LedgerError> {
        let scripts = self.open_scripts()?;
        let (mut cursor, mut went) = ("0".to_owned(), 0);
        let pattern = format!("{}*", scripts.account_key(""));
        loop {
            let keys;
            (cursor, keys) = self.redis.scan(&cursor, &pattern).await?;
            let mut args = texts(["retire", &idle.as_millis().to_string()]);
            args.extend(keys.iter().map(|key| text(key)));
            went += self.keep(&scripts, args).await?.as_i64().unwrap_or(0);
            if cursor == "0" {
                return Ok(went);
            }
        }
    }

    /// Removes what earlier epochs left in Redis: nobody reads it any more.
    async fn forget_epochs(&self) -> Result<(), LedgerError> {
        let scripts = self.open_scripts()?;
        let tag = tag(0);
        let mut cursor = "0".to_owned();
        loop {
            let mut keys;
            (cursor, keys) = self.redis.scan(&cursor, &format!("{tag}*")).await?;
            keys.retain(|key| is_of_earlier(key, &tag, scripts.epoch.number));
            if !keys.is_empty() {
                self.redis.remove(keys).await?;
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }
}

fn is_done<T>(what: &str, result: Result<T, LedgerError>) -> bool {
    if let Err(error) = &result {
        tracing::debug!(what, %error, "the house is not kept");
    }
    result.is_ok()
}

fn is_of_earlier(key: &str, tag: &str, epoch: i64) -> bool {
    let number = key.strip_prefix(tag).and_then(|rest| rest.split_once(':'));
    number.and_then(|(number, _)| number.parse::<i64>().ok()).is_some_and(|number| number < epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_earlier_epochs_are_removed() {
        let tag = tag(0);
        for (key, goes) in [
            ("{s00}:6:a:alice", true),
            ("{s00}:7:a:alice", false),
            ("{s00}:8:live", false),
            ("{s00}:meta", false),
            ("{s00}:out", false),
            ("6:a:alice", false),
        ] {
            assert_eq!(is_of_earlier(key, &tag, 7), goes, "{key}");
        }
    }
}
